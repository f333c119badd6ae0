"""The plans of a study, as a picture of blocks by trials or generations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import plotly.graph_objects as go
from optuna import Study
from plotly.subplots import make_subplots

from optuna_biotune.visualization import _style
from optuna_biotune.visualization._target import Target, TargetFunction, read_target
from optuna_biotune.visualization._trials import (
    PlannedTrial,
    best_first,
    by_generation,
    planned_trials,
    shown_rate,
)

# More columns are too narrow for a cross in each of their frozen cells.
_MOST_CROSSED_COLUMNS = 80
_MOST_TICKS = 16


def plot_plans(
    study: Study,
    *,
    by: Literal["trial", "generation"] = "trial",
    target: TargetFunction | None = None,
    target_name: str | None = None,
) -> go.Figure:
    """Plot each trial's plan as a column of blocks, with the objective's value above it.

    The colour is the learning-rate multiplier, on a logarithmic scale; frozen cells are grey. The
    head is at the top.

    Args:
        study: The study.
        by: ``"trial"``: a column a trial, ordered by generation. ``"generation"``: a column a
            generation, the plan of its best trial.
        target: Gives the value above a column. None: the objective's value; with several
            objectives no value is shown.
        target_name: Its name.

    Returns:
        The figure. Pruned trials are shown with their last reported value, as open circles.

    Raises:
        TypeError: If ``study`` is no study.
        ValueError: If no trial has finished or none has a plan, or ``by`` is something else.
    """
    if by not in ("trial", "generation"):
        raise ValueError(f'`by` must be "trial" or "generation", but got {by!r}.')
    planned = planned_trials(study)
    columns = planned
    if by == "generation":
        columns = [best_first(study, members)[0] for members in by_generation(planned).values()]
    has_values = target is not None or len(study.directions) == 1
    figure = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.3, 0.7], vertical_spacing=0.05)
    _draw_blocks(figure, columns)
    if has_values:
        _draw_values(figure, columns, read_target(study, planned, target, target_name))
    positions, numbers = _ticks(columns, by)
    figure.update_xaxes(
        tickvals=positions, ticktext=numbers, range=[-0.5, len(columns) - 0.5], showgrid=False
    )
    figure.update_xaxes(title_text=by.capitalize(), row=2)
    if by == "trial":
        _separate_generations(figure, columns)
    subtitle = f"{_style.counted(len(planned), 'trial')}; learning-rate multiplier of each block"
    if by == "generation":
        subtitle = "The best trial of each generation; learning-rate multiplier of each block"
    _style.finish(figure, "Plans", subtitle)
    if not has_values:
        figure.update_layout(yaxis={"domain": [0.99, 1.0], "visible": False})
        figure.update_layout(yaxis2={"domain": [0.0, 1.0]})
    figure.update_yaxes(showgrid=False, row=2)
    figure.update_layout(legend={**_style.LEGEND_ABOVE, "itemclick": False})
    return figure


def _draw_blocks(figure: go.Figure, columns: Sequence[PlannedTrial]) -> None:
    names = columns[0].plan.names
    rates = [[one.plan.multipliers[name] for one in columns] for name in names]
    figure.add_trace(
        go.Heatmap(
            z=[[1 if rate == 0.0 else None for rate in row] for row in rates],
            y=list(names),
            colorscale=[[0.0, _style.FROZEN], [1.0, _style.FROZEN]],
            showscale=False,
            hoverinfo="skip",
        ),
        row=2,
        col=1,
    )
    figure.add_trace(
        go.Heatmap(
            z=[[round(math.log10(rate), 3) if rate else None for rate in row] for row in rates],
            y=list(names),
            customdata=[[shown_rate(rate) for rate in row] for row in rates],
            text=[[one.number for one in columns]] * len(names),
            hovertemplate="trial %{text}, %{y}: %{customdata}<extra></extra>",
            zmin=-1.0,
            zmax=1.0,
            colorscale=_style.RATE_SCALE,
            colorbar={
                **_style.rate_colorbar(),
                "len": 0.8,
                "y": 0.0,
                "yanchor": "bottom",
            },
        ),
        row=2,
        col=1,
    )
    crossed = len(columns) <= _MOST_CROSSED_COLUMNS
    frozen = [
        (x, name)
        for name, row in zip(names, rates, strict=True)
        for x, rate in enumerate(row)
        if rate == 0.0 and crossed
    ]
    # Without crosses one marker left of the axis is enough for the legend.
    figure.add_trace(
        go.Scatter(
            x=[x for x, _ in frozen] or [-1],
            y=[name for _, name in frozen] or [names[0]],
            mode="markers",
            marker={
                "symbol": "x-thin" if crossed else "square",
                "size": max(3.0, min(8.0, 300.0 / len(columns))) if crossed else 10,
                "line": {"width": 1, "color": "#6b737d"},
                "color": _style.FROZEN,
            },
            name="frozen",
            hovertemplate="%{y}: frozen<extra></extra>",
        ),
        row=2,
        col=1,
    )


def _draw_values(figure: go.Figure, columns: Sequence[PlannedTrial], target: Target) -> None:
    for complete in (True, False):
        valued = [
            (x, value, one.describe())
            for x, one in enumerate(columns)
            if one.is_complete == complete and (value := target.of(one)) is not None
        ]
        if not valued:
            continue
        figure.add_trace(
            go.Scatter(
                x=[x for x, _, _ in valued],
                y=[value for _, value, _ in valued],
                customdata=[text for _, _, text in valued],
                mode="markers",
                marker={
                    "size": 6 if len(columns) <= 2 * _MOST_CROSSED_COLUMNS else 3,
                    "color": _style.BLUE if complete else "white",
                    "line": {"width": 0 if complete else 1.2, "color": _style.BLUE},
                },
                name="complete" if complete else "pruned",
                showlegend=not complete,
                hovertemplate="%{y:.4g}, %{customdata}<extra></extra>",
            ),
            row=1,
            col=1,
        )
    best = target.best(columns)
    if best is not None:
        figure.add_trace(
            go.Scatter(
                x=[columns.index(best)],
                y=[target.values[best.number]],
                mode="markers",
                marker={"symbol": "star", "size": 13, "color": _style.VERMILION},
                name="best",
                customdata=[best.describe()],
                hovertemplate="best: %{y:.4g}, %{customdata}<extra></extra>",
            ),
            row=1,
            col=1,
        )
    figure.update_yaxes(title_text=target.name, nticks=4, row=1)


def _ticks(columns: Sequence[PlannedTrial], by: str) -> tuple[list[int], list[str]]:
    """Return the positions and texts of at most 16 ticks, evenly spread."""
    step = math.ceil(len(columns) / _MOST_TICKS)
    positions = list(range(0, len(columns), step))
    return positions, [
        str(columns[x].generation if by == "generation" else columns[x].number) for x in positions
    ]


def _separate_generations(figure: go.Figure, columns: Sequence[PlannedTrial]) -> None:
    """Draw a line before each generation but the first, while there is room for them."""
    starts = [
        x for x, one in enumerate(columns) if x > 0 and one.generation != columns[x - 1].generation
    ]
    if len(starts) > 30:
        return
    for x in starts:
        figure.add_shape(
            type="line",
            x0=x - 0.5,
            x1=x - 0.5,
            xref="x2",
            y0=0.0,
            y1=1.0,
            yref="paper",
            line={"color": _style.INK, "width": 1},
        )
