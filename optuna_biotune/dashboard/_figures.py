"""Figures small enough to live in a study's attributes, which every reader reads again."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go
from optuna import Study
from optuna.trial import FrozenTrial

from optuna_biotune import visualization

# Seven of these, two of which are always small, and the note stay below 200 kB.
MOST_BYTES = 34_000
# More trials make columns of a pixel or two: their generations are shown instead.
_MOST_COLUMNS = 150
_DIGITS = 5
_ONE_A_POINT = ("size", "opacity", "color", "symbol")
_COSTS = {"biotune-cost-parameters": "trainable_params", "biotune-cost-seconds": "seconds"}


def figures(study: Study, best: FrozenTrial | None) -> tuple[dict[str, go.Figure], dict[str, str]]:
    """Draw all plots of a study that can be drawn.

    With several objectives, plots of a value show the first one.

    Args:
        study: The study.
        best: The trial of the best plan; None if none is complete.

    Returns:
        Identifier to figure, and identifier to the reason why it cannot be drawn.
    """
    target: dict[str, Any] = {}
    if len(study.directions) > 1:
        names = study.metric_names
        target = {
            "target": lambda trial: trial.values[0],
            "target_name": "First objective" if names is None else names[0],
        }
    n_trials = len(study.get_trials(deepcopy=False))
    columns = {"by": "trial" if n_trials <= _MOST_COLUMNS else "generation"}
    plots: dict[str, tuple[Callable[..., go.Figure], dict[str, Any]]] = {
        "biotune-best-plan": (visualization.plot_best_plan, {} if target else {"trial": best}),
        "biotune-plans": (visualization.plot_plans, {**columns, **target}),
        "biotune-evolution": (visualization.plot_evolution, target),
        "biotune-block-effect": (visualization.plot_block_effect, target),
        "biotune-lineage": (visualization.plot_lineage, target),
    }
    for name, cost in _COSTS.items():
        plots[name] = (visualization.plot_accuracy_cost, {"cost": cost, **target})
    drawn: dict[str, go.Figure] = {}
    missing: dict[str, str] = {}
    for name, (plot, arguments) in plots.items():
        try:
            drawn[name] = compact(plot(study, **arguments))
        except ValueError as error:
            missing[name] = str(error)
    return drawn, missing


def compact(figure: go.Figure, most_bytes: int = MOST_BYTES) -> go.Figure:
    """Return a figure of at most so many bytes of JSON, with floats of five digits.

    A larger one loses what it shows under the pointer, and then every second, third, ... point or
    column. Lines, and the best trial, are never thinned out.
    """
    smaller = _from_dict(_rounded(figure.to_plotly_json()))
    if len(smaller.to_json()) <= most_bytes:
        return smaller
    smaller.update_traces(customdata=None, text=None, hovertemplate=None)
    bare = smaller.to_plotly_json()
    n_bytes = len(smaller.to_json())
    for step in range(math.ceil(n_bytes / most_bytes), n_bytes):
        if len(smaller.to_json()) <= most_bytes:
            break
        smaller = _from_dict({**bare, "data": [_thinned(trace, step) for trace in bare["data"]]})
    return smaller


def _thinned(trace: dict[str, Any], step: int) -> dict[str, Any]:
    """Keep each ``step``-th marker of a scatter plot or column of a heat map."""
    if trace["type"] == "heatmap":
        columns = range(0, len(trace["z"][0]), step)
        return {**trace, "x": list(columns), "z": [[row[x] for x in columns] for row in trace["z"]]}
    if trace["type"] != "scatter" or trace.get("mode") != "markers":
        return trace
    marker = {
        name: value[::step] if isinstance(value, list) and name in _ONE_A_POINT else value
        for name, value in trace["marker"].items()
    }
    return {**trace, "x": trace["x"][::step], "y": trace["y"][::step], "marker": marker}


def _from_dict(contents: dict[str, Any]) -> go.Figure:
    smaller = go.Figure(contents)
    # A new figure gets plotly's own template, 6 kB.
    smaller.update_layout(template=None)
    return smaller


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    return value
