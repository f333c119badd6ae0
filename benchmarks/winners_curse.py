"""Measure on real fine-tuning how lucky the best plan of a search is, and what helps against it.

python benchmarks/winners_curse.py --data DIR --minutes 60
python benchmarks/winners_curse.py --table

A search takes the best of many noisy values, so its best value is better than its plan: the
winner's curse. Here ``BioTuneSampler`` searches with the same budget, counted in training images
times epochs, spent in different ways: a few seeds for each of fewer plans, one seed for each of
many, the same seeds or fresh ones for each plan, parts of the images, or more for those that look
good (``spending.py`` has them all). Each search chooses two plans, that of the best value (the
record) and that of ``optuna_biotune.best_trial`` (the posterior). Both are trained with seeds that
no search has used: validated on the same images as in the search, where their value shows how much
of what was said of them was luck; and tested on images that no search has seen.

Each search of a task has training and validation images, seeds of the networks and a seed of the
sampler of its own, the same ones for each variant: variants differ by nothing else.

The same command goes on where it was stopped; ``--minutes`` begins no search after that time.

References:
    Nagler, Schneider, Bischl, Feurer, "Reshuffling Resampling Splits Can Improve Generalization of
    Hyperparameter Optimization", NeurIPS 2024, for fresh splits.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import optuna
import torch
from result_file import load_results, write_results
from single_networks import Hyperparameters, NetworkTrainer, Task
from spending import VARIANTS, Choice, Search
from targets import TARGETS

from optuna_biotune import FineTuningPlan
from optuna_biotune.recommendation import recommend

RESULTS = Path(__file__).parent / "results"
RULES = ("record", "posterior")
REFERENCE = "3 fixed seeds"

# Seeds that no search uses.
_FIRST_SEED_OF_VALUES, _FIRST_SEED_OF_TESTS = 80_000, 90_000

Row = dict[str, Any]


def run_search(
    trainer: NetworkTrainer,
    variant: str,
    number: int,
    n_networks: int,
    n_fresh: int,
    n_tests: int,
) -> Row:
    """Search, and measure the plans chosen with seeds that the search has not used.

    Args:
        trainer: Trains the networks.
        variant: One of ``spending.VARIANTS``.
        number: Seed of the sampler.
        n_networks: Networks that may be trained, each on all training images.
        n_fresh: Networks that measure the value of a plan.
        n_tests: Networks that are tested.

    Returns:
        What is kept of it in the results.
    """
    search = Search(trainer, VARIANTS[variant], n_networks, number)
    budget = search.left
    search.run()
    recommendation = recommend(search.study)
    record = search.record()
    choices = {
        "record": record,
        "posterior": record
        if recommendation is None
        else Choice(recommendation.trial, recommendation.value),
    }
    measured: dict[int, Row] = {}
    for choice in choices.values():
        trial = choice.trial
        if trial.number not in measured:
            fresh = range(_FIRST_SEED_OF_VALUES, _FIRST_SEED_OF_VALUES + n_fresh)
            tests = range(_FIRST_SEED_OF_TESTS, _FIRST_SEED_OF_TESTS + n_tests)
            measured[trial.number] = {
                "trial": trial.number,
                "mask": FineTuningPlan.from_trial(trial).mask,
                "fresh": trainer.value(trial.params, fresh),
                "test": trainer.test(trial, tests),
            }
    return {
        "variant": variant,
        "search": number,
        "trials": len(search.trainings),
        "networks": sum(map(len, search.trainings)),
        "cost": budget - search.left,
        "budget": budget,
        "seconds": round(sum(one.seconds for own in search.trainings for one in own), 1),
        **{
            rule: {"said": choice.value, **measured[choice.trial.number]}
            for rule, choice in choices.items()
        },
    }


def luck(rows: Sequence[Row], variant: str, rule: str) -> list[float]:
    """Return how much more is said of a variant's plans than they are worth with fresh seeds."""
    return [row[rule]["said"] - row[rule]["fresh"] for row in rows if row["variant"] == variant]


def differences(
    rows: Sequence[Row], reference: str, variant: str, rule: str, measure: str
) -> list[float]:
    """Return by how much a variant's plans are better than the posterior ones of another.

    Compared are searches with the same images and seeds.

    Args:
        rows: The searches.
        reference: The other variant.
        variant: The variant.
        rule: How its plan was chosen, one of :data:`RULES`.
        measure: ``"fresh"`` or ``"test"``.
    """
    base = {
        (row["target"], row["search"]): row["posterior"][measure]
        for row in rows
        if row["variant"] == reference
    }
    own = {(row["target"], row["search"]): row for row in rows if row["variant"] == variant}
    return [own[key][rule][measure] - base[key] for key in own if key in base]


