"""How good trials are: the order in which the evolution ranks them.

Feasible trials come before infeasible ones, and these by how much they violate their constraints.
Then complete trials come before pruned ones, and these by how far they came. Then decides the
objective's value; with several objectives, the non-dominated front (Deb et al., "A Fast and Elitist
Multiobjective Genetic Algorithm: NSGA-II", IEEE TEC 6, 2002) and, within a front, the crowding
distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optuna_biotune import _compat

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, order=True)
class Merit:
    """How good a finished trial is. Less is better; equal merits are a tie.

    With one objective, merits compare as tuples. With several, only :meth:`beats` and
    :func:`ranking` mean anything.

    Attributes:
        violation: Sum of the constraint values above zero; 0.0 if feasible.
        stage: 0 if complete, 1 if pruned after a report, 2 if pruned before any.
        missing: Minus the last reported step if pruned, so that less is further; else 0.
        losses: One value an objective, to be minimised. A pruned trial has its last report.
    """

    violation: float
    stage: int
    missing: float
    losses: tuple[float, ...]

    @property
    def standing(self) -> tuple[float, int, float]:
        """All that decides before the objectives do."""
        return self.violation, self.stage, self.missing

    @property
    def has_several_objectives(self) -> bool:
        """Whether there is more than one objective."""
        return len(self.losses) > 1

    def beats(self, other: Merit) -> bool:
        """Tell whether this merit is strictly better; with several objectives, dominates."""
        if self.standing != other.standing:
            return self.standing < other.standing
        return self.losses != other.losses and all(
            mine <= theirs for mine, theirs in zip(self.losses, other.losses, strict=True)
        )


def merit(trial: FrozenTrial, directions: Sequence[StudyDirection]) -> Merit:
    """Judge a complete or pruned trial of a study with these directions."""
    violation = math.fsum(max(value, 0.0) for value in _compat.constraints(trial))
    if trial.state == TrialState.COMPLETE:
        return Merit(violation, 0, 0.0, _losses(trial.values, directions))
    if not trial.intermediate_values:
        return Merit(violation, 2, 0.0, (math.inf,) * len(directions))
    # Optuna prunes in studies of one objective only, so the report speaks for that one.
    step, value = max(trial.intermediate_values.items())
    return Merit(violation, 1, -float(step), _losses([value], directions[:1]))


def _losses(values: Sequence[float], directions: Sequence[StudyDirection]) -> tuple[float, ...]:
    return tuple(
        math.inf if math.isnan(value) else value if is_minimised(direction) else -value
        for value, direction in zip(values, directions, strict=True)
    )


def is_minimised(direction: StudyDirection) -> bool:
    """Tell whether less is better in this direction."""
    return direction == StudyDirection.MINIMIZE


def ranking(merits: Sequence[Merit]) -> list[int]:
    """Return the positions of the merits, best first; ties keep their order."""
    order = sorted(range(len(merits)), key=lambda position: merits[position].standing)
    ranks: list[int] = []
    for _, group in groupby(order, key=lambda position: merits[position].standing):
        members = list(group)
        losses = np.asarray([merits[position].losses for position in members])
        ranks.extend(members[i] for i in _ranked_by_losses(losses))
    return ranks


def _ranked_by_losses(losses: FloatArray) -> IntArray:
    """Return row numbers, best first: by value, or by front and crowding distance."""
    if losses.shape[1] == 1:
        return np.argsort(losses[:, 0], kind="stable")
    fronts = front_numbers(losses)
    crowding = np.zeros(len(losses))
    for front in np.unique(fronts):
        members = fronts == front
        crowding[members] = crowding_distances(losses[members])
    return np.lexsort((-crowding, fronts))


def front_numbers(losses: FloatArray) -> IntArray:
    """Return the non-dominated front of each row, from 0.

    Args:
        losses: Values to be minimised, shape [n, objectives].
    """
    at_least_as_good = np.all(losses[:, None, :] <= losses[None, :, :], axis=2)
    better = np.any(losses[:, None, :] < losses[None, :, :], axis=2)
    dominates = np.logical_and(at_least_as_good, better)
    fronts = np.full(len(losses), -1, dtype=np.int64)
    front = 0
    while (fronts < 0).any():
        left = fronts < 0
        fronts[left & ~dominates[left].any(axis=0)] = front
        front += 1
    return fronts


def crowding_distances(losses: FloatArray) -> FloatArray:
    """Return the crowding distance of each row of one front; infinite at the ends.

    Args:
        losses: Values to be minimised, shape [n, objectives].
    """
    distances = np.zeros(len(losses))
    for column in losses.T:
        order = np.argsort(column, kind="stable")
        values = column[order]
        distances[order[[0, -1]]] = np.inf
        if not np.isfinite(values[[0, -1]]).all():
            continue
        width = values[-1] - values[0]
        if width > 0.0:
            distances[order[1:-1]] += (values[2:] - values[:-2]) / width
    return distances
