"""Tables of what ``compare_samplers.py`` measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from landscapes.functions import RecordedLandscape, load_landscape, plateau

from optuna_biotune import StopOnPlateau

FloatArray = npt.NDArray[np.float64]
Line = Mapping[str, Any]

CHECKPOINTS = (10, 20, 30, 60, 127)
"""Numbers of evaluations that the tables show."""

BEST_VALUE = ", best value"
"""Behind the name of a sampler that recommends: the same searches, by the trial of best value."""

TOLERANCES = (0.5, 1.0, 2.0)
"""Tolerances of :class:`StopOnPlateau` that are compared; its default is among them."""

_N_BOOTSTRAPS = 2000


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the searches that a result file holds."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def with_best_value(lines: Sequence[Line]) -> list[Line]:
    """Add, to each search whose sampler recommends, the same one by the trial of best value."""
    return [*lines] + [
        {**line, "sampler": line["sampler"] + BEST_VALUE, "course": line["course_of_best_value"]}
        for line in lines
        if "course_of_best_value" in line
    ]


def value_after(course: Sequence[tuple[int, float]], n_evaluations: int) -> float:
    """Return the value that a course has after a number of evaluations, at least 1."""
    return [value for start, value in course if start <= n_evaluations][-1]


def evaluations_until(course: Sequence[tuple[int, float]], level: float) -> float:
    """Return the evaluations after which a course is at a level for good; infinity for never."""
    if course[-1][1] < level:
        return float("inf")
    reached = course[-1][0]
    for start, value in reversed(course):
        if value < level:
            break
        reached = start
    return reached


def checkpoints_of(lines: Sequence[Line]) -> list[int]:
    """Return those of :data:`CHECKPOINTS` that the searches reach, and their end."""
    end = max(line["evaluations"] for line in lines)
    return [n for n in CHECKPOINTS if n < end] + [end]


def values_by_sampler(
    lines: Sequence[Line],
    landscapes: Sequence[str],
    samplers: Sequence[str],
    checkpoints: Sequence[int],
) -> dict[str, FloatArray]:
    """Return the true values of each sampler, shape [landscapes, seeds, checkpoints].

    Only seeds that every sampler has run on every landscape count.
    """
    found = {(line["sampler"], line["landscape"], line["seed"]): line["course"] for line in lines}
    shared = [
        seed
        for seed in sorted({line["seed"] for line in lines})
        if all((sampler, place, seed) in found for sampler in samplers for place in landscapes)
    ]
    return {
        sampler: np.asarray(
            [
                [value_after(found[sampler, place, seed], n) for n in checkpoints]
                for place in landscapes
                for seed in shared
            ]
        ).reshape(len(landscapes), len(shared), len(checkpoints))
        for sampler in samplers
    }


def mean_ranks(values: Mapping[str, FloatArray]) -> dict[str, list[tuple[float, float, float]]]:
    """Rank the samplers in each landscape and seed, 1 best, and average.

    Args:
        values: For each sampler float [landscapes, seeds, checkpoints].

    Returns:
        For each sampler and checkpoint the mean, and the bounds of a 95 % bootstrap interval over
        the seeds.
    """
    stacked = np.stack(list(values.values()))
    # Ties share their mean rank.
    better = (stacked[None] > stacked[:, None]).sum(axis=1)
    equal = (stacked[None] == stacked[:, None]).sum(axis=1)
    ranks = (better + 0.5 * (equal + 1)).mean(axis=1)
    rng = np.random.default_rng(0)
    n_seeds = ranks.shape[1]
    draws = rng.integers(n_seeds, size=(_N_BOOTSTRAPS, n_seeds))
    bounds = np.quantile(ranks[:, draws].mean(axis=2), [0.025, 0.975], axis=1)
    means = ranks.mean(axis=1)
    return {
        name: [
            (float(means[i, c]), float(bounds[0, i, c]), float(bounds[1, i, c]))
            for c in range(stacked.shape[3])
        ]
        for i, name in enumerate(values)
    }


def table(lines: Sequence[Line], order: Sequence[str], recordings: Path) -> str:
    """Return the comparison as Markdown.

    Args:
        lines: The searches.
        order: Names of landscapes, in the order in which they are shown.
        recordings: Directory of the recordings.

    Raises:
        ValueError: If there are no searches.
    """
    if not lines:
        raise ValueError("There are no searches to show: run compare_samplers.py.")
    landscapes = [n for n in order if any(line["landscape"] == n for line in lines)]
    landscapes += sorted({line["landscape"] for line in lines} - set(landscapes))
    everything = with_best_value(lines)
    samplers = sorted({line["sampler"] for line in everything})
    checkpoints = checkpoints_of(lines)
    values = values_by_sampler(everything, landscapes, samplers, checkpoints)
    parts = [*_rank_lines(values, everything, checkpoints)]
    for place, landscape in enumerate(landscapes):
        parts += ["", *_landscape_lines(landscape, place, values, checkpoints, recordings)]
    parts += ["", *_reaching_lines(everything, landscapes, samplers, recordings)]
    return "\n".join([*parts, "", *_stopping_lines(lines, landscapes)])


def _header(first: str, columns: Sequence[object]) -> list[str]:
    cells = "".join(f" {column} |" for column in columns)
    return [f"| {first} |{cells}", "|---|" + "---:|" * len(columns)]


def _rank_lines(
    values: Mapping[str, FloatArray], lines: Sequence[Line], checkpoints: Sequence[int]
) -> list[str]:
    """Return the mean ranks as Markdown."""
    n_landscapes, n_seeds, _ = next(iter(values.values())).shape
    rows = [
        f"Mean rank of {len(values)} samplers over {n_landscapes} landscapes and {n_seeds} seeds "
        "after a number of evaluations, 1 best, with 95 % bootstrap intervals:",
        "",
        *_header("sampler", [*checkpoints, f"seconds of {checkpoints[-1]}"]),
    ]
    for name, ranks in mean_ranks(values).items():
        cells = "".join(f" {mean:.2f} ({low:.2f}-{high:.2f}) |" for mean, low, high in ranks)
        seconds = np.median([line["seconds"] for line in lines if line["sampler"] == name])
        rows.append(f"| {name} |{cells} {seconds:.1f} |")
    return rows


def _landscape_lines(
    name: str,
    place: int,
    values: Mapping[str, FloatArray],
    checkpoints: Sequence[int],
    recordings: Path,
) -> list[str]:
    """Return the mean true values on one landscape as Markdown."""
    landscape = load_landscape(name, recordings)
    about = f"{landscape.n_blocks} blocks, noise {landscape.noise:.4f}"
    if isinstance(landscape, RecordedLandscape):
        about += ", cross-validated R2 {r2}, rank correlation {rank_correlation}".format(
            **landscape.validation()
        )
    rows = [
        f"{name} ({about}, plateau {plateau(landscape):.4f}), mean true value:",
        "",
        *_header("sampler", checkpoints),
    ]
    for sampler, found in values.items():
        means = found[place].mean(axis=0)
        rows.append(f"| {sampler} |" + "".join(f" {value:.4f} |" for value in means))
    return rows


def _reaching_lines(
    lines: Sequence[Line], landscapes: Sequence[str], samplers: Sequence[str], recordings: Path
) -> list[str]:
    """Return how many evaluations lead to the plateau, and trained epochs, as Markdown."""
    places = [load_landscape(name, recordings) for name in landscapes]
    levels = {place.name: plateau(place) - place.noise for place in places}
    trained = {place.name: place.epochs for place in places if isinstance(place, RecordedLandscape)}
    rows = [
        "Evaluations until the recommended plan is within one standard error of an evaluation of "
        "the plateau, for good; median over the seeds. On a recording, in parentheses, the epochs "
        "that so many evaluations train, without a pruner:",
        "",
        *_header("sampler", landscapes),
    ]
    for sampler in samplers:
        cells = []
        for name in landscapes:
            courses = [
                line["course"]
                for line in lines
                if (line["sampler"], line["landscape"]) == (sampler, name)
            ]
            # An upper median: with an even number of searches no mean with infinity is taken.
            needed = sorted(evaluations_until(course, levels[name]) for course in courses)
            median = needed[len(needed) // 2] if needed else float("inf")
            end = max(line["evaluations"] for line in lines)
            shown = min(median, end)
            epochs = f" ({shown * trained[name]:,.0f})" if name in trained else ""
            cells.append(f" {'> ' if median > end else ''}{shown:.0f}{epochs} |")
        rows.append(f"| {sampler} |" + "".join(cells))
    return rows


def stopped_after(line: Line, tolerance: float) -> int:
    """Return after how many evaluations :class:`StopOnPlateau` ends a search, at most all."""
    rule = StopOnPlateau(tolerance=tolerance)
    first = line["evaluations"] - len(line["regret"]) + 1
    for n_evaluations, regret in enumerate(line["regret"], start=first):
        if rule.is_reached(n_evaluations, regret, 1.0):
            return n_evaluations
    return int(line["evaluations"])


def _stopping_lines(lines: Sequence[Line], landscapes: Sequence[str]) -> list[str]:
    """Return what StopOnPlateau would have saved and lost, as Markdown."""
    watched = [line for line in lines if "regret" in line]
    rows = [
        "Stopping by `StopOnPlateau(tolerance=...)`: evaluations used, and true value lost against "
        "the whole search (in parentheses), means over the seeds:",
        "",
        *_header("landscape", TOLERANCES),
    ]
    for landscape in landscapes:
        runs = [line for line in watched if line["landscape"] == landscape]
        cells = ""
        for tolerance in TOLERANCES if runs else ():
            ends = [stopped_after(line, tolerance) for line in runs]
            lost = [
                line["course"][-1][1] - value_after(line["course"], end)
                for line, end in zip(runs, ends, strict=True)
            ]
            cells += f" {np.mean(ends):.0f} ({np.mean(lost):.4f}) |"
        rows.append(f"| {landscape} |{cells}")
    return rows
