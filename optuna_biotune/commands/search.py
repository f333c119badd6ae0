"""Running a search to its end, and training what it found beside the usual plans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
from optuna.study import MaxTrialsCallback
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from optuna_biotune.commands.errors import CommandError
from optuna_biotune.commands.outcome import PlanResult
from optuna_biotune.commands.progress import SearchProgress
from optuna_biotune.commands.study import FINISHED, best_complete_trial, n_finished, trial_of
from optuna_biotune.finetune.objective import FineTuningObjective, RefitResult
from optuna_biotune.finetune.partition import BlockPartition
from optuna_biotune.genotype import FineTuningPlan
from optuna_biotune.recommendation import best_trial

_MOST_FAILURES_IN_A_ROW = 3


def usual_plans(names: tuple[str, ...]) -> dict[str, FineTuningPlan]:
    """Return the plans to compare with, by title.

    Args:
        names: Names of the network's blocks.
    """
    return {
        "Linear probe": FineTuningPlan.linear_probe(names),
        "Full fine-tuning": FineTuningPlan.full(names),
    }


def search(
    study: optuna.Study,
    objective: FineTuningObjective,
    n_trials: int,
    progress: SearchProgress,
) -> None:
    """Run trials until the study has a number of them, those of other workers included.

    Args:
        study: The study.
        objective: The objective.
        n_trials: The number; failed trials do not count.
        progress: Shows it.

    Raises:
        CommandError: If several trials fail, one after another.
        KeyboardInterrupt: If it is stopped; the trial that was running is then failed.
    """
    if n_finished(study) >= n_trials:
        return
    failures = _Failures()
    callbacks: list[Callable[[optuna.Study, FrozenTrial], None]] = [
        progress,
        failures,
        MaxTrialsCallback(n_trials, states=FINISHED),
    ]
    progress.begin(study)
    started: list[int] = []

    def noted(trial: optuna.Trial) -> float | tuple[float, ...]:
        started.append(trial.number)
        return objective(trial)

    with progress:
        try:
            study.optimize(noted, callbacks=callbacks)
        except KeyboardInterrupt:
            # Left running, its plan would be missing until its heartbeats count as stale.
            if started:
                study.tell(started[-1], state=TrialState.FAIL, skip_if_finished=True)
            raise
    failures.check()


class _Failures:
    """Stops a study in which one trial after another fails: it would never end."""

    def __init__(self) -> None:
        self._reasons: list[str] = []

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Count."""
        if trial.state != TrialState.FAIL:
            self._reasons.clear()
            return
        self._reasons.append(str(trial.user_attrs.get("failure", "it gave no value.")))
        if len(self._reasons) == _MOST_FAILURES_IN_A_ROW:
            study.stop()

    def check(self) -> None:
        """Raise CommandError if that has happened."""
        if len(self._reasons) == _MOST_FAILURES_IN_A_ROW:
            raise CommandError(
                f"{_MOST_FAILURES_IN_A_ROW} trials have failed, one after another. The last one: "
                f"{self._reasons[-1]} Try a smaller --batch-size or --image-size."
            )


def compare(
    study: optuna.Study,
    objective: FineTuningObjective,
    blocks: BlockPartition,
    test: Any,
    console: Console,
) -> tuple[list[PlanResult], RefitResult]:
    """Train the usual plans and the best one on all training images, and measure them.

    The best one is that of :func:`optuna_biotune.best_trial`, by all that the trials say.
    Each plan that has a complete trial is trained for as many epochs as were best in it.

    Args:
        study: The study.
        objective: The objective of its trials.
        blocks: The network's blocks.
        test: The test images.
        console: Where to show the progress.

    Returns:
        The results, the best plan's at the end, and the best plan's training itself.

    Raises:
        CommandError: If no trial is complete.
    """
    if best_complete_trial(study) is None:
        raise CommandError(
            f"No trial of the study {study.study_name} is complete: give more --trials."
        )
    best = best_trial(study)
    usual = usual_plans(blocks.names)
    trials: dict[str, FrozenTrial | FineTuningPlan] = {
        title: _complete_trial_or_plan(study, plan) for title, plan in usual.items()
    }
    same = [title for title, trial in trials.items() if _is(trial, best)]
    trials = {title: trial for title, trial in trials.items() if title not in same}
    best_title = f"{same[0]}, the best" if same else f"Best plan, trial {best.number}"
    results = []
    for title, trial in {**trials, best_title: best}.items():
        with console.status(f"Training on all images: {title.lower()}"):
            refitted = objective.refit(trial, test=test)
        results.append(
            PlanResult(
                title,
                refitted.plan,
                refitted.summary(),
                refitted.epochs,
                blocks.trainable_parameters(refitted.plan),
            )
        )
    return results, refitted


def _complete_trial_or_plan(
    study: optuna.Study, plan: FineTuningPlan
) -> FrozenTrial | FineTuningPlan:
    """Return the complete trial of a plan, or the plan itself if there is none."""
    trial = trial_of(study, plan)
    return trial if trial is not None and trial.state == TrialState.COMPLETE else plan


def _is(trial: FrozenTrial | FineTuningPlan, best: FrozenTrial) -> bool:
    return isinstance(trial, FrozenTrial) and trial.number == best.number
