"""What a sampler has read of the study that it samples for, kept up to date at little cost."""

from __future__ import annotations

from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from optuna_biotune import _compat
from optuna_biotune.encoding import Encoding
from optuna_biotune.evidence import Evidence, EvidenceReader
from optuna_biotune.generations import EvolutionHistory, EvolutionState
from optuna_biotune.genotype import THRESHOLD_NAME, block_names


class StudyReader:
    """Reads one study again and again; what it costs depends only on what is new.

    Nothing here is lost when it is forgotten: all of it can be read again.

    Args:
        study: The study.
        population_size: Individuals in a population, ``N_p``.
        elite_size: Elites, ``N_e``.

    Attributes:
        trials: All trials by number, as they were last read; they must not be changed.
        search_space: What all complete trials have in common: parameters by name that each of
            them has with the same distribution.
        read_for: Number of the trial that the last read was for; None if it is out of date.
    """

    def __init__(self, study: Study, population_size: int, elite_size: int) -> None:
        self._storage, self._study_id = _compat.study_key(study)
        self.trials: list[FrozenTrial] = []
        self.search_space: dict[str, BaseDistribution] = {}
        self.read_for: int | None = None
        self._has_complete_trials = False
        self._directions = study.directions
        self._history = EvolutionHistory(
            population_size=population_size,
            elite_size=elite_size,
            directions=self._directions,
        )
        self._evidence_space: dict[str, BaseDistribution] | None = None
        self._phenotype_space: dict[str, BaseDistribution] = {}
        self._phenotypes: dict[tuple[Any, ...], int] = {}
        self._without_phenotype: list[int] = []
        self._n_phenotypes_read = 0

    def reads(self, study: Study) -> bool:
        """Tell whether this is the study that the reader reads."""
        storage, study_id = _compat.study_key(study)
        return storage is self._storage and study_id == self._study_id

    def read(self, study: Study, number: int) -> None:
        """Read all trials from the storage, for the trial of this number."""
        for trial in self.changed(study):
            if trial.state == TrialState.COMPLETE:
                self._intersect_search_space(trial.distributions)
        self._history.update(self.trials)
        self.read_for = number

    def changed(self, study: Study) -> list[FrozenTrial]:
        """Return, as they are now, the trials that were unfinished or missing at the last read."""
        unfinished = [trial.number for trial in self._history.unread(self.trials)]
        self.trials = _compat.read_trials(study, self.trials, unfinished)
        return self._history.unread(self.trials)

    def state(self) -> EvolutionState:
        """Return where the evolution stands."""
        return self._history.state()

    def phenotypes(
        self, search_space: dict[str, BaseDistribution], encoding: Encoding
    ) -> dict[tuple[Any, ...], int]:
        """Return all phenotypes that are known, each with the first trial that has it."""
        if search_space != self._phenotype_space:
            self._phenotype_space = search_space
            self._phenotypes = {}
            self._without_phenotype = []
            self._n_phenotypes_read = 0
        # Unfinished trials may still lack parameters, and are read again.
        numbers = [*self._without_phenotype, *range(self._n_phenotypes_read, len(self.trials))]
        self._without_phenotype = []
        self._n_phenotypes_read = len(self.trials)
        for trial in (self.trials[number] for number in numbers):
            if not trial.state.is_finished():
                self._without_phenotype.append(trial.number)
            if trial.state != TrialState.FAIL and search_space.keys() <= trial.params.keys():
                self._remember(encoding.phenotype(trial.params), trial.number)
        return self._phenotypes

    def evidence(
        self, search_space: dict[str, BaseDistribution], encoding: Encoding, seed: int
    ) -> Evidence:
        """Return what the finished trials say, by the genes and choices of an encoding.

        Args:
            search_space: What the encoding encodes.
            encoding: Parameters to genes.
            seed: Seed of the values that stand in for parameters that a trial lacks.
        """
        if search_space != self._evidence_space:
            self._evidence_space = search_space
            self._evidence_reader = EvidenceReader(self._directions, encoding, seed)
        return self._evidence_reader.read(self.trials)

    def block_names(self) -> tuple[str, ...]:
        """Return the names of the blocks in order, as the first trial that has a plan gives them.

        Empty if no finished trial has one.
        """
        for trial in self.trials:
            if trial.state.is_finished() and THRESHOLD_NAME in trial.params:
                return block_names(trial.params)
        return ()

    def _remember(self, phenotype: tuple[Any, ...], number: int) -> None:
        self._phenotypes[phenotype] = min(number, self._phenotypes.get(phenotype, number))

    def _intersect_search_space(self, distributions: dict[str, BaseDistribution]) -> None:
        if not self._has_complete_trials:
            self.search_space = dict(distributions)
        self._has_complete_trials = True
        self.search_space = {
            name: distribution
            for name, distribution in self.search_space.items()
            if distributions.get(name) == distribution
        }
