"""What the finished trials of a study say about the individuals that they evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optuna_biotune.encoding import Encoding
from optuna_biotune.evolution import FloatArray, IntArray
from optuna_biotune.ranking import is_minimised, merit

# The cost of a regression grows with the cube of the number of trials.
MOST_TRIALS = 256


@dataclass(frozen=True)
class Evidence:
    """Evaluated individuals, one a row.

    Attributes:
        numbers: Trial numbers, shape [n].
        genes: Shape [n, genes].
        choices: Shape [n, choices].
        losses: Finite values to be minimised, shape [n, objectives]; of pruned trials an estimate.
        violations: Sums of the constraint values above zero, shape [n].
        pending_genes: Genes of the individuals that are being evaluated, shape [m, genes].
        pending_choices: Their choices, shape [m, choices].
    """

    numbers: IntArray
    genes: FloatArray
    choices: IntArray
    losses: FloatArray
    violations: FloatArray
    pending_genes: FloatArray
    pending_choices: IntArray

    def __len__(self) -> int:
        """Return the number of evaluated individuals."""
        return len(self.numbers)


class EvidenceReader:
    """Reads the trials of a study again and again; what it costs depends on what is new.

    Args:
        directions: The study's directions, one an objective.
        encoding: Parameters to genes.
        seed: Seed of the values that stand in for parameters that a trial lacks.
    """

    def __init__(self, directions: Sequence[StudyDirection], encoding: Encoding, seed: int) -> None:
        self._directions = tuple(directions)
        self._encoding = encoding
        self._seed = seed
        self._n_read = 0
        self._unfinished: list[int] = []
        self._numbers: list[int] = []
        self._genotypes: list[tuple[FloatArray, IntArray]] = []
        self._losses: list[tuple[float, ...]] = []
        self._violations: list[float] = []

    def read(self, trials: Sequence[FrozenTrial]) -> Evidence:
        """Return the evidence of all trials, by number; of many, that of the best and the latest.

        Args:
            trials: All trials of the study, by number, as they are now.
        """
        unread = [*self._unfinished, *range(self._n_read, len(trials))]
        self._n_read = len(trials)
        self._unfinished = []
        for number in unread:
            trial = trials[number]
            if not trial.state.is_finished():
                self._unfinished.append(number)
            elif trial.state != TrialState.FAIL:
                self._take_in(trial)
        rows = self._chosen_rows()
        genes, choices = self._stacked([self._genotypes[row] for row in rows])
        pending = [
            self._genotype(trials[number])
            for number in self._unfinished
            if self._encoding.names <= trials[number].params.keys()
        ]
        pending_genes, pending_choices = self._stacked(pending)
        numbers = [self._numbers[row] for row in rows]
        return Evidence(
            np.asarray(numbers, dtype=np.int64),
            genes,
            choices,
            self._final_losses([trials[number] for number in numbers], rows),
            np.asarray([self._violations[row] for row in rows]),
            pending_genes,
            pending_choices,
        )

    def _take_in(self, trial: FrozenTrial) -> None:
        judged = merit(trial, self._directions)
        self._numbers.append(trial.number)
        self._genotypes.append(self._genotype(trial))
        self._losses.append(judged.losses)
        self._violations.append(judged.violation)

    def _genotype(self, trial: FrozenTrial) -> tuple[FloatArray, IntArray]:
        return self._encoding.encode(
            trial.params, np.random.default_rng([self._seed, trial.number])
        )

    def _stacked(
        self, genotypes: Sequence[tuple[FloatArray, IntArray]]
    ) -> tuple[FloatArray, IntArray]:
        n = len(genotypes)
        return (
            np.asarray([genes for genes, _ in genotypes]).reshape(n, self._encoding.layout.n_genes),
            np.asarray([choices for _, choices in genotypes], dtype=np.int64).reshape(
                n, self._encoding.n_choices
            ),
        )

    def _chosen_rows(self) -> list[int]:
        """Return all rows in the order of trial numbers, or the best and the latest of many."""
        by_number = sorted(range(len(self._numbers)), key=self._numbers.__getitem__)
        if len(by_number) <= MOST_TRIALS:
            return by_number
        latest = by_number[-MOST_TRIALS // 2 :]
        older = by_number[: -MOST_TRIALS // 2]
        losses = _finite(np.asarray([self._losses[row] for row in older]))
        width = np.maximum(np.ptp(losses, axis=0), np.finfo(float).tiny)
        total = ((losses - losses.min(axis=0)) / width).sum(axis=1)
        total += np.asarray([len(self._directions) * (self._violations[row] > 0) for row in older])
        best = np.argsort(total, kind="stable")[: MOST_TRIALS // 2]
        return [older[place] for place in sorted(best.tolist())] + latest

    def _final_losses(self, trials: Sequence[FrozenTrial], rows: Sequence[int]) -> FloatArray:
        """Return the losses, those of pruned trials as though they had been completed."""
        losses = np.asarray([self._losses[row] for row in rows]).reshape(
            len(rows), len(self._directions)
        )
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        for row, trial in enumerate(trials):
            if trial.state == TrialState.PRUNED and trial.intermediate_values:
                losses[row, 0] += self._expected_change(trial, complete)
        return _finite(losses)

    def _expected_change(self, pruned: FrozenTrial, complete: Sequence[FrozenTrial]) -> float:
        """Return by how much the loss of complete trials changed after a trial was pruned."""
        step = pruned.last_step
        sign = 1.0 if is_minimised(self._directions[0]) else -1.0
        changes = [
            sign * (trial.values[0] - trial.intermediate_values[step])
            for trial in complete
            if step in trial.intermediate_values
        ]
        finite = [change for change in changes if math.isfinite(change)]
        return float(np.median(finite)) if finite else 0.0


def _finite(losses: FloatArray) -> FloatArray:
    """Return the losses with the worst finite one of the objective in place of infinite ones."""
    result: FloatArray = losses.copy()
    for column in result.T:
        known = column[np.isfinite(column)]
        least, most = (known.min(), known.max()) if len(known) else (0.0, 0.0)
        column[:] = np.where(np.isfinite(column), column, np.where(column < 0.0, least, most))
    return result
