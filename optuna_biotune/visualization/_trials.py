"""What the plots read from a study: its finished trials with their plans and generations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_biotune.genotype import FineTuningPlan
from optuna_biotune.ranking import merit, ranking
from optuna_biotune.recommendation import best_trial
from optuna_biotune.tags import Role, Tag

FULL = "full fine-tuning"
LINEAR_PROBE = "linear probe"
LAST_TWO = "last two blocks"

_ROLES: dict[Role, str] = {
    "initial": "random",
    "baseline": "baseline",
    "adopted": "not from BioTune",
    "elite_plus": "step from",
    "elite_minus": "step from",
    "offspring": "offspring of",
    "mutant": "mutant of",
    "fresh": "random",
}
_BLOCKS_A_LINE = 4


@dataclass(frozen=True)
class PlannedTrial:
    """A complete or pruned trial that has a plan.

    Attributes:
        trial: The trial.
        plan: Its plan, with the blocks in the same order as in all other trials.
        tag: Its place in the evolution; that of an adopted trial if BioTuneSampler gave it none.
    """

    trial: FrozenTrial
    plan: FineTuningPlan
    tag: Tag

    @property
    def number(self) -> int:
        """Trial number."""
        return self.trial.number

    @property
    def generation(self) -> int:
        """Generation, from 0."""
        return self.tag.generation

    @property
    def is_complete(self) -> bool:
        """Whether the trial is complete; else it was pruned."""
        return self.trial.state == TrialState.COMPLETE

    @property
    def baseline(self) -> str | None:
        """Name of the usual plan that this one is, if it is one."""
        rates = list(self.plan.multipliers.values())
        for name, n_trained in ((FULL, len(rates)), (LINEAR_PROBE, 1), (LAST_TWO, 2)):
            frozen, trained = rates[:-n_trained], rates[-n_trained:]
            if not any(frozen) and all(math.isclose(r, 1.0, rel_tol=1e-6) for r in trained):
                return name
        return None

    @property
    def origin(self) -> str:
        """Where the trial comes from, in words."""
        parents = " and ".join(map(str, self.tag.parents))
        return f"{_ROLES[self.tag.role]} {parents}".strip()

    def describe(self) -> str:
        """Return number, generation, origin and plan, for people, in lines of HTML."""
        shown = [f"{name} {shown_rate(rate)}" for name, rate in self.plan.multipliers.items()]
        lines = [
            ", ".join(shown[start : start + _BLOCKS_A_LINE])
            for start in range(0, len(shown), _BLOCKS_A_LINE)
        ]
        pruned = "" if self.is_complete else ", pruned"
        first = f"trial {self.number}, generation {self.generation}, {self.origin}{pruned}"
        return "<br>".join([first, *lines])


def shown_rate(multiplier: float) -> str:
    """Return a learning-rate multiplier as text: two digits, or that the block is frozen."""
    return f"{multiplier:.2g}" if multiplier > 0.0 else "frozen"


def planned_trials(study: Study) -> list[PlannedTrial]:
    """Return the complete and pruned trials of a study that have a plan, by generation and number.

    Of trials of different blocks those that most trials have are taken.

    Raises:
        TypeError: If it is no study.
        ValueError: If no trial has finished, or none has a plan.
    """
    if not isinstance(study, Study):
        raise TypeError(f"`study` must be an Optuna study, but got {study!r}.")
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    if not finished:
        raise ValueError(
            f"`study` {study.study_name!r} has no complete or pruned trial: there is nothing to "
            "plot yet."
        )
    plans = {trial.number: plan for trial in finished if (plan := _plan_of(trial)) is not None}
    if not plans:
        raise ValueError(
            f"`study` {study.study_name!r} has no fine-tuning plan: no trial has parameters "
            "`importance/<block>` and `freeze_threshold`, as `suggest_plan` suggests them."
        )
    ((blocks, _),) = Counter(frozenset(plan.names) for plan in plans.values()).most_common(1)
    names = next(plan.names for plan in plans.values() if blocks == set(plan.names))
    planned = [
        PlannedTrial(
            trial,
            FineTuningPlan({name: plans[trial.number].multipliers[name] for name in names}),
            Tag.of(trial) or Tag(0, "adopted"),
        )
        for trial in finished
        if trial.number in plans and blocks == set(plans[trial.number].names)
    ]
    return sorted(planned, key=lambda one: (one.generation, one.number))


def _plan_of(trial: FrozenTrial) -> FineTuningPlan | None:
    try:
        return FineTuningPlan.from_trial(trial)
    except (ValueError, TypeError):
        return None


def best_first(study: Study, planned: Sequence[PlannedTrial]) -> list[PlannedTrial]:
    """Sort trials as BioTuneSampler ranks them, with one or several objectives."""
    merits = [merit(one.trial, study.directions) for one in planned]
    return [planned[position] for position in ranking(merits)]


def recommended(study: Study, planned: Sequence[PlannedTrial]) -> PlannedTrial:
    """Return the complete trial whose plan is best, as :func:`optuna_biotune.best_trial` finds it.

    If the study has trials of other blocks, too, and with several objectives, it is the best by
    value.

    Args:
        study: The study.
        planned: Its trials, at least one of them complete.
    """
    complete = [one for one in planned if one.is_complete]
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    others = len(study.get_trials(deepcopy=False, states=states)) > len(planned)
    if not others and len(study.directions) == 1:
        number = best_trial(study).number
        return next(one for one in complete if one.number == number)
    return best_first(study, complete)[0]


def side_by_side(planned: Sequence[PlannedTrial], width: float) -> dict[int, float]:
    """Return where trials stand on an axis of generations, trial number to position.

    Args:
        planned: The trials.
        width: How much of the axis the trials of a generation take, below 1.
    """
    places: dict[int, float] = {}
    for generation, members in by_generation(planned).items():
        for place, one in enumerate(members):
            share = place / (len(members) - 1) - 0.5 if len(members) > 1 else 0.0
            places[one.number] = round(generation + width * share, 3)
    return places


def by_generation(planned: Sequence[PlannedTrial]) -> dict[int, list[PlannedTrial]]:
    """Group trials by their generation, in its order."""
    groups: dict[int, list[PlannedTrial]] = {}
    for one in sorted(planned, key=lambda one: (one.generation, one.number)):
        groups.setdefault(one.generation, []).append(one)
    return groups
