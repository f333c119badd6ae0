"""Tables of what ``pruner_study.py`` measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from pruner_replay import PRUNERS, replay

Search = dict[str, Any]


def study_name(target: str, seed: int) -> str:
    """Return the name of a study, by which Hyperband assigns its brackets."""
    return f"{target}, {seed}"


def round_of(search: Search) -> tuple[str, str, int]:
    """Return what the searches with all pruners have in common: sampler, target and seed."""
    return search["sampler"], search["target"], search["seed"]


def complete_rounds(searches: Sequence[Search]) -> list[Search]:
    """Return the searches of those rounds that have one with every pruner."""
    done = {(round_of(search), search["pruner"]) for search in searches}
    return [s for s in searches if all((round_of(s), name) in done for name in PRUNERS)]


def summaries(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a summary a pruner, over the searches of complete rounds; nothing without any.

    Args:
        result: The results, as the JSON file has them.
    """
    searches = complete_rounds(result["searches"])
    bare = {round_of(s): s for s in searches if s["pruner"] == "none"}
    epochs = result["setting"]["epochs"]
    for name in PRUNERS if searches else ():
        own = [s for s in searches if s["pruner"] == name]
        base = [bare[round_of(s)] for s in own]
        pairs = list(zip(own, base, strict=True))
        again = [
            replay(s["curves"], name, epochs, study_name(s["target"], s["seed"])) for s in base
        ]
        differences = [fmean(one["test"]) - fmean(other["test"]) for one, other in pairs]
        yield {
            "pruner": name,
            "searches": len(own),
            "pruned": fmean(s["pruned"] for s in own),
            "pruned_wrongly": sum(s["pruned_wrongly"] for s in own),
            "epochs": fmean(s["epochs"] for s in own),
            "epochs_saved": 1 - sum(s["epochs"] for s in own) / sum(s["epochs"] for s in base),
            "seconds": fmean(s["seconds"] for s in own),
            "seconds_saved": 1 - sum(s["seconds"] for s in own) / sum(s["seconds"] for s in base),
            "validation": {
                target: fmean(s["validation"] for s in own if s["target"] == target)
                for target in sorted({s["target"] for s in own})
            },
            "test": {
                target: [fmean(s["test"]) for s in own if s["target"] == target]
                for target in sorted({s["target"] for s in own})
            },
            "test_difference": [fmean(differences), stdev(differences) if len(own) > 1 else 0.0],
            "replayed_epochs_saved": 1
            - sum(r["epochs"] for r in again) / sum(s["epochs"] for s in base),
            "best_pruned": sum(r["best_pruned"] for r in again),
            "top_pruned": sum(r["top_pruned"] for r in again),
        }


def markdown(result: Mapping[str, Any]) -> str:
    """Return the results as Markdown.

    Args:
        result: The results, as the JSON file has them.
    """
    rows = list(summaries(result))
    if not rows:
        return "No target and seed has been searched with every pruner yet."
    targets = list(rows[0]["test"])
    setting = result["setting"]
    n_searches = rows[0]["searches"]
    rounds = {round_of(search)[0] for search in complete_rounds(result["searches"])}
    lines = [
        f"`{result['command']}`",
        "",
        f"{n_searches} searches of {result['trials']} trials with each pruner, on "
        f"{', '.join(targets)}, sampler {' and '.join(sorted(rounds))}: "
        f"{setting['search_seeds']} networks a trial, at most "
        f"{setting['epochs']} epochs, {setting['max_train']} training images. "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        + ".",
        "",
        "| pruner | trials pruned | better than what was found | epochs | saved | processor s "
        "| saved | "
        + " | ".join(f"test, {target}" for target in targets)
        + " | test, against none |",
        "|---" * (8 + len(targets)) + "|",
    ]
    for row in rows:
        tests = (_mean_and_deviation(row["test"][target]) for target in targets)
        difference = "{:+.3f} ± {:.3f}".format(*row["test_difference"])
        cells = [
            row["pruner"],
            f"{row['pruned']:.1f}",
            str(row["pruned_wrongly"]),
            f"{row['epochs']:.0f}",
            f"{row['epochs_saved']:.0%}",
            f"{row['seconds']:.0f}",
            f"{row['seconds_saved']:.0%}",
            *tests,
            "" if row["pruner"] == "none" else difference,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"The {n_searches} searches without a pruner, their curves given to each pruner:",
        "",
        "| pruner | epochs saved | best trial pruned | of the three best, pruned |",
        "|---|---|---|---|",
        *(
            f"| {row['pruner']} | {row['replayed_epochs_saved']:.0%} | {row['best_pruned']} of "
            f"{n_searches} | {row['top_pruned']} of {3 * n_searches} |"
            for row in rows[1:]
        ),
    ]
    return "\n".join([*lines, *_recorded_lines(result.get("recordings", []))])


def _recorded_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of the recordings, a row a pruner, if there are any."""
    if not rows:
        return []
    names = list(dict.fromkeys(row["recording"] for row in rows))
    lines = [
        "",
        f"Recorded trainings of random plans in random order, {rows[0]['studies']} studies of "
        f"{rows[0]['trials']} trials each: epochs saved / studies whose best trial was pruned / "
        "accuracy lost by that.",
        "",
        f"| pruner | {' | '.join(names)} |",
        "|---" * (1 + len(names)) + "|",
    ]
    for pruner in list(PRUNERS)[1:]:
        cells = [
            f"{row['epochs_saved']:.0%} / {row['best_pruned']:.0%} / {row['lost']:.3f}"
            for row in rows
            if row["pruner"] == pruner
        ]
        lines.append(f"| {pruner} | {' | '.join(cells)} |")
    return lines


def _mean_and_deviation(values: Sequence[float]) -> str:
    """Return mean and standard deviation over the searches."""
    spread = stdev(values) if len(values) > 1 else 0.0
    return f"{fmean(values):.3f} ± {spread:.3f}"
