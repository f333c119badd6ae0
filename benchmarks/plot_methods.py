"""Draw what ``compare_methods.py`` measured, a picture for each question.

    python benchmarks/plot_methods.py

Writes ``ranks.png``, ``parameters.png``, ``ablations.png`` and ``labels.png`` beside the results,
of those suites that have been run. Needs kaleido and a Chrome or Chromium browser.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
from compare_methods import RESULTS
from methods.ablations import base_of
from methods.cells import SUITES
from methods.ranks import Interval, difference, mean_ranks
from methods.tables import Group, groups
from plotly.subplots import make_subplots

# Okabe and Ito's colours, which people of all kinds of colour vision tell apart; others are grey.
COLOURS = {
    "BioTune": "#D55E00",
    "BioTune, paper": "#CC79A7",
    "TPE": "#0072B2",
    "full fine-tuning": "#56B4E9",
    "linear probe": "#009E73",
    "LoRA": "#E69F00",
}
OTHERS = "#777777"
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "star", "triangle-up", "triangle-down")


def read_groups(path: Path) -> list[Group]:
    """Read the results of a suite; those that have a target which every method has run.

    Args:
        path: The JSON file.
    """
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found = groups(result["records"], list(result["citations"]))
    return [group for group in found if group.scores().places]


def _error(intervals: Sequence[Interval]) -> dict[str, Any]:
    """Return plotly's error bars for means with unequal bounds."""
    return {
        "type": "data",
        "array": [one.high - one.mean for one in intervals],
        "arrayminus": [one.mean - one.low for one in intervals],
        "thickness": 1.2,
        "width": 3,
    }


def _titles(found: Sequence[Group]) -> list[str]:
    return [group.short_title for group in found]


def draw_ranks(found: Sequence[Group]) -> go.Figure:
    """Return a figure of the mean ranks, best at the top, a column a network and protocol."""
    figure = make_subplots(
        cols=len(found),
        subplot_titles=_titles(found),
        horizontal_spacing=0.2,
    )
    for column, group in enumerate(found, start=1):
        ranks = sorted(mean_ranks(group.scores()).items(), key=lambda item: -item[1].mean)
        names, intervals = zip(*ranks, strict=True)
        figure.add_scatter(
            x=[one.mean for one in intervals],
            y=names,
            error_x=_error(intervals),
            mode="markers",
            marker={"color": [COLOURS.get(name, OTHERS) for name in names], "size": 10},
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text="mean rank (1 is best)", row=1, col=column)
    return _laid_out(figure, width=620 * len(found), height=520)


def draw_parameters(found: Sequence[Group]) -> go.Figure:
    """Return a figure of the mean test accuracy against the numbers that train."""
    figure = make_subplots(cols=len(found), subplot_titles=_titles(found))
    for column, group in enumerate(found, start=1):
        scores = group.scores()
        for index, name in enumerate(group.methods):
            trained = fmean(r["final"]["trainable_parameters"] for r in group.of(name))
            figure.add_scatter(
                x=[trained],
                y=[float(scores.of(name).mean())],
                mode="markers",
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                marker={
                    "color": COLOURS.get(name, OTHERS),
                    "size": 11,
                    "symbol": SYMBOLS[index % len(SYMBOLS)],
                },
                row=1,
                col=column,
            )
        figure.update_xaxes(type="log", title_text="trained parameters", row=1, col=column)
    figure.update_yaxes(title_text="balanced test accuracy", row=1, col=1)
    return _laid_out(figure, width=620 * len(found), height=480, legend=True)


def draw_ablations(found: Sequence[Group]) -> go.Figure:
    """Return a figure of each variant's difference to its base, a row of bars a network."""
    figure = make_subplots(cols=len(found), subplot_titles=_titles(found))
    for column, group in enumerate(found, start=1):
        scores = group.scores()
        bases = {name: base_of(name) for name in reversed(group.methods)}
        pairs = {n: base for n, base in bases.items() if n != base and base in bases}
        intervals = [difference(scores, name, base) for name, base in pairs.items()]
        figure.add_bar(
            x=[one.mean for one in intervals],
            y=list(pairs),
            error_x=_error(intervals),
            orientation="h",
            marker_color=[COLOURS.get(base, OTHERS) for base in pairs.values()],
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text="balanced test accuracy, against its base", col=column)
    return _laid_out(figure, width=760 * len(found), height=520)


def draw_labels(found: Sequence[Group]) -> go.Figure:
    """Return a figure of the test accuracy by the number of images of a class, a column a target.

    Of the first network.
    """
    own = [group for group in found if group.network == found[0].network]
    targets = list(dict.fromkeys(target for g in own for target, _ in g.scores().places))
    figure = make_subplots(cols=len(targets), subplot_titles=targets)
    for column, target in enumerate(targets, start=1):
        for name in own[0].methods:
            values = _means_on(own, name, target)
            figure.add_scatter(
                x=list(values),
                y=list(values.values()),
                mode="lines+markers",
                line={"color": COLOURS.get(name, OTHERS), "width": 2},
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                row=1,
                col=column,
            )
    figure.update_xaxes(
        type="log",
        tickvals=sorted({group.images_per_class for group in own if group.images_per_class}),
        title_text="training images of each class",
    )
    figure.update_yaxes(title_text="balanced test accuracy", row=1, col=1)
    return _laid_out(figure, width=420 * len(targets), height=420, legend=True)


def _means_on(found: Sequence[Group], name: str, target: str) -> dict[int, float]:
    """Return a method's mean test value on a target by the number of images of a class."""
    values = {}
    for group in found:
        tests = [r["final"]["test"] for r in group.of(name) if r["cell"]["target"] == target]
        if tests and group.images_per_class is not None:
            values[group.images_per_class] = fmean(map(fmean, tests))
    return values


def _laid_out(figure: go.Figure, width: int, height: int, legend: bool = False) -> go.Figure:
    figure.update_layout(
        template="plotly_white",
        width=width,
        height=height,
        showlegend=legend,
        font={"family": "DejaVu Sans, Arial, sans-serif", "size": 13},
        margin={"l": 20, "r": 20, "t": 60, "b": 50},
    )
    figure.update_yaxes(automargin=True)
    return figure


FIGURES: dict[str, tuple[str, Callable[[Sequence[Group]], go.Figure]]] = {
    "ranks": ("main", draw_ranks),
    "parameters": ("main", draw_parameters),
    "ablations": ("ablations", draw_ablations),
    "labels": ("labels", draw_labels),
}
"""Name of each figure, the suite that it shows, and what draws it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the results and write the pictures.

    Args:
        arguments: The command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory of the results")
    options = parser.parse_args(arguments)
    suites = {name: options.results / f"{name}.json" for name in SUITES}
    found = {name: read_groups(path) for name, path in suites.items() if path.is_file()}
    if not any(found.values()):
        parser.error(f"{options.results} holds no results: run benchmarks/compare_methods.py.")
    for name, (suite, draw) in FIGURES.items():
        if found.get(suite):
            draw(found[suite]).write_image(options.results / f"{name}.png", scale=1.5)


if __name__ == "__main__":
    main()
