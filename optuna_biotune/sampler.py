"""BioTuneSampler: the evolution of :mod:`optuna_biotune.evolution` as an Optuna sampler."""

from __future__ import annotations

import secrets
import threading
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from optuna_biotune import _compat
from optuna_biotune.baselines import next_baseline
from optuna_biotune.breeding import Breeder, Proposal
from optuna_biotune.encoding import Encoding
from optuna_biotune.genotype import IMPORTANCE_PREFIX, THRESHOLD_NAME, FineTuningPlan, block_names
from optuna_biotune.recommendation import best_plan
from optuna_biotune.study_reader import StudyReader
from optuna_biotune.tags import TAG_KEY, Tag

# Evaluated individuals that a surrogate needs before it is worth asking.
_LEAST_EVIDENCE = 8


class BioTuneSampler(BaseSampler):
    """Propose fine-tuning plans by BioTune's evolution, prescreened by a surrogate.

    Made for the parameters of :func:`optuna_biotune.suggest_plan`: ``importance/<block>`` and
    ``freeze_threshold``. Any further parameters of an objective evolve beside them: numbers as
    genes, categorical ones by taking a parent's value. Objectives are minimised or maximised, one
    or several. Constraints (``Trial.set_constraint``, or the older list) put the feasible first.

    By default (``prescreen="phenotype"``) the search begins with the usual ways to fine-tune (all
    blocks, the last one, the last two, at the base learning rate; all blocks at 3.2 and at 0.32
    times that rate) and a few random plans. After that each proposal is the best of hundreds of
    offspring of the best plans, by one function drawn from Gaussian processes over phenotypes that
    are fitted to the trials so far (:mod:`optuna_biotune.prescreen`). Pruned trials count with what
    they would have come to, running ones as places that are taken.

    With ``prescreen=None``, or as :meth:`paper`, it is the evolution of the paper, with three
    choices of ours. An individual that selects no block, which the paper evaluates as the worst
    without training, is drawn again, and so is one that would train exactly like an earlier trial.
    An elite keeps its fitness from the generation in which it was evaluated. Pruned trials rank
    behind the complete ones, those that came further first. With several objectives, individuals
    rank by non-dominated front and crowding distance, the best of old and new survive, and
    offspring take each gene from either parent.

    The first ``population_size`` trials are the first generation; each one after that has
    ``population_size + elite_size`` trials. :meth:`n_trials_for` counts them. Failed trials count
    as though they had never been. Trials that this sampler did not propose (enqueued, added, or
    another sampler's) belong to the first generation.

    All state is read from the study's trials, so a study can be stopped anywhere and resumed with
    the same seed as though it had never stopped. What is proposed is a function of the seed, the
    trial number and the stored trials; give every worker of a study the same seed, or none.

    Workers in parallel: a generation is closed once all its places have finished. While its last
    trials run, further workers evaluate extra individuals of it, at most one each; of these and
    the regular ones the best are selected. A result that comes in after its generation was closed
    is selected from as though it had been on time.

    Args:
        population_size: Individuals in a population, ``N_p``; above ``elite_size``.
        elite_size: Elites, ``N_e``; at least 1. Without prescreening they survive and are
            exploited.
        elite_step: Greatest step of elite exploitation, in (0, 1]. Only without prescreening.
        momentum: How much of a parent's remembered change of genes its offspring follows, in
            [0, 1). 0 leaves momentum out, as the paper's results do. Only without prescreening.
        prescreen: ``"phenotype"``, or None for the paper's evolution.
        search_space: Parameter names and distributions, if they are known beforehand, the blocks in
            their order. Without it they are learnt from the trials: parameters of the first one are
            sampled one by one.
        seed: Seed of all draws; None for a random one.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If ``search_space`` is not a mapping of names to distributions.

    References:
        Davila, Colan, Hasegawa, "Bio-Inspired Fine-Tuning for Selective Transfer Learning in
        Image Classification", IEEE Access 13, 129234-129249, 2025,
        doi 10.1109/ACCESS.2025.3587524.
    """

    def __init__(
        self,
        *,
        population_size: int = 10,
        elite_size: int = 3,
        elite_step: float = 0.25,
        momentum: float = 0.0,
        prescreen: str | None = "phenotype",
        search_space: Mapping[str, BaseDistribution] | None = None,
        seed: int | None = None,
    ) -> None:
        if elite_size < 1:
            raise ValueError(f"`elite_size` must be at least 1, but got {elite_size}.")
        if population_size <= elite_size:
            raise ValueError(
                f"`population_size` must be greater than `elite_size` ({elite_size}), "
                f"but got {population_size}."
            )
        if not 0.0 < elite_step <= 1.0:
            raise ValueError(f"`elite_step` must lie in (0, 1], but got {elite_step}.")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"`momentum` must lie in [0, 1), but got {momentum}.")
        if prescreen not in (None, "phenotype"):
            raise ValueError(f'`prescreen` must be "phenotype" or None, but got {prescreen!r}.')
        if seed is not None and seed < 0:
            raise ValueError(f"`seed` must not be negative, but got {seed}.")
        self._population_size = population_size
        self._elite_size = elite_size
        self._elite_step = elite_step
        self._momentum = momentum
        self._prescreen = prescreen
        self._given_search_space = _checked_search_space(search_space)
        self._seed = seed
        self._entropy: int | None = seed
        self._n_reseeds = 0
        self._reader: StudyReader | None = None
        # Threads of one `optimize(n_jobs=...)` share this object.
        self._lock = threading.Lock()

    @classmethod
    def paper(cls, **arguments: Any) -> BioTuneSampler:
        """Return a sampler that evolves as the paper does, without prescreening.

        Args:
            **arguments: As of the constructor, all but ``prescreen``.
        """
        return cls(prescreen=None, **arguments)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process; it is read from the study again."""
        return {**self.__dict__, "_reader": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy with a lock of its own."""
        self.__dict__.update(state)
        self._lock = threading.Lock()

    @property
    def population_size(self) -> int:
        """Individuals in a population."""
        return self._population_size

    @property
    def elite_size(self) -> int:
        """Elites in a population."""
        return self._elite_size

    def n_trials_for(self, generations: int) -> int:
        """Return how many trials a number of generations takes, the first one counted.

        Args:
            generations: At least 1. With the defaults, 10 generations take 127 trials.
        """
        if generations < 1:
            raise ValueError(f"`generations` must be at least 1, but got {generations}.")
        return self._population_size + (generations - 1) * (
            self._population_size + self._elite_size
        )

    @staticmethod
    def best_plan(study: Study) -> FineTuningPlan:
        """Return the plan that is best by all that the study's trials say.

        See :func:`optuna_biotune.best_trial`, which gives its trial.

        Raises:
            ValueError: If the study has several objectives, no complete trial, or no plans.
        """
        return best_plan(study)

    def reseed_rng(self) -> None:
        """Draw differently from now on, except in the elites' pairs, which workers share.

        Not needed for parallel work: draws depend on the trial number, so no two trials draw the
        same. Optuna calls it in ``optimize(n_jobs=...)``.
        """
        self._n_reseeds += 1

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the given search space joined with what complete trials have in common."""
        with self._lock:
            reader = self._reader_of(study)
            reader.read(study, trial.number)
            space = {**self._given_search_space, **reader.search_space}
        return {name: space[name] for name in sorted(space) if not space[name].single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose the trial's individual, and tag the trial with its place in the evolution."""
        with self._lock:
            breeder = self._breeder(study, trial, search_space)
            if self._prescreen is not None and search_space:
                tag, params = self._prescreened(breeder, trial, search_space)
                _write_tag(study, trial, tag)
                return params
            # The trial of a dead worker, run again, keeps the parameters that it had got: what
            # joins them is no half of an elite's pair.
            propose = breeder.offspring if _is_begun(trial, search_space) else breeder.propose
            tag, params = propose(self._generator(trial.number))
            _write_tag(study, trial, tag)
            if tag.is_half and self._is_taken(study, trial, tag):
                tag, params = breeder.offspring(self._generator(trial.number))
                _write_tag(study, trial, tag)
        return params

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one parameter at random.

        The freezing threshold is drawn below the trial's greatest importance, so that a block is
        selected. With prescreening, a study's first trial trains all blocks alike.
        """
        encoding = Encoding({param_name: param_distribution})
        if self._prescreen is not None and trial.number == 0:
            full = FineTuningPlan.full(["block"]).to_params()
            if encoding.layout.threshold is not None:
                return full[THRESHOLD_NAME]
            if encoding.layout.importance:
                return full[f"{IMPORTANCE_PREFIX}block"]
        rng = self._generator(trial.number, zlib.crc32(param_name.encode()))
        genes, choices = encoding.random(rng)
        if encoding.layout.threshold is not None:
            importance = [
                value for name, value in trial.params.items() if name.startswith(IMPORTANCE_PREFIX)
            ]
            genes = genes * max(importance, default=1.0)
        return encoding.decode(genes, choices)[param_name]

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Tag a trial that this sampler did not propose as adopted."""
        if state != TrialState.FAIL and TAG_KEY not in trial.system_attrs:
            _write_tag(study, trial, Tag(0, "adopted"))

    def _reader_of(self, study: Study) -> StudyReader:
        if self._reader is None or not self._reader.reads(study):
            self._reader = StudyReader(study, self._population_size, self._elite_size)
        return self._reader

    def _breeder(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Breeder:
        reader = self._reader_of(study)
        # Reading takes longest. What the search space was just learnt from is recent enough,
        # unless another thread has read or proposed since.
        if reader.read_for != trial.number:
            reader.read(study, trial.number)
        reader.read_for = None
        encoding = Encoding(search_space)
        return Breeder(
            state=reader.state(),
            trials=reader.trials,
            encoding=encoding,
            known=reader.phenotypes(search_space, encoding),
            elite_step=self._elite_step,
            momentum=self._momentum,
            pair_seed=0 if self._seed is None else self._seed,
        )

    def _prescreened(
        self, breeder: Breeder, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Proposal:
        """Propose baselines first, then random individuals, then by the surrogate."""
        assert self._reader is not None
        rng = self._generator(trial.number)
        evidence = self._reader.evidence(search_space, breeder.encoding, breeder.pair_seed)
        if len(evidence) >= _LEAST_EVIDENCE:
            return breeder.prescreened(rng, evidence)
        names = block_names(self._given_search_space) or self._reader.block_names()
        plan = next_baseline(names, breeder.trials, trial.number)
        return breeder.random(rng) if plan is None else breeder.baseline(rng, plan)

    def _is_taken(self, study: Study, trial: FrozenTrial, tag: Tag) -> bool:
        """Tell whether another trial has taken the same place since the state was read.

        Of two workers that take a place at the same moment, both have written their tags before
        they read, so at least one of them sees the other and leaves the place.
        """
        return any(
            other.number != trial.number and other.state != TrialState.FAIL and Tag.of(other) == tag
            for other in self._reader_of(study).changed(study)
        )

    def _generator(self, *key: int) -> np.random.Generator:
        if self._entropy is None:
            self._entropy = secrets.randbits(64)
        return np.random.default_rng([self._entropy, self._n_reseeds, *key])


def _checked_search_space(
    search_space: Mapping[str, BaseDistribution] | None,
) -> dict[str, BaseDistribution]:
    if search_space is None:
        return {}
    if not isinstance(search_space, Mapping):
        raise TypeError(
            "`search_space` must map parameter names to distributions, "
            f"but got {type(search_space).__name__}."
        )
    for name, distribution in search_space.items():
        if not isinstance(distribution, BaseDistribution):
            raise TypeError(
                "`search_space` must map parameter names to distributions, "
                f"but {name!r} has {distribution!r}."
            )
    return dict(search_space)


def _is_begun(trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]) -> bool:
    return not trial.params.keys().isdisjoint(search_space)


def _write_tag(study: Study, trial: FrozenTrial, tag: Tag) -> None:
    _compat.set_trial_system_attr(study, trial, TAG_KEY, tag.to_attr(trial.number))
