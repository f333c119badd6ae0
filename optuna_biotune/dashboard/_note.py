"""The study's note: the best plan, baselines beside it, and how to train by it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Protocol

import optuna
from optuna import Study
from optuna.trial import TrialState

import optuna_biotune
from optuna_biotune.visualization._style import counted, shown
from optuna_biotune.visualization._target import read_target
from optuna_biotune.visualization._trials import (
    PlannedTrial,
    shown_rate,
)

BEGIN = "## Fine-tuning plan"
END = "*Written by optuna-biotune. Text before and after this section is kept.*"
_MOST_PLANS_OF_A_FRONT = 10
_IN_THE_STUDY = (
    "In the study (the best plan is the best by all trials; single values owe something to luck):"
)


class Result(Protocol):
    """What the note reads of a :class:`optuna_biotune.RefitResult`."""

    def summary(self) -> dict[str, tuple[float, float]]:
        """Return mean and standard deviation over the seeds of each metric."""
        ...


def merged(note: str, own: str) -> str:
    """Put our part of a note in the place of the one that we wrote before, else at its end.

    Should there be two, after two processes wrote at once, one is left.
    """
    begin, end = note.find(BEGIN), note.rfind(END)
    if 0 <= begin < end:
        return note[:begin] + own + note[end + len(END) :]
    return f"{note.rstrip()}\n\n{own}" if note.strip() else own


def write_note(
    study: Study,
    planned: Sequence[PlannedTrial],
    best: PlannedTrial | None,
    results: Mapping[str, Result],
    missing: Mapping[str, str],
) -> str:
    """Return our part of the note, in Markdown.

    Args:
        study: The study.
        planned: Its trials.
        best: The one of the best plan; None if none is complete.
        results: Name of a plan to what it achieved on test data.
        missing: Name of a plot to the reason why it could not be drawn.
    """
    complete = [one for one in planned if one.is_complete]
    parts = [BEGIN, _counts(study, planned)]
    if best is not None:
        if len(study.directions) == 1:
            parts += [
                _plan_table(best),
                _IN_THE_STUDY,
                _comparison(study, complete, best),
            ]
        else:
            parts.append(_front_table(study, complete))
        parts += [_test_table(results), _how_to(study, best)]
    parts += [f"No plot `{name}`: {reason}" for name, reason in missing.items()]
    return "\n\n".join([*filter(None, parts), END])


def _counts(study: Study, planned: Sequence[PlannedTrial]) -> str:
    trials = study.get_trials(deepcopy=False)
    states = {state: sum(trial.state == state for trial in trials) for state in TrialState}
    found = ", ".join(
        f"{number} {state.name.lower()}" for state, number in states.items() if number
    )
    generations = len({one.generation for one in planned})
    return f"{counted(len(trials), 'trial')} ({found}) in {counted(generations, 'generation')}."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _plan_table(best: PlannedTrial) -> str:
    rows = []
    for name, rate in best.plan.multipliers.items():
        absolute = best.trial.user_attrs.get(f"lr/{name}")
        known = f"{absolute:.3g}" if isinstance(absolute, (int, float)) else ""
        rows.append([name, shown_rate(rate), known if rate > 0.0 else ""])
    return _table(["block", "multiplier", "learning rate"], rows)


def _comparison(study: Study, complete: Sequence[PlannedTrial], best: PlannedTrial) -> str:
    """Return a table of the best trial and the baselines that were tried in the same study."""
    values = read_target(study, complete, None, None)
    named = {"best plan": best}
    luckiest = values.best(complete)
    if luckiest is not None and luckiest.number != best.number:
        named["best value"] = luckiest
    named |= values.baselines(complete)
    rows = [[name, str(one.number), _values(one), *_costs(one)] for name, one in named.items()]
    return _table(["", "trial", values.name_within, "trained parameters", "seconds"], rows)


def _front_table(study: Study, complete: Sequence[PlannedTrial]) -> str:
    on_front = {trial.number for trial in study.best_trials}
    front = [one for one in complete if one.number in on_front][:_MOST_PLANS_OF_A_FRONT]
    names = study.metric_names or [f"objective {i}" for i in range(len(study.directions))]
    rows = [
        [str(one.number), *map(shown, one.trial.values), ", ".join(one.plan.trainable)]
        for one in sorted(front, key=lambda one: (*one.trial.values, one.number))
    ]
    count = counted(len(on_front), "plan")
    return f"{count} on the Pareto front:\n\n" + _table(["trial", *names, "trained blocks"], rows)


def _values(one: PlannedTrial) -> str:
    deviation = one.trial.user_attrs.get("val_std")
    value = shown(one.trial.values[0])
    return f"{value} \u00b1 {deviation:.2g}" if isinstance(deviation, float) else value


def _costs(one: PlannedTrial) -> list[str]:
    attrs = one.trial.user_attrs
    parameters, seconds = attrs.get("trainable_params"), attrs.get("seconds")
    return [
        f"{parameters:,}" if isinstance(parameters, int) else "",
        f"{seconds:.1f}" if isinstance(seconds, (int, float)) else "",
    ]


def _test_table(results: Mapping[str, Result]) -> str:
    summaries = {name: result.summary() for name, result in results.items()}
    metrics = list(dict.fromkeys(metric for summary in summaries.values() for metric in summary))
    if not metrics:
        return ""
    rows = [
        [name, *(_mean(summary[metric]) if metric in summary else "" for metric in metrics)]
        for name, summary in summaries.items()
    ]
    head = ["", *(metric.replace("_", " ") for metric in metrics)]
    return "On test data:\n\n" + _table(head, rows)


def _mean(summary: tuple[float, float]) -> str:
    mean, deviation = summary
    return f"{mean:.3f} \u00b1 {deviation:.3f}"


def _how_to(study: Study, best: PlannedTrial) -> str:
    chosen = "the best plan" if len(study.directions) == 1 else f"the plan of trial {best.number}"
    lines = [f"    {json.dumps(name)}: {rate!r}," for name, rate in best.plan.multipliers.items()]
    multipliers = "\n".join(lines)
    base_rate = _base_rate(best)
    decay = best.trial.params.get("weight_decay")
    given = "plan" if decay is None else f"study.trials[{best.number}]"
    decayed = "" if decay is None else f", weight_decay={decay!r}"
    versions = f"optuna-biotune {optuna_biotune.__version__} and Optuna {optuna.__version__}"
    return f"""To train by {chosen} again, with {versions}:

```python
from optuna_biotune import FineTuningPlan

plan = FineTuningPlan({{
{multipliers}
}})
result = objective.refit({given}, test=test)  # FineTuningObjective
# or a loop of your own
optimizer = torch.optim.Adam(blocks.param_groups(plan, lr={base_rate}){decayed})
```"""


def _base_rate(one: PlannedTrial) -> str:
    """Return the base learning rate, or a name for it if the trial does not tell it."""
    for name, rate in one.plan.multipliers.items():
        absolute = one.trial.user_attrs.get(f"lr/{name}")
        if rate > 0.0 and isinstance(absolute, float):
            return f"{absolute / rate:.4g}"
    return "base_lr"
