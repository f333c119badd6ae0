"""The results as rows, and as tables in Markdown."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from report import mean_and_deviation

from methods.ablations import base_of
from methods.cells import SUITES
from methods.ranks import Interval, Scores, best_of, complete_scores, difference, mean_ranks

Record = Mapping[str, Any]

_FULL = "full fine-tuning"

_PROTOCOLS = {
    "paper": "constants as published, plans searched",
    "fair": "every method tuned",
}


@dataclass(frozen=True)
class Group:
    """Results that are compared with each other.

    Attributes:
        suite: The suite.
        network: The network.
        protocol: The protocol.
        images_per_class: Training images of each class; None for a number in all.
        records: The records of the store.
        methods: Names of the methods that were run, in the order of the suite.
    """

    suite: str
    network: str
    protocol: str
    images_per_class: int | None
    records: tuple[Record, ...]
    methods: tuple[str, ...]

    @property
    def short_title(self) -> str:
        """The network, and what the protocol is."""
        return f"{self.network}: {_PROTOCOLS[self.protocol]}"

    @property
    def title(self) -> str:
        """A heading that names the protocol, too."""
        images = self.images_per_class
        scarce = "" if images is None else f", {images} images a class"
        return f"{self.network}, {self.protocol} ({_PROTOCOLS[self.protocol]}){scarce}"

    def scores(self) -> Scores:
        """Return the test values of the targets and searches that all methods have run."""
        return complete_scores(
            {
                (cell["method"], cell["target"], cell["search"]): record["final"]["test"]
                for record in self.records
                for cell in [record["cell"]]
            },
            self.methods,
        )

    def of(self, method: str) -> list[Record]:
        """Return the records of a method."""
        return [record for record in self.records if record["cell"]["method"] == method]


def groups(records: Sequence[Record], methods: Sequence[str]) -> Iterator[Group]:
    """Yield the results that are compared with each other.

    Args:
        records: The finished records of one suite.
        methods: Names of the methods that are compared.
    """
    kinds = dict.fromkeys(
        (record["protocol"], record["cell"]["network"], record["cell"]["images_per_class"])
        for record in records
    )
    for protocol, network, images in sorted(kinds, key=lambda kind: (*kind[:2], kind[2] or 0)):
        chosen = tuple(
            record
            for record in records
            if record["protocol"] == protocol
            and record["cell"]["network"] == network
            and record["cell"]["images_per_class"] == images
        )
        suite = chosen[0]["cell"]["suite"]
        yield Group(suite, network, protocol, images, chosen, tuple(methods))


def rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return a flat row for each record.

    Args:
        records: The records of the store.
    """
    return [
        {
            **record["cell"],
            "protocol": record["protocol"],
            "test": fmean(record["final"]["test"]),
            **{f"test_{i}": value for i, value in enumerate(record["final"]["test"])},
            "validation": fmean(record["final"]["validation"]),
            "searched_validation": record["tuning"]["value"],
            "trainable_parameters": record["final"]["trainable_parameters"],
            "trials": record["tuning"]["trials"],
            "pruned": record["tuning"]["pruned"],
            "tuning_epochs": round(record["tuning"]["epochs"], 2),
            "tuning_seconds": round(record["tuning"]["seconds"], 2),
            "final_epochs": record["final"]["epochs"],
            "final_seconds": round(record["final"]["seconds"], 2),
            "constants": json.dumps(record["tuning"]["constants"]),
        }
        for record in records
    ]


def write_csv(path: Path, records: Sequence[Record]) -> None:
    """Write the rows of records as a CSV file."""
    lines = rows(records)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]) if lines else [])
        writer.writeheader()
        writer.writerows(lines)


def markdown(found: Sequence[Group]) -> str:
    """Return the tables of a suite as Markdown.

    Args:
        found: What :func:`groups` yields.
    """
    return "\n".join(line for group in found for line in _section(group))


def _section(group: Group) -> Iterator[str]:
    """Yield the lines of one comparison."""
    yield f"### {group.title}"
    yield ""
    scores = group.scores()
    if not scores.places:
        yield "No target has been run with every method yet."
        yield ""
        return
    targets = list(dict.fromkeys(target for target, _ in scores.places))
    n_searches = len(scores.places) / len(targets)
    yield (
        f"{len(targets)} targets ({', '.join(targets)}), {n_searches:g} searches each, "
        f"{scores.values.shape[2]} seeds a test. Balanced accuracy; 95 % bootstrap intervals over "
        "targets and seeds in parentheses."
    )
    yield ""
    references = _references(group, scores)
    header = ["method", "mean rank", "mean accuracy", *references, "trained parameters"]
    header += ["tuning epochs", "tuning s", "final epochs", "final s"]
    yield _line(header)
    yield _line(["---"] * len(header))
    for name, rank in mean_ranks(scores).items():
        yield _line(_summary(group, scores, references, name, rank))
    yield ""
    yield _line(["method", *targets])
    yield _line(["---"] * (1 + len(targets)))
    for name in group.methods:
        yield _line([name, *(_on(scores, name, target) for target in targets)])
    yield ""


def _references(group: Group, scores: Scores) -> dict[str, dict[str, str]]:
    """Return, by the heading of a column, what each method is compared with."""
    if group.suite == "ablations":
        bases = {name: base_of(name) for name in group.methods}
        return {"against its base": {n: base for n, base in bases.items() if base in bases}}
    known = SUITES[group.suite].methods
    baselines = [name for name in group.methods if not known[name].searches_plans]
    if not baselines:
        return {}
    best = best_of(scores, baselines)
    columns = {f"against {best}, the best baseline": dict.fromkeys(group.methods, best)}
    if _FULL in group.methods and best != _FULL:
        columns[f"against {_FULL}"] = dict.fromkeys(group.methods, _FULL)
    return columns


def _summary(
    group: Group,
    scores: Scores,
    references: Mapping[str, Mapping[str, str]],
    name: str,
    rank: Interval,
) -> list[str]:
    """Return the cells of one method's line."""
    records = [
        record
        for record in group.of(name)
        if (record["cell"]["target"], record["cell"]["search"]) in scores.places
    ]

    def mean(part: str, key: str) -> float:
        return fmean(record[part][key] for record in records)

    return [
        name,
        f"{rank.mean:.2f} ({rank.low:.2f} to {rank.high:.2f})",
        f"{scores.of(name).mean():.3f}",
        *(_compared(scores, name, column.get(name)) for column in references.values()),
        f"{mean('final', 'trainable_parameters'):,.0f}",
        f"{mean('tuning', 'epochs'):.0f}",
        f"{mean('tuning', 'seconds'):.0f}",
        f"{mean('final', 'epochs'):.0f}",
        f"{mean('final', 'seconds'):.0f}",
    ]


def _compared(scores: Scores, name: str, other: str | None) -> str:
    """Return the difference of a method to another, empty if there is none."""
    if other is None or other == name:
        return ""
    found = difference(scores, name, other)
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _on(scores: Scores, name: str, target: str) -> str:
    """Return mean and deviation of a method on a target, over seeds and searches."""
    places = [i for i, (place, _) in enumerate(scores.places) if place == target]
    return mean_and_deviation(scores.of(name)[places].ravel().tolist())


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
