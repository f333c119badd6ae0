"""The objective's value of each trial against what the trial costs."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from optuna import Study

from optuna_biotune.visualization import _style
from optuna_biotune.visualization._target import Target, TargetFunction, read_target
from optuna_biotune.visualization._trials import (
    FULL,
    LAST_TWO,
    LINEAR_PROBE,
    PlannedTrial,
    planned_trials,
)

_COST_NAMES = {"trainable_params": "trainable parameters", "seconds": "seconds a trial"}
_BASELINES = {
    FULL: ("square", _style.SKY),
    LINEAR_PROBE: ("diamond", _style.PURPLE),
    LAST_TWO: ("triangle-up", _style.GREEN),
}
# Costs that differ by more than this factor are drawn on a logarithmic axis.
_LOGARITHMIC_FROM = 30.0


def plot_accuracy_cost(
    study: Study,
    *,
    cost: str = "trainable_params",
    target: TargetFunction | None = None,
    target_name: str | None = None,
) -> go.Figure:
    """Plot the objective's value of each complete trial against its cost, with the Pareto front.

    Args:
        study: The study.
        cost: A user attribute that is a number, less of which is better:
            ``"trainable_params"``, ``"seconds"``, ``"memory_mib"`` or one of your own.
        target: Gives the value of a trial. None: the objective's value, if there is one objective.
        target_name: Its name.

    Returns:
        The figure. Trials are coloured by their generation; usual plans (full fine-tuning, the
        last block or two, at the base learning rate) stand out if they were tried. There is no
        front if the target is none of the study's objectives, whose directions are known.

    Raises:
        TypeError: If ``study`` is no study.
        ValueError: If no trial has finished, none has a plan or none has the attribute, or
            ``target`` is missing.
    """
    planned = planned_trials(study)
    values = read_target(study, planned, target, target_name)
    measured = [one for one in planned if one.number in values.values and _has_cost(one, cost)]
    if not measured:
        known = sorted(
            {name for one in planned for name in one.trial.user_attrs if _has_cost(one, name)}
        )
        raise ValueError(
            f"`cost` must be a user attribute that is a number in a complete trial of `study`, but "
            f"is {cost!r}. There are: {', '.join(known) or 'none'}."
        )
    costs = {one.number: float(one.trial.user_attrs[cost]) for one in measured}
    figure = go.Figure()
    front = pareto_front(measured, values, costs)
    if front:
        _draw_front(figure, front, values, costs)
    _draw_trials(figure, [one for one in measured if one.baseline is None], values, costs)
    _draw_baselines(figure, [one for one in measured if one.baseline is not None], values, costs)
    cost_name = _COST_NAMES.get(cost, cost)
    shown_name = cost_name[0].upper() + cost_name[1:] if cost in _COST_NAMES else cost
    figure.update_xaxes(title_text=f"{shown_name} (lower is better)")
    if min(costs.values()) > 0.0 and max(costs.values()) > _LOGARITHMIC_FROM * min(costs.values()):
        figure.update_xaxes(type="log", dtick=1)
    figure.update_yaxes(title_text=values.axis_title)
    subtitle = _style.counted(len(measured), "complete trial")
    if front:
        subtitle += f", {len(front)} of them on the Pareto front (line)"
    _style.finish(figure, f"Cost: {cost_name}", subtitle)
    figure.update_layout(legend=_style.LEGEND_ABOVE)
    return figure


def _has_cost(one: PlannedTrial, name: str) -> bool:
    value = one.trial.user_attrs.get(name)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def pareto_front(
    measured: Sequence[PlannedTrial], values: Target, costs: dict[int, float]
) -> list[PlannedTrial]:
    """Return the trials that no other beats in value and cost, cheapest first.

    Empty if the target has no direction.
    """
    if values.direction is None:
        return []
    loss = {one.number: values.loss(values.values[one.number]) for one in measured}
    front: list[PlannedTrial] = []
    for one in sorted(measured, key=lambda one: (costs[one.number], loss[one.number], one.number)):
        if not front or loss[one.number] < loss[front[-1].number]:
            front.append(one)
    return front


def _draw_front(
    figure: go.Figure, front: Sequence[PlannedTrial], values: Target, costs: dict[int, float]
) -> None:
    figure.add_trace(
        go.Scatter(
            x=[costs[one.number] for one in front],
            y=[values.values[one.number] for one in front],
            mode="lines",
            line={"color": _style.VERMILION, "width": 2, "shape": "hv"},
            name="Pareto front",
            # The subtitle names it; in the legend there is no room on a dashboard.
            showlegend=False,
            hoverinfo="skip",
        )
    )


def _draw_trials(
    figure: go.Figure, trials: Sequence[PlannedTrial], values: Target, costs: dict[int, float]
) -> None:
    generations = [one.generation for one in trials]
    has_scale = len(set(generations)) > 1
    figure.add_trace(
        go.Scatter(
            x=[costs[one.number] for one in trials],
            y=[values.values[one.number] for one in trials],
            customdata=[one.describe() for one in trials],
            mode="markers",
            marker={
                "size": 8 if len(trials) <= 300 else 5,
                "color": generations if has_scale else _style.BLUE,
                "colorscale": "Cividis",
                "reversescale": True,
                "showscale": has_scale,
                "colorbar": _style.colorbar("Generation"),
                "line": {"width": 0.6, "color": _style.INK},
            },
            name="trial",
            showlegend=False,
            hovertemplate="%{y:.4g} at %{x:.4s}, %{customdata}<extra></extra>",
        )
    )


def _draw_baselines(
    figure: go.Figure, trials: Sequence[PlannedTrial], values: Target, costs: dict[int, float]
) -> None:
    for name in sorted({one.baseline for one in trials if one.baseline is not None}):
        alike = [one for one in trials if one.baseline == name]
        symbol, color = _BASELINES[name]
        figure.add_trace(
            go.Scatter(
                x=[costs[one.number] for one in alike],
                y=[values.values[one.number] for one in alike],
                customdata=[one.describe() for one in alike],
                mode="markers",
                marker={
                    "size": 13,
                    "symbol": symbol,
                    "color": color,
                    "line": {"width": 1.2, "color": _style.INK},
                },
                name=name,
                hovertemplate=name + ": %{y:.4g} at %{x:.4s}, %{customdata}<extra></extra>",
            )
        )
