"""How the values and the variety of a study's plans change over the generations."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from optuna import Study
from plotly.subplots import make_subplots

from optuna_biotune.genotype import IMPORTANCE_PREFIX, THRESHOLD_NAME
from optuna_biotune.visualization import _style
from optuna_biotune.visualization._target import Target, TargetFunction, read_target
from optuna_biotune.visualization._trials import (
    PlannedTrial,
    by_generation,
    planned_trials,
    side_by_side,
)

_WIDTH_OF_A_GENERATION = 0.4
_MOST_MARKED_GENERATIONS = 30


def plot_evolution(
    study: Study,
    *,
    target: TargetFunction | None = None,
    target_name: str | None = None,
) -> go.Figure:
    """Plot best, mean and spread of the objective's value in each generation, and diversity.

    The diversity of a generation is the standard deviation of each gene (importances and freezing
    threshold, all in [0, 1]) over its trials, averaged over the genes: 0.29 for random plans, 0
    for equal ones. Trials that BioTuneSampler did not propose belong to generation 0.

    Args:
        study: The study.
        target: Gives the value of a trial. None: the objective's value, if there is one objective.
        target_name: Its name.

    Returns:
        The figure. Mean and spread (one standard deviation to both sides) are those of complete
        trials; pruned ones are shown as open circles at their last reported value. The best is
        left out if the target is none of the study's objectives, whose directions are known.

    Raises:
        TypeError: If ``study`` is no study.
        ValueError: If no trial has finished or none has a plan, or ``target`` is missing.
    """
    planned = planned_trials(study)
    values = read_target(study, planned, target, target_name)
    figure = make_subplots(
        rows=2, shared_xaxes=True, row_heights=[0.72, 0.28], vertical_spacing=0.06
    )
    groups = by_generation(planned)
    mode = "lines+markers" if len(groups) <= _MOST_MARKED_GENERATIONS else "lines"
    _draw_trials(figure, planned, values)
    _draw_mean(figure, groups, values, mode)
    _draw_best(figure, groups, values, mode)
    figure.add_trace(
        go.Scatter(
            x=list(groups),
            y=[round(diversity(members), 4) for members in groups.values()],
            mode=mode,
            line={"color": _style.GREEN, "width": 2},
            marker={"size": 6},
            name="diversity",
            showlegend=False,
            hovertemplate="generation %{x}: diversity %{y:.3f}<extra></extra>",
        ),
        row=2,
        col=1,
    )
    last = max(groups)
    figure.update_xaxes(range=[-0.5, last + 0.5], showgrid=False)
    if last < 20:
        figure.update_xaxes(dtick=1)
    figure.update_xaxes(title_text="Generation", row=2)
    figure.update_yaxes(title_text=values.axis_title, row=1)
    figure.update_yaxes(title_text="Diversity", rangemode="tozero", nticks=4, row=2)
    subtitle = ", ".join(
        [_style.counted(len(planned), "trial"), _style.counted(len(groups), "generation")]
    )
    best = values.best(planned)
    if best is not None:
        subtitle += f"; best {_style.shown(values.values[best.number])} in trial {best.number}"
    _style.finish(figure, "Evolution", subtitle)
    figure.update_layout(legend=_style.LEGEND_ABOVE)
    return figure


def diversity(members: Sequence[PlannedTrial]) -> float:
    """Return the standard deviation of each gene over the trials, averaged over the genes."""
    genes = [f"{IMPORTANCE_PREFIX}{name}" for name in members[0].plan.names] + [THRESHOLD_NAME]
    matrix = np.asarray([[one.trial.params[gene] for gene in genes] for one in members])
    return float(matrix.std(axis=0).mean())


def _draw_trials(figure: go.Figure, planned: Sequence[PlannedTrial], values: Target) -> None:
    places = side_by_side(planned, _WIDTH_OF_A_GENERATION)
    for complete in (True, False):
        valued = [
            (one, value)
            for one in planned
            if one.is_complete == complete and (value := values.of(one)) is not None
        ]
        if not valued:
            continue
        figure.add_trace(
            go.Scatter(
                x=[places[one.number] for one, _ in valued],
                y=[value for _, value in valued],
                customdata=[one.describe() for one, _ in valued],
                mode="markers",
                marker={
                    "size": 5,
                    "opacity": 0.55 if complete else 0.8,
                    "color": _style.MUTED if complete else "white",
                    "line": {"width": 0 if complete else 1, "color": _style.MUTED},
                },
                name="trial" if complete else "pruned trial",
                hovertemplate="%{y:.4g}, %{customdata}<extra></extra>",
            ),
            row=1,
            col=1,
        )


def _draw_mean(
    figure: go.Figure, groups: dict[int, list[PlannedTrial]], values: Target, mode: str
) -> None:
    measured = {
        generation: [values.values[one.number] for one in members if one.number in values.values]
        for generation, members in groups.items()
    }
    measured = {generation: found for generation, found in measured.items() if found}
    means = [statistics.fmean(found) for found in measured.values()]
    spreads = [statistics.pstdev(found) for found in measured.values()]
    generations = list(measured)
    figure.add_trace(
        go.Scatter(
            x=[*generations, *reversed(generations)],
            y=[mean + spread for mean, spread in zip(means, spreads, strict=True)]
            + [m - s for m, s in zip(reversed(means), reversed(spreads), strict=True)],
            mode="lines",
            fill="toself",
            fillcolor="rgba(0, 114, 178, 0.16)",
            line={"width": 0},
            name="spread",
            hoverinfo="skip",
        ),
        row=1,
        col=1,
    )
    figure.add_trace(
        go.Scatter(
            x=generations,
            y=means,
            customdata=[[s, len(f)] for s, f in zip(spreads, measured.values(), strict=True)],
            # A band of one generation has no width.
            error_y={"array": spreads, "visible": len(generations) == 1, "thickness": 1.5},
            mode=mode,
            line={"color": _style.BLUE, "width": 2},
            marker={"size": 6},
            name="mean",
            hovertemplate="generation %{x}: mean %{y:.4g} ± %{customdata[0]:.2g} of "
            "%{customdata[1]} trials<extra></extra>",
        ),
        row=1,
        col=1,
    )


def _draw_best(
    figure: go.Figure, groups: dict[int, list[PlannedTrial]], values: Target, mode: str
) -> None:
    best: PlannedTrial | None = None
    steps: list[tuple[int, PlannedTrial]] = []
    for generation, members in groups.items():
        best = values.best([one for one in [best, *members] if one is not None])
        if best is not None:
            steps.append((generation, best))
    if not steps:
        return
    figure.add_trace(
        go.Scatter(
            x=[generation for generation, _ in steps],
            y=[values.values[one.number] for _, one in steps],
            customdata=[one.describe() for _, one in steps],
            mode=mode,
            line={"color": _style.VERMILION, "width": 2.5, "shape": "hv"},
            marker={"size": 7, "symbol": "diamond"},
            name="best so far",
            hovertemplate="best so far %{y:.4g}, %{customdata}<extra></extra>",
        ),
        row=1,
        col=1,
    )