def markdown(result: Mapping[str, Any]) -> str:
    """Return the results as Markdown.

    Args:
        result: The results, as the JSON file has them.
    """
    rows = result["searches"]
    names = [name for name in VARIANTS if any(row["variant"] == name for row in rows)]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"`{result['command']}`",
        "",
        f"A search may train {result['networks']} networks on all training images, or as many more "
        f"as they are smaller. Balanced accuracy, mean ± deviation over the searches. {versions}.",
    ]
    for task in result["tasks"]:
        own = [row for row in rows if row["target"] == task["target"]]
        lines += ["", *_task_lines(task, own, names)]
    lines += [
        "",
        'Of all tasks together, mean ± standard error over the searches. "Luck" is what was said '
        "of a plan less its value with fresh seeds. The other columns are differences to "
        f'"{REFERENCE}, posterior" on the same images and with the same seeds.',
        "",
        "| variant | searches | record: luck | fresh seeds | test | posterior: luck | fresh seeds "
        "| test |",
        "|---" * 8 + "|",
    ]
    for name in names:
        cells = [name, str(sum(row["variant"] == name for row in rows))]
        for rule in RULES:
            cells.append(_with_error(luck(rows, name, rule)))
            cells += [
                _with_error(differences(rows, REFERENCE, name, rule, measure))
                for measure in ("fresh", "test")
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _task_lines(
    task: Mapping[str, Any], rows: Sequence[Row], variants: Sequence[str]
) -> Iterator[str]:
    """Yield the table of a task, a row a variant."""
    yield (
        f"{task['target']} ({TARGETS[task['target']]}), {task['n_train']} training and "
        f"{task['n_val']} validation images:"
    )
    yield ""
    yield (
        "| variant | searches | trials | record: said | fresh seeds | test "
        "| posterior: said | fresh seeds | test |"
    )
    yield "|---" * 9 + "|"
    for variant in variants:
        own = [row for row in rows if row["variant"] == variant]
        if own:
            cells = [variant, str(len(own)), f"{fmean(row['trials'] for row in own):.0f}"]
            cells += [
                _with_deviation([row[rule][measure] for row in own])
                for rule, measure in product(RULES, ("said", "fresh", "test"))
            ]
            yield f"| {' | '.join(cells)} |"


def _with_deviation(values: Sequence[float]) -> str:
    """Return mean and standard deviation; a single value by itself."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{fmean(values):.3f} ± {stdev(values):.3f}"


def _with_error(values: Sequence[float]) -> str:
    """Return the mean, with its sign, and its standard error, if there are enough values."""
    if len(values) < 2:
        return "".join(f"{value:+.3f}" for value in values)
    return f"{fmean(values):+.3f} ± {stdev(values) / sqrt(len(values)):.3f}"


def run(options: argparse.Namespace) -> None:
    """Search in every way, round by round, until all is done or the time is up."""
    path = options.out / "winners_curse.json"
    hyperparameters = Hyperparameters(epochs=options.epochs)
    given = " ".join(f"{task.target}:{task.n_train}:{task.n_val}" for task in options.tasks)
    frame = {
        "command": f"python benchmarks/winners_curse.py --data DIR --tasks {given} --networks "
        f"{options.networks} --epochs {options.epochs} --fresh-seeds {options.fresh_seeds} "
        f"--test-seeds {options.test_seeds}",
        "tasks": [asdict(task) for task in options.tasks],
        "networks": options.networks,
        "hyperparameters": asdict(hyperparameters),
    }
    result = load_results(path, frame)
    done = {(row["search"], row["target"], row["variant"]) for row in result["searches"]}
    end = time.monotonic() + 60 * options.minutes
    for number, task in product(range(options.searches), options.tasks):
        missing = [name for name in options.variants if (number, task.target, name) not in done]
        trainer = None
        for variant in missing:
            if time.monotonic() > end:
                print("The time is up: the same command goes on.", flush=True)
                return
            trainer = trainer or NetworkTrainer.load(options.data, task, hyperparameters, number)
            row = run_search(
                trainer,
                variant,
                number,
                options.networks,
                options.fresh_seeds,
                options.test_seeds,
            )
            result["searches"].append({"target": task.target, **row})
            write_results(path, result, markdown)
            print(_progress(task, row), flush=True)


def _progress(task: Task, row: Row) -> str:
    """Return a search in one line."""
    shown = ", ".join(
        f"{rule} {row[rule]['said']:.3f} / {row[rule]['fresh']:.3f} / {row[rule]['test']:.3f}"
        for rule in RULES
    )
    return (
        f"{task.target:10} {row['search']} {row['variant']:30} {row['trials']:3} trials "
        f"{row['seconds']:6.1f} s; said / fresh / test: {shown}"
    )


def task_of(text: str) -> Task:
    """Read a task, such as ``mnist:60:150``: target, training and validation images.

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    target, *counts = text.split(":")
    if target not in TARGETS or len(counts) != 2 or not all(map(str.isdecimal, counts)):
        raise argparse.ArgumentTypeError(
            f"must be TARGET:TRAIN:VAL, such as mnist:60:150, of {', '.join(TARGETS)}, but got "
            f"{text!r}"
        )
    return Task(target, *map(int, counts))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the searches, or print their tables.

    Args:
        arguments: The command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, help="directory of the target sets")
    add(
        "--tasks",
        nargs="+",
        type=task_of,
        default=[Task("mnist", 60, 150), Task("flowers5", 100, 150)],
        help="TARGET:TRAIN:VAL, with numbers of images (default: mnist:60:150 flowers5:100:150)",
    )
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    add("--networks", type=int, default=54, help="networks a search (default: 54)")
    add("--searches", type=int, default=5, help="searches a task and variant (default: 5)")
    add("--epochs", type=int, default=6, help="most epochs of a training (default: 6)")
    add("--fresh-seeds", type=int, default=10, help="seeds that measure a plan (default: 10)")
    add("--test-seeds", type=int, default=4, help="seeds of the test (default: 4)")
    add("--minutes", type=float, default=float("inf"), help="begin no search after this time")
    add("--out", type=Path, default=RESULTS, help="directory of the results")
    add("--table", action="store_true", help="only print the tables")
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if options.table:
        path = options.out / "winners_curse.json"
        print(markdown(json.loads(path.read_text(encoding="utf-8"))))
        return
    if options.data is None:
        parser.error("--data is required")
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        run(options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
