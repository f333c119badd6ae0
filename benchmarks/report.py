"""The results of runs as text: for the terminal, and as the table of the README."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

METRICS = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "cohen_kappa": "kappa",
}


def read_results(directory: Path) -> list[dict[str, Any]]:
    """Read the results of all runs in a directory, sorted by file name.

    Args:
        directory: Where ``run_target.py`` wrote its JSON files.

    Raises:
        FileNotFoundError: If there is none.
    """
    files = sorted(directory.glob("*.json"))
    if not files:
        raise FileNotFoundError(f"No results (*.json) in {directory}: run a target first.")
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def mean_and_deviation(values: Sequence[float], digits: int = 3) -> str:
    """Return mean and sample standard deviation, such as "0.512 ± 0.013"."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} ± {deviation:.{digits}f}"


def _rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return a row a way to fine-tune: name, blocks, validation value, epochs, test metrics."""
    return [
        [
            name,
            refit["mask"],
            f"{refit['validation']:.3f}",
            str(refit["epochs"]),
            *(mean_and_deviation(refit["test"][metric]) for metric in METRICS),
        ]
        for name, refit in result["refits"].items()
    ]


_COLUMNS = ["", "blocks", "validation", "epochs", *METRICS.values()]


def plain_table(result: Mapping[str, Any]) -> str:
    """Return the comparison of one run, aligned for the terminal."""
    rows = [_COLUMNS, *_rows(result)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def plan_lines(result: Mapping[str, Any]) -> str:
    """Return the found plan block by block, with absolute learning rates."""
    lr = result["setting"]["lr"]
    multipliers: dict[str, float] = result["refits"]["BioTune"]["multipliers"]
    width = max(map(len, multipliers))
    return "\n".join(
        f"  {name.ljust(width)}  "
        + ("frozen" if value == 0.0 else f"x {value:.2f}  (learning rate {value * lr:.2e})")
        for name, value in multipliers.items()
    )


def timing_line(result: Mapping[str, Any]) -> str:
    """Return what the search and the refits took."""
    found, machine = result["search"], result["machine"]
    trials = f"{found['complete']} complete and {found['pruned']} pruned trials"
    if found["fail"]:
        trials += f", {found['fail']} failed"
    refits = sum(refit["seconds"] for refit in result["refits"].values())
    return (
        f"Search {found['seconds']:.0f} s ({trials}), baselines "
        f"{result['baseline_seconds']:.0f} s, refits {refits:.0f} s, on {machine['device']} "
        f"({machine['threads']} thread(s), {machine['cores']} cores)."
    )


def markdown_table(rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as a Markdown table; the second one must be of dashes. None is an empty cell."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the results of runs as Markdown: how the networks were pre-trained, a table a run.

    Args:
        results: What :func:`read_results` returns.
    """
    checkpoints = {result["checkpoint"]["network"]: result["checkpoint"] for result in results}
    rows = [
        ["network", "source", "epochs", "validation accuracy", "command"],
        ["---"] * 5,
        *(
            [
                name,
                checkpoint["source"],
                checkpoint["epochs"],
                f"{checkpoint['top1']:.3f}",
                f"`{checkpoint['command']}`",
            ]
            for name, checkpoint in checkpoints.items()
        ),
    ]
    pretraining = ["### Pre-training", "", markdown_table(rows), ""]
    return "\n".join([*pretraining, *(_section(result) for result in results)])


def _section(result: Mapping[str, Any]) -> str:
    """Return the section of one run."""
    setting, data = result["setting"], result["data"]
    plan = ", ".join(
        f"{name} {'frozen' if value == 0.0 else f'x {value:.2f}'}"
        for name, value in result["refits"]["BioTune"]["multipliers"].items()
    )
    lines = [
        f"### {setting['target']} ({data['shows']}), {setting['network']}",
        "",
        f"`{result['command']}`",
        "",
        f"{data['train']} training, {data['val']} validation and {data['test']} test images of "
        f"{data['classes']} classes, {setting['size']} x {setting['size']} pixels.",
        "",
        markdown_table([_COLUMNS, ["---"] * len(_COLUMNS), *_rows(result)]),
        "",
        f"Plan found: {plan}.",
        "",
        timing_line(result),
        "",
    ]
    return "\n".join(lines)
