"""The best plan of a study: how fast each block trains, by depth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go
from optuna import Study
from optuna.trial import FrozenTrial

from optuna_biotune.visualization import _style
from optuna_biotune.visualization._target import Target, read_target
from optuna_biotune.visualization._trials import (
    PlannedTrial,
    planned_trials,
    recommended,
    shown_rate,
)

_MOST_PLANS_OF_A_FRONT = 10
# Where frozen blocks stand on the axis of log10 multipliers, which begins at -1.
_FROZEN_AT = -1.35


def plot_best_plan(study: Study, *, trial: FrozenTrial | None = None) -> go.Figure:
    """Plot the learning rate of each block in the best plan, against full fine-tuning.

    The best plan is that of :func:`optuna_biotune.best_trial`, by all trials of the study. It need
    not have the best value, which owes something to luck.

    Bars reach from full fine-tuning, which trains every block at the base learning rate, to the
    block's multiplier; frozen blocks are hatched. With several objectives, up to ten plans of the
    Pareto front are drawn, one a row, sorted by the first objective.

    Args:
        study: The study. Trials of baselines in it (full fine-tuning, the last block or two, at
            the base learning rate) are named with their values.
        trial: A complete trial of the study, to show its plan instead. Not with several objectives.

    Raises:
        TypeError: If ``study`` is no study.
        ValueError: If no trial is complete or none has a plan, ``trial`` is none of them, or it is
            given with several objectives.
    """
    planned = planned_trials(study)
    complete = [one for one in planned if one.is_complete]
    if not complete:
        raise ValueError(f"`study` {study.study_name!r} has no complete trial with a plan.")
    figure = go.Figure()
    names = complete[0].plan.names
    figure.update_xaxes(
        title_text="Block, from input to head",
        tickvals=list(range(len(names))),
        ticktext=list(names),
        range=[-0.5, len(names) - 0.5],
        showgrid=False,
    )
    if len(study.directions) > 1:
        if trial is not None:
            raise ValueError("`trial` must not be given, because `study` has several objectives.")
        return _style.finish(figure, "Best plans", _draw_front(figure, study, complete))
    chosen = _chosen(study, planned, trial)
    subtitle = _draw_best(figure, study, complete, chosen)
    _draw_full(figure)
    _style.finish(figure, "Best plan", subtitle)
    figure.update_layout(bargap=0.35, margin={"r": 90})
    return figure


def _draw_full(figure: go.Figure) -> None:
    """Draw the line of full fine-tuning, and the axis."""
    figure.add_hline(y=0.0, line={"color": _style.INK, "width": 1.2, "dash": "dash"})
    figure.add_annotation(
        x=1.0,
        xref="paper",
        xanchor="left",
        xshift=6,
        y=0.0,
        text="full<br>fine-tuning",
        align="left",
        showarrow=False,
        font={"size": 12, "color": _style.MUTED},
    )
    figure.update_yaxes(
        title_text="Learning rate / base learning rate",
        tickvals=[_FROZEN_AT, *_style.RATE_TICKS],
        ticktext=["frozen", *_style.RATE_TICKS.values()],
        range=[-1.55, 1.4],
    )


def _chosen(
    study: Study, planned: Sequence[PlannedTrial], trial: FrozenTrial | None
) -> PlannedTrial:
    if trial is None:
        return recommended(study, planned)
    for one in planned:
        if one.is_complete and one.number == trial.number:
            return one
    raise ValueError(
        f"`trial` must be a complete trial of `study` with a plan, but is trial {trial.number}."
    )


def _draw_best(
    figure: go.Figure, study: Study, complete: Sequence[PlannedTrial], best: PlannedTrial
) -> str:
    """Draw the best trial's plan as bars and return the subtitle."""
    rates = list(best.plan.multipliers.values())
    tuned = [(x, rate) for x, rate in enumerate(rates) if rate > 0.0]
    figure.add_trace(
        go.Bar(
            x=[x for x, _ in tuned],
            y=[round(math.log10(rate), 4) for _, rate in tuned],
            text=[_bar_text(best, x) for x, _ in tuned],
            textposition="outside",
            cliponaxis=False,
            marker={
                "color": [math.log10(rate) for _, rate in tuned],
                "colorscale": _style.RATE_SCALE,
                "cmin": -1.0,
                "cmax": 1.0,
                "line": {"width": 1, "color": _style.MUTED},
            },
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
    )
    frozen = [x for x, rate in enumerate(rates) if rate == 0.0]
    figure.add_trace(
        go.Bar(
            x=frozen,
            y=[_FROZEN_AT] * len(frozen),
            marker={
                "color": "white",
                "line": {"width": 1, "color": _style.FAINT},
                "pattern": {"shape": "/", "fgcolor": _style.FROZEN, "size": 8},
            },
            name="frozen",
            hovertemplate="frozen<extra></extra>",
            showlegend=False,
        )
    )
    values = read_target(study, complete, None, None)
    shown = [f"{one.baseline} {_value(values, one)}" for one in values.baselines(complete).values()]
    return ", ".join([f"Trial {best.number}: {_value(values, best)}", *shown])


def _value(values: Target, one: PlannedTrial) -> str:
    return _style.shown(values.values[one.number]) if one.number in values.values else "infinite"


def _bar_text(one: PlannedTrial, block: int) -> str:
    """Return the multiplier of a block and, where it is known, its absolute learning rate."""
    name = one.plan.names[block]
    text = f"\u00d7{shown_rate(one.plan.multipliers[name])}"
    absolute = one.trial.user_attrs.get(f"lr/{name}")
    return (
        text
        if not isinstance(absolute, float)
        else f"{text}<br>{absolute:.1e}".replace("e-0", "e-")
    )


def _draw_front(figure: go.Figure, study: Study, complete: Sequence[PlannedTrial]) -> str:
    """Draw plans of the Pareto front as rows of blocks and return the subtitle."""
    on_front = {trial.number for trial in study.best_trials}
    front = [one for one in complete if one.number in on_front]
    front.sort(key=lambda one: (*one.trial.values, one.number))
    n_shown = min(len(front), _MOST_PLANS_OF_A_FRONT)
    shown = [front[round(i * (len(front) - 1) / max(1, n_shown - 1))] for i in range(n_shown)]
    rates = [list(one.plan.multipliers.values()) for one in shown]
    labels = [
        f"trial {one.number}: " + ", ".join(_style.shown(value) for value in one.trial.values)
        for one in shown
    ]
    for is_frozen in (True, False):
        figure.add_trace(
            go.Heatmap(
                z=[[_cell(rate, is_frozen) for rate in row] for row in rates],
                y=labels,
                text=[
                    [shown_rate(rate) if (rate == 0.0) == is_frozen else "" for rate in row]
                    for row in rates
                ],
                texttemplate="%{text}",
                textfont={"size": 12},
                zmin=-1.0,
                zmax=1.0,
                colorscale=[[0.0, _style.FROZEN], [1.0, _style.FROZEN]]
                if is_frozen
                else _style.RATE_SCALE,
                showscale=not is_frozen,
                colorbar=_style.rate_colorbar(),
                xgap=1,
                ygap=2,
                hoverongaps=False,
                hovertemplate="%{y}: %{text}<extra></extra>",
            )
        )
    figure.update_yaxes(showgrid=False)
    names = ", ".join(study.metric_names or ())
    return f"{n_shown} of {_style.counted(len(front), 'plan')} on the Pareto front" + (
        f", by {names}" if names else ", by objective values"
    )


def _cell(rate: float, is_frozen: bool) -> float | None:
    """Return the height of a cell, None where it is not drawn."""
    if is_frozen:
        return 0.0 if rate == 0.0 else None
    return round(math.log10(rate), 3) if rate > 0.0 else None
