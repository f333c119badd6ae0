"""The next individual: the evolution's state and stored parameters in, a tag and parameters out."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from optuna_biotune import evolution
from optuna_biotune.encoding import Encoding
from optuna_biotune.evidence import Evidence
from optuna_biotune.evolution import FloatArray, IntArray
from optuna_biotune.generations import EvolutionState, Individual
from optuna_biotune.genotype import FineTuningPlan
from optuna_biotune.prescreen import Prescreener
from optuna_biotune.tags import ELITE_ROLES, Role, Tag

# How often an individual that expresses the same as an earlier one is drawn again. In a continuous
# space the second draw is new; a space of few values may have no new one.
_MAX_REDRAWS = 20

# A remembered change of genes that weighs less than this is forgotten.
_LEAST_MEMORY = 1e-3

Genotype = tuple[FloatArray, IntArray]
Proposal = tuple[Tag, dict[str, Any]]


@dataclass(frozen=True)
class Breeder:
    """Proposes individuals for one state of the evolution.

    Attributes:
        state: Where the evolution stands.
        trials: All trials of the study, by number.
        encoding: Parameters to genes and back.
        known: Phenotypes of the earlier trials, which are not proposed again, with the number of
            the first trial that has it.
        elite_step: Greatest step of elite exploitation.
        momentum: Weight of the remembered changes of genes; 0 leaves them out.
        pair_seed: Seed of the elites' steps, the same for all workers of a study.
    """

    state: EvolutionState
    trials: Sequence[FrozenTrial]
    encoding: Encoding
    known: Mapping[tuple[Any, ...], int]
    elite_step: float
    momentum: float
    pair_seed: int
    _memories: dict[tuple[int, float], FloatArray] = field(default_factory=dict, repr=False)

    def propose(self, rng: np.random.Generator) -> Proposal:
        """Propose what the open generation needs next: random ones, then halves, then offspring."""
        if self.state.generation == 0 or self.encoding.is_empty:
            return self.random(rng)
        for elite, role in self.state.open_halves:
            params = self._half(elite, role)
            if params is not None:
                return Tag(self.state.generation, role, (elite.number,)), params
        return self.offspring(rng)

    def offspring(self, rng: np.random.Generator) -> Proposal:
        """Propose an offspring; a fresh random individual if the mating pool is exhausted."""
        pool = self.state.pool
        if evolution.pool_is_exhausted(len(pool)):
            return self._random(rng, "fresh")
        return self._first_new(lambda: self._bred(rng, pool))

    def random(self, rng: np.random.Generator) -> Proposal:
        """Propose a random individual."""
        return self._random(rng, "initial" if self.state.generation == 0 else "fresh")

    def baseline(self, rng: np.random.Generator, plan: FineTuningPlan) -> Proposal:
        """Propose a usual plan; a random individual if the search space lacks some of it.

        Args:
            rng: Source of the parameters beside the plan.
            plan: The plan.
        """
        params = plan.to_params()
        if not params.keys() <= self.encoding.names:
            return self.random(rng)
        beside = self.encoding.decode(*self.encoding.random(rng))
        return Tag(self.state.generation, "baseline"), {**beside, **params}

    def prescreened(self, rng: np.random.Generator, evidence: Evidence) -> Proposal:
        """Propose the best of many offspring, by a surrogate of what has been evaluated."""
        candidates = Prescreener(evidence, self.encoding).candidates(rng)
        for row in range(len(candidates)):
            params = self.encoding.decode(candidates.genes[row], candidates.choices[row])
            if self.encoding.phenotype(params) not in self.known:
                return self._descendant(candidates.parents[row]), params
        return self.random(rng)

    def _descendant(self, parents: IntArray) -> Tag:
        known = sorted({int(number) for number in parents if number >= 0})
        if not known:
            return Tag(self.state.generation, "fresh")
        role: Role = "offspring" if len(known) == 2 else "mutant"
        return Tag(self.state.generation, role, tuple(known))

    def _random(self, rng: np.random.Generator, role: Role) -> Proposal:
        def draw() -> tuple[Tag, Genotype]:
            genes = evolution.random_individual(rng, self.encoding.layout)
            return Tag(self.state.generation, role), (genes, self.encoding.random_choices(rng))

        return self._first_new(draw)

    def _first_new(self, draw: Callable[[], tuple[Tag, Genotype]]) -> Proposal:
        for _ in range(_MAX_REDRAWS):
            tag, genotype = draw()
            params = self.encoding.decode(*genotype)
            if self.encoding.phenotype(params) not in self.known:
                break
        return tag, params

    def _bred(self, rng: np.random.Generator, pool: Sequence[Individual]) -> tuple[Tag, Genotype]:
        while True:
            mates = evolution.draw_mates(rng, len(pool))
            first, second = pool[mates.first], pool[mates.second]
            (genes_1, choices_1), (genes_2, choices_2) = map(
                self._genotype, (first.number, second.number)
            )
            extinction = 0.5 * (first.extinction + second.extinction)
            if first.merit.has_several_objectives:
                genes = evolution.front_offspring(rng, genes_1, genes_2, extinction)
            else:
                prototype, _ = self._genotype(pool[mates.prototype].number)
                drift = self._drift((first.number, second.number))
                genes = evolution.offspring(rng, genes_1, genes_2, prototype, extinction, drift)
            if evolution.selects_a_block(genes, self.encoding.layout):
                choices = evolution.inherit_choices(rng, choices_1, choices_2)
                tag = Tag(self.state.generation, "offspring", (first.number, second.number))
                return tag, (genes, choices)

    def _half(self, elite: Individual, role: Role) -> dict[str, Any] | None:
        """Return one half of an elite's pair; None if no step leads to something new.

        Whoever proposes the other half draws the same pair: nothing decides it but the elite, the
        generation, the shared seed, and what other trials than the pair's own had expressed.
        """
        genes, choices = self._genotype(elite.number)
        rng = np.random.default_rng(
            [self.pair_seed, self.state.generation, _checksum(self.trials[elite.number].params)]
        )
        for _ in range(_MAX_REDRAWS):
            pair = evolution.elite_pair(rng, genes, self.encoding.layout, self.elite_step)
            if pair is None:
                return None
            halves = [self.encoding.decode(half, choices) for half in pair]
            if all(self._is_new_for(elite, half) for half in halves):
                return halves[ELITE_ROLES.index(role)]
        return None

    def _is_new_for(self, elite: Individual, half: dict[str, Any]) -> bool:
        first = self.known.get(self.encoding.phenotype(half))
        if first is None:
            return True
        tag = Tag.of(self.trials[first])
        return tag is not None and tag.is_half_of(elite.number, self.state.generation)

    def _genotype(self, number: int) -> Genotype:
        # A parameter that the trial lacks gets the same random value whoever asks for it.
        return self.encoding.encode(
            self.trials[number].params, np.random.default_rng([self.pair_seed, number])
        )

    def _drift(self, parents: tuple[int, int]) -> FloatArray | None:
        if self.momentum == 0.0:
            return None
        return self.momentum * self._mean_memory(parents, self.momentum)

    def _mean_memory(self, numbers: Sequence[int], weight: float) -> FloatArray:
        for number in numbers:
            # A pedigree reaches the same ancestors along ever more ways.
            if (number, weight) not in self._memories:
                self._memories[number, weight] = self._memory(number, weight)
        memories = [self._memories[number, weight] for number in numbers]
        mean: FloatArray = np.mean(memories, axis=0)
        return mean

    def _memory(self, number: int, weight: float) -> FloatArray:
        """Return a decayed sum of the changes of genes that led to an individual.

        An individual's own change is its distance from the mean of its parents; to that comes,
        times the momentum, the mean memory of the parents.
        """
        tag = Tag.of(self.trials[number])
        genes = self._genotype(number)[0]
        if tag is None or not tag.parents or weight < _LEAST_MEMORY:
            return np.zeros_like(genes)
        if max(tag.parents) >= len(self.trials):  # copied from another study
            return np.zeros_like(genes)
        origin = np.mean([self._genotype(parent)[0] for parent in tag.parents], axis=0)
        inherited = self._mean_memory(tag.parents, weight * self.momentum)
        memory: FloatArray = genes - origin + self.momentum * inherited
        return memory


def _checksum(params: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(params, sort_keys=True, default=str).encode())
