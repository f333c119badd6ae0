"""Who came from whom: the family tree of a study's plans."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from optuna import Study

from optuna_biotune.tags import Role
from optuna_biotune.visualization import _style
from optuna_biotune.visualization._target import TargetFunction, read_target
from optuna_biotune.visualization._trials import PlannedTrial, planned_trials, side_by_side

Point = tuple[float, float | None]

# The lines of more trials would cover each other.
_MOST_TRIALS_WITH_ALL_LINES = 300
_WIDTH_OF_A_GENERATION = 0.56

# Legend entry of each kind of trial: its roles, symbol and colour.
_KINDS: dict[str, tuple[tuple[Role, ...], str, str]] = {
    "random": (("initial", "fresh"), "circle", _style.MUTED),
    "baseline": (("baseline",), "hexagon", _style.GREEN),
    "not from BioTune": (("adopted",), "square", _style.PURPLE),
    "step from elite": (("elite_plus", "elite_minus"), "triangle-up", _style.ORANGE),
    "offspring": (("offspring",), "diamond", _style.BLUE),
    "mutant": (("mutant",), "triangle-down", _style.SKY),
}


def plot_lineage(
    study: Study,
    *,
    target: TargetFunction | None = None,
    target_name: str | None = None,
) -> go.Figure:
    """Plot which trials came from which, generation by generation.

    Lines run from parents to children: two parents of an offspring, the one of a mutant, the elite
    of a step. The
    ancestors of the best trial are drawn strongly, and of more than 300 trials only their lines.
    Trials that BioTuneSampler did not propose belong to generation 0 and have no parents.

    Args:
        study: The study.
        target: Gives the height of a trial. None: the objective's value, if there is one objective.
        target_name: Its name.

    Returns:
        The figure. Pruned trials are shown with their last reported value, as open symbols. No
        ancestors are marked if the target is none of the study's objectives, whose directions are
        known.

    Raises:
        TypeError: If ``study`` is no study.
        ValueError: If no trial has finished or none has a plan, or ``target`` is missing.
    """
    planned = planned_trials(study)
    values = read_target(study, planned, target, target_name)
    shown = [one for one in planned if values.of(one) is not None]
    places = side_by_side(shown, _WIDTH_OF_A_GENERATION)
    points = {one.number: (places[one.number], values.of(one)) for one in shown}
    best = values.best(shown)
    ancestors = ancestry(best, shown) if best is not None else set()
    figure = go.Figure()
    if len(shown) <= _MOST_TRIALS_WITH_ALL_LINES:
        others = [one for one in shown if one.number not in ancestors]
        _draw_lines(figure, others, points, "parent to child", _style.FAINT, 0.8)
    family = [one for one in shown if one.number in ancestors]
    if len(family) > 1:
        _draw_lines(figure, family, points, "ancestors of the best", _style.VERMILION, 1.6)
    for name, (roles, symbol, color) in _KINDS.items():
        alike = [one for one in shown if one.tag.role in roles and one.is_complete]
        if alike:
            _draw_trials(figure, alike, points, ancestors, name, symbol, color)
    _draw_pruned(figure, [one for one in shown if not one.is_complete], points, ancestors)
    if best is not None:
        x, y = points[best.number]
        figure.add_trace(
            go.Scatter(
                x=[x],
                y=[y],
                customdata=[best.describe()],
                mode="markers",
                marker={
                    "symbol": "star",
                    "size": 16,
                    "color": _style.VERMILION,
                    "line": {"width": 1, "color": "white"},
                },
                name="best",
                hovertemplate="best: %{y:.4g}, %{customdata}<extra></extra>",
            )
        )
    last = max((one.generation for one in shown), default=0)
    figure.update_xaxes(title_text="Generation", range=[-0.5, last + 0.5], showgrid=False)
    if last < 20:
        figure.update_xaxes(dtick=1)
    figure.update_yaxes(title_text=values.axis_title)
    subtitle = _style.counted(len(shown), "trial")
    if best is not None and len(ancestors) > 1:
        subtitle += f"; the best, trial {best.number}, has {len(ancestors) - 1} ancestors"
    _style.finish(figure, "Lineage", subtitle)
    figure.update_layout(legend=_style.LEGEND_BESIDE)
    return figure


def ancestry(one: PlannedTrial, planned: Sequence[PlannedTrial]) -> set[int]:
    """Return the numbers of a trial and of all trials that it descends from."""
    by_number = {other.number: other for other in planned}
    found: set[int] = set()
    open_numbers = [one.number]
    while open_numbers:
        number = open_numbers.pop()
        if number in by_number and number not in found:
            found.add(number)
            open_numbers.extend(by_number[number].tag.parents)
    return found


def _draw_lines(
    figure: go.Figure,
    children: Sequence[PlannedTrial],
    points: dict[int, Point],
    name: str,
    color: str,
    width: float,
) -> None:
    x: list[float | None] = []
    y: list[float | None] = []
    for child in children:
        for parent in child.tag.parents:
            if parent in points:
                (x_parent, y_parent), (x_child, y_child) = points[parent], points[child.number]
                x += [x_parent, x_child, None]
                y += [y_parent, y_child, None]
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="lines",
            line={"color": color, "width": width},
            name=name,
            hoverinfo="skip",
        )
    )


def _draw_trials(
    figure: go.Figure,
    trials: Sequence[PlannedTrial],
    points: dict[int, Point],
    ancestors: set[int],
    name: str,
    symbol: str,
    color: str,
) -> None:
    figure.add_trace(
        go.Scatter(
            x=[points[one.number][0] for one in trials],
            y=[points[one.number][1] for one in trials],
            customdata=[one.describe() for one in trials],
            mode="markers",
            marker={
                "symbol": symbol,
                "size": [10 if one.number in ancestors else 7 for one in trials],
                "color": color,
                "opacity": [1.0 if one.number in ancestors else 0.6 for one in trials],
            },
            name=name,
            hovertemplate="%{y:.4g}, %{customdata}<extra></extra>",
        )
    )


def _draw_pruned(
    figure: go.Figure,
    pruned: Sequence[PlannedTrial],
    points: dict[int, Point],
    ancestors: set[int],
) -> None:
    """Draw pruned trials as open symbols, under one name in the legend."""
    first = len(figure.data)
    for roles, symbol, color in _KINDS.values():
        alike = [one for one in pruned if one.tag.role in roles]
        if alike:
            _draw_trials(figure, alike, points, ancestors, "pruned", f"{symbol}-open", color)
    for place, drawn in enumerate(figure.data[first:]):
        drawn.update(legendgroup="pruned", showlegend=place == 0)
