"""How all plots look: on a dashboard, 450 pixels high, and on paper, in any colour vision."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

HEIGHT = 450

INK = "#22272e"
MUTED = "#5f6873"
FAINT = "#c3c9d0"
GRID = "#e6e9ed"
FROZEN = "#b4bac2"

# Okabe and Ito's colours, told apart in any colour vision.
BLUE = "#0072b2"
ORANGE = "#e69f00"
GREEN = "#009e73"
VERMILION = "#d55e00"
PURPLE = "#cc79a7"
SKY = "#56b4e9"
DISTINCT = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)

# log10 of the multiplier from -1 to 1: slower than the base rate blue, faster orange.
RATE_SCALE = [
    [0.0, "#16437e"],
    [0.25, "#5b9bd0"],
    [0.5, "#f7f4ee"],
    [0.75, "#f0a04b"],
    [1.0, "#9c3a06"],
]
RATE_TICKS = {-1.0: "0.1", -0.5: "0.32", 0.0: "1", 0.5: "3.2", 1.0: "10"}

LEGEND_BESIDE = {"x": 1.01, "xanchor": "left", "y": 1.0, "yanchor": "top"}
LEGEND_ABOVE = {"orientation": "h", "x": 1.0, "xanchor": "right", "y": 1.01, "yanchor": "bottom"}


def finish(figure: go.Figure, title: str, subtitle: str) -> go.Figure:
    """Give a figure its title, fonts, margins and axes, and return it.

    Args:
        figure: The figure, which is changed.
        title: What it shows.
        subtitle: A line below, which says what it is made of.
    """
    axis = {
        "gridcolor": GRID,
        "linecolor": FAINT,
        "zeroline": False,
        "ticks": "",
        "tickfont": {"color": MUTED, "size": 12},
        "title": {"font": {"size": 13}, "standoff": 10},
        "automargin": True,
    }
    text = f"<b>{title}</b><br><span style='font-size:13px;color:{MUTED}'>{subtitle}</span>"
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    figure.update_layout(
        # Plotly's own template would add 6 kB to each figure on a dashboard.
        template=None,
        title={
            "text": text,
            "font": {"size": 17, "color": INK},
            "x": 0.0,
            "xref": "paper",
            "y": 1.0,
            "yanchor": "top",
            "pad": {"t": 26},
        },
        font={"family": "Inter, Helvetica, Arial, sans-serif", "size": 13, "color": INK},
        paper_bgcolor="white",
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"color": INK, "size": 12}},
        height=HEIGHT,
        margin={"l": 70, "r": 24, "t": 92, "b": 52},
    )
    if figure.layout.plot_bgcolor is None:
        figure.update_layout(plot_bgcolor="white")
    return figure


def colorbar(title: str) -> dict[str, Any]:
    """Return a narrow colour bar with its title on top."""
    return {
        # The empty line keeps the title off the topmost tick.
        "title": {"text": f"{title}<br>&nbsp;", "side": "top", "font": {"size": 12}},
        "tickfont": {"color": MUTED, "size": 12},
        "thickness": 12,
        "outlinewidth": 0,
    }


def rate_colorbar() -> dict[str, Any]:
    """Return the colour bar of :data:`RATE_SCALE`."""
    ticks = {"tickvals": list(RATE_TICKS), "ticktext": list(RATE_TICKS.values())}
    return {**colorbar("Multiplier"), **ticks}


def shown(value: float) -> str:
    """Return a value with four digits, large ones in thousands (k), millions (M) and so on."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if suffix == 'k' else size):.4g}{suffix}"
    return f"{value:.4g}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural if there is not one."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
