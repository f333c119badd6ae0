"""The value that a plot shows of each trial, and whether more of it is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from optuna_biotune.ranking import is_minimised
from optuna_biotune.visualization._trials import PlannedTrial

TargetFunction = Callable[[FrozenTrial], float]


DEFAULT_NAME = "Objective value"


@dataclass(frozen=True)
class Target:
    """The value that a plot shows of each trial.

    Attributes:
        name: Its name, for axes.
        values: Trial number to value, of complete trials; infinite values and NaN are left out.
        reports: Trial number to last reported value, of pruned trials.
        direction: Whether to minimise or maximise it; None if that is not known.
    """

    name: str
    values: dict[int, float]
    reports: dict[int, float]
    direction: StudyDirection | None

    def of(self, one: PlannedTrial) -> float | None:
        """Return the value of a complete trial, the last report of a pruned one, or None."""
        return self.values.get(one.number, self.reports.get(one.number))

    def loss(self, value: float) -> float:
        """Return a value as one that is to be minimised, as it is if no direction is known."""
        return -value if self.direction == StudyDirection.MAXIMIZE else value

    def best(self, planned: Sequence[PlannedTrial]) -> PlannedTrial | None:
        """Return the best of the complete trials, None if there is none or no direction."""
        if self.direction is None:
            return None
        valued = [one for one in planned if one.number in self.values]
        return min(valued, key=lambda one: self.loss(self.values[one.number]), default=None)

    def baselines(self, planned: Sequence[PlannedTrial]) -> dict[str, PlannedTrial]:
        """Return the best complete trial of each usual plan that was tried, by the plan's name."""
        names = sorted({one.baseline for one in planned if one.baseline is not None})
        found = {name: self.best([o for o in planned if o.baseline == name]) for name in names}
        return {name: one for name, one in found.items() if one is not None}

    @property
    def name_within(self) -> str:
        """Name within a sentence."""
        return self.name.lower() if self.name == DEFAULT_NAME else self.name

    @property
    def axis_title(self) -> str:
        """Name with the direction in which it is better."""
        if self.direction is None:
            return self.name
        better = "lower" if is_minimised(self.direction) else "higher"
        return f"{self.name} ({better} is better)"


def read_target(
    study: Study,
    planned: Sequence[PlannedTrial],
    target: TargetFunction | None,
    target_name: str | None,
) -> Target:
    """Read the value to plot of each trial.

    Args:
        study: The study.
        planned: Its trials.
        target: Gives the value of a trial. None: the objective's value, if there is one objective.
            Its direction is known if it is one of the study's objectives.
        target_name: Its name. None: the objective's name in the study, or "Objective value".

    Raises:
        ValueError: If there are several objectives and no target.
        TypeError: If the target is not a function.
    """
    if target is None:
        if len(study.directions) > 1:
            raise ValueError(
                f"`target` must be given, because `study` has {len(study.directions)} objectives; "
                "for example `lambda trial: trial.values[0]`."
            )
        reports = {
            one.number: one.trial.intermediate_values[max(one.trial.intermediate_values)]
            for one in planned
            if not one.is_complete and one.trial.intermediate_values
        }
        values = {one.number: one.trial.values[0] for one in planned if one.is_complete}
        objective: int | None = 0
    elif not callable(target):
        raise TypeError(f"`target` must be a function of a trial, but got {target!r}.")
    else:
        reports = {}
        values = {one.number: float(target(one.trial)) for one in planned if one.is_complete}
        objective = _objective_of(study, planned, values)
    if target_name is None:
        target_name = _metric_name(study, objective)
    direction = None if objective is None else study.directions[objective]
    return Target(target_name, _finite(values), _finite(reports), direction)


def _objective_of(
    study: Study, planned: Sequence[PlannedTrial], values: dict[int, float]
) -> int | None:
    """Return which of the study's objectives a target is, None if it is none of them."""
    complete = [one for one in planned if one.is_complete]
    for objective in range(len(study.directions)):
        if complete and all(values[one.number] == one.trial.values[objective] for one in complete):
            return objective
    return None


def _metric_name(study: Study, objective: int | None) -> str:
    names = study.metric_names
    return DEFAULT_NAME if names is None or objective is None else names[objective]


def _finite(values: dict[int, float]) -> dict[int, float]:
    return {number: float(value) for number, value in values.items() if math.isfinite(value)}
