"""Writing plots and a note of a study to where optuna-dashboard shows them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial

from optuna_biotune.dashboard._figures import figures
from optuna_biotune.dashboard._note import Result, merged, write_note
from optuna_biotune.dashboard._storing import save_figure, save_note
from optuna_biotune.tags import Tag
from optuna_biotune.visualization._trials import planned_trials, recommended

_logger = logging.getLogger("optuna_biotune")

# How often studies of other samplers, which have no generations, are published.
_TRIALS_WITHOUT_GENERATIONS = 10


def publish(study: Study, *, results: Mapping[str, Result] | None = None) -> None:
    """Write plots and a note of a study to where optuna-dashboard shows them.

    The plots of :mod:`optuna_biotune.visualization` appear among the study's plots, and the note
    has the best plan as a table, baselines beside it if they were tried in the study, and how to
    train by the plan again. Calling it again overwrites both. Text of your own in the note stays.

    All of it takes less than 200 kB of the study's system attributes, in a row for each plot:
    large studies lose the text under the pointer. Each plot and the note are stored in one step.
    Of several processes that call it at once the last one to write stays; with workers, see
    :class:`PublishEachGeneration`.

    Args:
        study: The study, with at least one finished trial of a plan.
        results: What plans achieved on test data: a name for the table, such as ``"best plan"`` or
            ``"full fine-tuning"``, to the ``RefitResult`` of ``FineTuningObjective.refit``.

    Raises:
        TypeError: If it is no study.
        ValueError: If no trial has finished, or none has a plan.
        ImportError: If optuna-dashboard is not installed.
    """
    dashboard = _optuna_dashboard()
    planned = planned_trials(study)
    best = None
    if any(one.is_complete for one in planned):
        best = recommended(study, planned)
    drawn, missing = figures(study, None if best is None else best.trial)
    own = write_note(study, planned, best, results or {}, missing)
    for name, figure in drawn.items():
        save_figure(study, name, figure)
    save_note(study, merged(dashboard.get_note(study), own))


class PublishEachGeneration:
    """A callback for ``study.optimize`` that publishes the study once a generation.

    Give it to every worker: the one whose trial opened a generation, that of the lowest number in
    it, publishes when that trial has finished, unless a later generation has been opened by then.
    So hardly ever do two write at once, without a lock, and if they do, the last one stays. If that
    worker dies or is too late, the next generation is published by another one. What finished since
    is missing until then; call :func:`publish` at the end of the search, in any or all workers.

    With other samplers every tenth trial publishes. What goes wrong is logged and does not stop
    the search.

    Raises:
        ImportError: If optuna-dashboard is not installed.
    """

    def __init__(self) -> None:
        # Before hours of training, not after the first trial.
        _optuna_dashboard()

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Publish the study if the trial opened the generation that is open now."""
        if not is_due(study, trial):
            return
        try:
            publish(study)
        except Exception as error:
            _logger.warning(
                "Could not publish study %r: %s: %s", study.study_name, type(error).__name__, error
            )


def is_due(study: Study, trial: FrozenTrial) -> bool:
    """Tell whether a trial that has finished opened the generation that is open now.

    It has the lowest number in its generation, and there is no later generation. Of trials that
    have no generation every tenth one is due.
    """
    tag = Tag.of(trial)
    if tag is None:
        return trial.number % _TRIALS_WITHOUT_GENERATIONS == 0
    generations = {
        other.number: found.generation
        for other in study.get_trials(deepcopy=False)
        if (found := Tag.of(other)) is not None
    }
    first = min(number for number, found in generations.items() if found == tag.generation)
    return trial.number == first and tag.generation == max(generations.values())


def _optuna_dashboard() -> Any:
    try:
        import optuna_dashboard
    except ImportError as error:
        raise ImportError(
            "Publishing needs optuna-dashboard: pip install 'optuna-biotune[dashboard]'."
        ) from error
    return optuna_dashboard
