"""Prescreening: of many offspring, evaluate the one that a surrogate prefers.

The paper's evolution forgets all but the last population. Here Gaussian processes over phenotypes,
fitted to all trials, stand in for the training: for each proposal one function is drawn from their
posterior, offspring of the best individuals are bred in their hundreds, and the one that is best by
this draw is proposed (Thompson sampling). The draws differ as far as the surrogate is unsure, so
that proposals explore what is not known, and workers in parallel do not propose the same.

References:
    Thompson, "On the likelihood that one unknown probability exceeds another in view of the
    evidence of two samples", Biometrika 25, 1933.
    Knowles, "ParEGO", IEEE Transactions on Evolutionary Computation 10, 2006, for the random
    weights of several objectives.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from optuna_biotune.encoding import Encoding
from optuna_biotune.evidence import Evidence
from optuna_biotune.evolution import FloatArray, IntArray, random_individual
from optuna_biotune.gaussian_process import GaussianProcess
from optuna_biotune.phenotypes import Group, canonical, features, inherited, mutated

_N_PARENTS = 10
_N_MUTATED_PARENTS = 5
_N_RANDOM, _N_INHERITED, _N_MUTATED = 16, 64, 64
_N_INHERITED_AGAIN = 32

# Weight of the sum of objectives beside the greatest (ParEGO, eq. 2).
_SUM_WEIGHT = 0.05


class Surrogate:
    """What evaluations are expected to give, for any individual.

    Args:
        evidence: At least one evaluated individual.
        encoding: What genes and choices mean.
    """

    def __init__(self, evidence: Evidence, encoding: Encoding) -> None:
        self._encoding = encoding
        places = self.features_of(evidence.genes, evidence.choices)
        pending = self.features_of(evidence.pending_genes, evidence.pending_choices)
        self.losses = [
            GaussianProcess(places, column, pending=pending) for column in evidence.losses.T
        ]
        self.violation = (
            GaussianProcess(places, evidence.violations, pending=pending)
            if (evidence.violations > 0.0).any()
            else None
        )

    def features_of(self, genes: FloatArray, choices: IntArray) -> FloatArray:
        """Return what individuals express, shape [n, features]."""
        return features(genes, choices, self._encoding.n_options, self._encoding.layout)

    def mean(self, places: FloatArray) -> Outlook:
        """Return what is expected of individuals with these features."""
        violation = None if self.violation is None else self.violation.mean(places)
        return Outlook(np.stack([one.mean(places) for one in self.losses], axis=1), violation)

    def draw(self, places: FloatArray, rng: np.random.Generator) -> Outlook:
        """Draw one possibility of what individuals with these features come to."""
        losses = np.stack([one.draw(places, rng)[0] for one in self.losses], axis=1)
        violation = None if self.violation is None else self.violation.draw(places, rng)[0]
        return Outlook(losses, violation)


@dataclass(frozen=True)
class Outlook:
    """What individuals may come to.

    Attributes:
        losses: To be minimised, shape [n, objectives].
        violation: Sums of constraint violations, shape [n]; None if no trial violated any.
    """

    losses: FloatArray
    violation: FloatArray | None


@dataclass(frozen=True)
class Preference:
    """Puts several objectives and constraints in one order.

    Attributes:
        weights: Weight of each objective, shape [objectives].
        least: Least loss seen of each objective.
        width: Difference of the greatest loss seen to it.
        tolerance: Violation up to which an individual counts as feasible.
    """

    weights: FloatArray
    least: FloatArray
    width: FloatArray
    tolerance: float

    @classmethod
    def drawn(cls, evidence: Evidence, rng: np.random.Generator) -> Preference:
        """Draw the weights of the objectives uniformly among those that sum to 1."""
        raw = -np.log(1.0 - rng.random(evidence.losses.shape[1]))
        width = np.maximum(np.ptp(evidence.losses, axis=0), np.finfo(float).tiny)
        # A regression is never exactly zero.
        tolerance = 0.01 * float(evidence.violations.max(initial=0.0))
        return cls(raw / raw.sum(), evidence.losses.min(axis=0), width, tolerance)

    def order(self, outlook: Outlook) -> IntArray:
        """Return row numbers, best first: the feasible before the others."""
        weighted = self.weights * (outlook.losses - self.least) / self.width
        cost = weighted.max(axis=1) + _SUM_WEIGHT * weighted.sum(axis=1)
        if outlook.violation is None:
            return np.argsort(cost, kind="stable")
        excess = np.maximum(outlook.violation - self.tolerance, 0.0)
        return np.lexsort((cost, excess))


@dataclass(frozen=True)
class Prescreener:
    """Breeds candidates from a study's evidence, and puts them in order.

    Attributes:
        evidence: At least one evaluated individual.
        encoding: What genes and choices mean.
    """

    evidence: Evidence
    encoding: Encoding

    @cached_property
    def surrogate(self) -> Surrogate:
        """The surrogate, fitted to the evidence."""
        return Surrogate(self.evidence, self.encoding)

    def candidates(self, rng: np.random.Generator) -> Group:
        """Return candidates for evaluation, best first by one draw from the surrogate.

        Args:
            rng: Source of all draws.
        """
        preference = Preference.drawn(self.evidence, rng)
        evaluated = Group(
            canonical(self.evidence.genes, self.encoding.layout),
            self.evidence.choices,
            np.stack([self.evidence.numbers] * 2, axis=1),
        )
        expected = self.surrogate.mean(self._features(evaluated))
        parents = evaluated.take(preference.order(expected)[:_N_PARENTS])
        first = Group.joined(self._random(rng), self._bred(rng, parents, _N_INHERITED))
        parents = self._ordered(rng, first, preference).take(np.arange(_N_PARENTS))
        again = Group.joined(parents, self._bred(rng, parents, _N_INHERITED_AGAIN))
        return self._ordered(rng, again, preference)

    def _bred(self, rng: np.random.Generator, parents: Group, n_inherited: int) -> Group:
        layout, n_options = self.encoding.layout, self.encoding.n_options
        best = parents.take(np.arange(min(_N_MUTATED_PARENTS, len(parents))))
        return Group.joined(
            inherited(rng, parents, n_inherited, layout),
            mutated(rng, best, _N_MUTATED, n_options, layout),
        )

    def _random(self, rng: np.random.Generator) -> Group:
        genes = [random_individual(rng, self.encoding.layout) for _ in range(_N_RANDOM)]
        choices = [self.encoding.random_choices(rng) for _ in range(_N_RANDOM)]
        return Group(
            canonical(np.asarray(genes), self.encoding.layout),
            np.asarray(choices).reshape(_N_RANDOM, self.encoding.n_choices),
            np.full((_N_RANDOM, 2), -1),
        )

    def _ordered(self, rng: np.random.Generator, group: Group, preference: Preference) -> Group:
        outlook = self.surrogate.draw(self._features(group), rng)
        return group.take(preference.order(outlook))

    def _features(self, group: Group) -> FloatArray:
        return self.surrogate.features_of(group.genes, group.choices)
