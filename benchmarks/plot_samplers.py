"""Draw what ``compare_samplers.py`` measured: the samplers' mean ranks as evaluations go on.

    python benchmarks/plot_samplers.py --out docs/samplers.png

Needs kaleido and a Chrome or Chromium browser to write the picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from sampler_tables import (
    checkpoints_of,
    mean_ranks,
    read_lines,
    values_by_sampler,
    with_best_value,
)

RESULT = Path(__file__).parent / "results" / "samplers.jsonl"

# Okabe and Ito's colours, which people of all kinds of colour vision tell apart; others are grey.
COLOURS = {
    "BioTune": "#D55E00",
    "BioTune, best value": "#E69F00",
    "BioTune, paper": "#CC79A7",
    "TPE": "#0072B2",
    "CMA-ES": "#009E73",
    "GP": "#000000",
    "NSGA-II": "#56B4E9",
}
OTHERS = "#999999"
DASHES = {"BioTune, best value": "dash", "TPE, genes": "dash", "TPE, multivariate": "dot"}


def draw(lines: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Return a figure of the mean ranks, 1 at the top, with 95 % bootstrap intervals.

    Args:
        lines: The searches of a result file.
    """
    lines = with_best_value(lines)
    landscapes = sorted({line["landscape"] for line in lines})
    samplers = sorted({line["sampler"] for line in lines})
    checkpoints = checkpoints_of(lines)
    values = values_by_sampler(lines, landscapes, samplers, checkpoints)
    figure = go.Figure()
    for name, ranks in mean_ranks(values).items():
        figure.add_scatter(
            x=[str(n) for n in checkpoints],
            y=[mean for mean, _, _ in ranks],
            error_y={
                "type": "data",
                "array": [high - mean for mean, _, high in ranks],
                "arrayminus": [mean - low for mean, low, _ in ranks],
                "thickness": 1.2,
                "width": 3,
            },
            mode="lines+markers",
            line={
                "color": COLOURS.get(name, OTHERS),
                "dash": DASHES.get(name, "solid"),
                "width": 3 if name == "BioTune" else 2,
            },
            name=name,
        )
    figure.update_yaxes(title_text="mean rank (1 is best)", autorange="reversed")
    figure.update_xaxes(title_text="evaluations", type="category")
    figure.update_layout(
        template="plotly_white",
        width=900,
        height=480,
        font={"family": "DejaVu Sans, Arial, sans-serif", "size": 14},
        margin={"l": 70, "r": 20, "t": 20, "b": 60},
    )
    return figure


def main() -> None:
    """Read the searches and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULT)
    parser.add_argument("--out", type=Path, default=Path("docs/samplers.png"))
    options = parser.parse_args()
    lines = read_lines(options.results)
    if not lines:
        parser.error(f"{options.results} holds no results: run benchmarks/compare_samplers.py.")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(lines).write_image(options.out, scale=1.5)


if __name__ == "__main__":
    main()
