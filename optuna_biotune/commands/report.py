"""A study as one HTML file that opens without a network: results, and plots of the search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from plotly.offline import get_plotlyjs

from optuna_biotune import __version__, visualization
from optuna_biotune.commands.errors import CommandError
from optuna_biotune.commands.outcome import METRICS, PlanResult
from optuna_biotune.commands.progress import shown_duration
from optuna_biotune.commands.study import SETTINGS_KEY, best_complete_trial
from optuna_biotune.genotype import FineTuningPlan
from optuna_biotune.recommendation import best_trial
from optuna_biotune.whole_file import replacing

_PLOTS: dict[Callable[..., Any], str] = {
    visualization.plot_best_plan: "How fast each block trains in the best plan; dashed is full "
    "fine-tuning at the base learning rate.",
    visualization.plot_evolution: "How the search went: the trials come in generations, each bred "
    "from the best before it. Above their values, below how different their plans are.",
    visualization.plot_plans: "What each trial froze, and how fast it trained the rest.",
    visualization.plot_block_effect: "What a block's learning rate does to the result.",
    visualization.plot_accuracy_cost: "What accuracy costs.",
    visualization.plot_lineage: "Which trials the best plan descends from: each was bred from "
    "those that lead to it.",
}

_PAGE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.1rem; margin-top: 2.5rem; }
table { border-collapse: collapse; }
th, td { padding: 0.3rem 0.9rem 0.3rem 0; text-align: left; border-bottom: 1px solid #ddd; }
td + td, th + th { text-align: right; }
tr.best { font-weight: 600; }
p.plot { margin: 3rem 0 0; }
footer { margin-top: 3rem; color: #666; font-size: 0.85rem; }
</style>
<script>$plotly</script>
</head>
<body>
<h1>$title</h1>
<p>$conclusion</p>
<p>$summary</p>
$results
$advice
$plots
<footer>Written by optuna-biotune $version.</footer>
</body>
</html>
"""
)

_ADVICE = (
    "What next: <code>optuna-biotune predict IMAGE...</code> uses the network of the best plan, "
    "<code>optuna-biotune export</code> prints the plan as code for a training of your own, and "
    "the command that made this report goes on from here with more <code>--trials</code>."
)


def write_report(
    study: optuna.Study,
    path: Path,
    results: Sequence[PlanResult] = (),
    n_test_images: int = 0,
) -> None:
    """Write a study's report.

    Args:
        study: The study.
        path: The HTML file; one of this name is replaced.
        results: Plans measured on test images, the best one at the end; may be empty.
        n_test_images: Number of test images.

    Raises:
        CommandError: If the study has no complete trial of a plan.
    """
    _check(study)
    best = best_trial(study)
    page = _PAGE.substitute(
        title=escape(f"Fine-tuning plans of {study.study_name}"),
        plotly=get_plotlyjs(),
        conclusion=escape(_conclusion(best, results)),
        summary=escape(_summary(study, best)),
        advice=f"<p>{_ADVICE}</p>" if results else "",
        results=_table(results, n_test_images) if results else "",
        plots="\n".join(_plots(study)),
        version=__version__,
    )
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _check(study: optuna.Study) -> None:
    """Raise CommandError unless there is something to report."""
    if len(study.directions) != 1:
        raise CommandError(
            f"The study {study.study_name} has several objectives: a report is for one."
        )
    best = best_complete_trial(study)
    if best is None:
        raise CommandError(f"The study {study.study_name} has no complete trial yet.")
    try:
        FineTuningPlan.from_trial(best)
    except ValueError as error:
        raise CommandError(f"The study {study.study_name} is not a search of plans.") from error


def _conclusion(best: FrozenTrial, results: Sequence[PlanResult]) -> str:
    """Say which plan was found, and how it does beside the others."""
    plan = FineTuningPlan.from_trial(best)
    frozen = f"freezes {', '.join(plan.frozen)}" if plan.frozen else "freezes nothing"
    text = f"The best plan is that of trial {best.number}. It {frozen} and trains "
    text += f"{len(plan.trainable)} of {len(plan.names)} blocks."
    if not results:
        return text
    shown = [f"{result.title.lower()} {result.shown('balanced_accuracy')}" for result in results]
    return f"{text} Balanced accuracy on test images: {'; '.join(reversed(shown))}."


def _summary(study: optuna.Study, best: FrozenTrial) -> str:
    """Say in a few words what the study is."""
    trials = study.get_trials(deepcopy=False)
    counts = {state: sum(t.state == state for t in trials) for state in TrialState}
    settings = study.user_attrs.get(SETTINGS_KEY)
    network = images = ""
    if isinstance(settings, dict):  # The study is one of this command.
        network = f"{settings['--network']}: "
        images = " on validation images, by which plans are chosen"
    seconds = sum(float(trial.user_attrs.get("seconds", 0.0)) for trial in trials)
    return (
        f"{network}{counts[TrialState.COMPLETE]} trials complete, {counts[TrialState.PRUNED]} "
        f"pruned, {counts[TrialState.FAIL]} failed, in {shown_duration(seconds)} of training. "
        f"Trial {best.number} had {best.value:.4f}{images}."
    )


def _table(results: Sequence[PlanResult], n_images: int) -> str:
    """Write the results as a table."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in METRICS.values())
    classes = [""] * (len(results) - 1) + [' class="best"']
    rows = [
        f"<tr{css}><td>{escape(result.title)}</td>"
        + "".join(f"<td>{result.shown(metric)}</td>" for metric in METRICS)
        + f"<td>{result.shown_parameters}</td></tr>"
        for css, result in zip(classes, results, strict=True)
    ]
    return (
        f"<h2>On {n_images} test images</h2>\n<table>\n<tr><th>Plan</th>{head}"
        f"<th>Trained parameters</th></tr>\n{chr(10).join(rows)}\n</table>\n"
        "<p>Mean ± standard deviation of networks trained with different seeds. Differences "
        "smaller than the deviation may be chance.</p>"
    )


def _plots(study: optuna.Study) -> list[str]:
    """Draw the study."""
    plots = []
    for plot, heading in _PLOTS.items():
        try:
            figure = plot(study)
        except ValueError as error:  # The study lacks what this plot shows.
            plots.append(f"<p class='plot'>{escape(heading)} Left out: {escape(str(error))}</p>")
            continue
        drawn = figure.to_html(full_html=False, include_plotlyjs=False)
        plots.append(f"<p class='plot'>{escape(heading)}</p>\n{drawn}")
    return plots
