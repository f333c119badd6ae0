"""Draw what ``run_target.py`` measured: each target's plan, and its test accuracy beside others.

    python benchmarks/plot_results.py --out docs/results.png

Needs kaleido and a Chrome or Chromium browser to write the picture.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

# Okabe and Ito's colours, which people of all kinds of colour vision tell apart.
COLOURS = {
    "BioTune": "#D55E00",
    "linear probe": "#999999",
    "linear probe, tuned rate": "#666666",
    "full fine-tuning": "#56B4E9",
    "full fine-tuning, tuned rate": "#0072B2",
}
TUNED = COLOURS["BioTune"]


def draw(results: list[dict[str, Any]]) -> go.Figure:
    """Return a figure with one column a target: accuracies above, BioTune's plan below.

    Args:
        results: The contents of run_target's JSON files.
    """
    titles = [f"{r['setting']['target']} ({r['data']['shows']})" for r in results]
    figure = make_subplots(
        rows=2,
        cols=len(results),
        subplot_titles=titles,
        row_heights=[0.55, 0.45],
        vertical_spacing=0.13,
        horizontal_spacing=0.06,
    )
    for column, result in enumerate(results, start=1):
        _add_accuracies(figure, result, column)
        _add_plan(figure, result, column)
    figure.update_yaxes(title_text="balanced test accuracy", row=1, col=1)
    figure.update_yaxes(title_text="learning rate, times base", row=2, col=1)
    figure.update_layout(
        template="plotly_white",
        width=1100,
        height=560,
        font={"family": "DejaVu Sans, Arial, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 1.14, "x": 0.5, "xanchor": "center"},
        margin={"l": 70, "r": 20, "t": 85, "b": 50},
    )
    return figure


def _add_accuracies(figure: go.Figure, result: dict[str, Any], column: int) -> None:
    for name, refit in result["refits"].items():
        values = refit["test"]["balanced_accuracy"]
        figure.add_bar(
            x=[name],
            y=[fmean(values)],
            error_y={"type": "data", "array": [stdev(values)], "thickness": 1.5},
            marker_color=COLOURS[name],
            name=name,
            legendgroup=name,
            showlegend=column == 1,
            row=1,
            col=column,
        )
    figure.update_xaxes(showticklabels=False, row=1, col=column)


def _add_plan(figure: go.Figure, result: dict[str, Any], column: int) -> None:
    multipliers = result["refits"]["BioTune"]["multipliers"]
    names = list(multipliers)
    logs = [math.log10(m) if m else 0.0 for m in multipliers.values()]
    figure.add_bar(
        x=names,
        y=[log if m else None for log, m in zip(logs, multipliers.values(), strict=True)],
        marker_color=TUNED,
        showlegend=False,
        row=2,
        col=column,
    )
    frozen = [name for name, m in multipliers.items() if not m]
    figure.add_scatter(
        x=frozen,
        y=[0.0] * len(frozen),
        mode="markers+text",
        marker={"symbol": "x", "size": 9, "color": "#555555"},
        text=["frozen"] * len(frozen),
        textposition="top center",
        textfont={"size": 11, "color": "#555555"},
        showlegend=False,
        row=2,
        col=column,
    )
    figure.update_xaxes(categoryorder="array", categoryarray=names, row=2, col=column)
    figure.update_yaxes(
        range=[-1.05, 1.05],
        tickvals=[-1.0, -0.5, 0.0, 0.5, 1.0],
        ticktext=["0.1", "0.3", "1", "3", "10"],
        row=2,
        col=column,
    )


def main() -> None:
    """Read the results and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    results = Path(__file__).parent / "results" / "run_target"
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument("--out", type=Path, default=Path("docs/results.png"))
    options = parser.parse_args()
    loaded = [json.loads(path.read_text()) for path in sorted(options.results.glob("*.json"))]
    if not loaded:
        parser.error(f"{options.results} holds no results: run benchmarks/run_target.py first.")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(loaded).write_image(options.out, scale=1.5)


if __name__ == "__main__":
    main()
