"""Time what a sampler adds to a trial, in studies that already have many trials.

python benchmarks/sampler_overhead.py

A trial that trains nothing is asked for, its parameters are suggested and a value is told. That is
timed with BioTuneSampler, as it is by default and as the paper's evolution, NSGA-II (population
50), TPE (multivariate), CMA-ES and random sampling, after 100, 1,000 and 10,000 finished trials of
8 and 16 float parameters, in memory, in a SQLite file and in PostgreSQL.

All samplers and sizes of one storage take turns, so that what else the machine does hits them
alike: compare figures of one run with each other. In a database nearly all of the time is spent
waiting for the disk, a dozen times a trial, whatever the sampler; the processor time of the
sampler's own process shows what the sampler makes of the rest. The tables show medians. A median
leaves out what happens once a generation, such as NSGA-II's selection of parents; the JSON file has
the means and the 90th percentiles, too. The studies were filled by the samplers themselves, except
TPE's, which holds random trials, and BioTune's default, which holds those of the paper's evolution.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from databases import POSTGRESQL_URL, STORAGES, environment, temporary_database
from filled_studies import SAMPLERS, History, run_history, run_trial, store
from optuna.storages import InMemoryStorage

from optuna_biotune import make_storage

RESULT = Path(__file__).parent / "results" / "sampler_overhead.json"
_WARM_UP_TRIALS = 2
_LEAST_REPETITIONS = 5

Cell = tuple[str, int]  # sampler, finished trials
Sample = tuple[float, float]  # seconds, seconds of processor time
Key = tuple[str, int, str, int]  # storage, parameters, sampler, finished trials


def measure(
    histories: Mapping[str, History],
    url: str | None,
    sizes: Sequence[int],
    *,
    repetitions: int,
    limit: float,
) -> dict[Cell, list[Sample]]:
    """Time single trials of every sampler after every number of finished trials, in turns.

    Args:
        histories: For each sampler's name what its studies hold, at least as much as asked for.
        url: Database URL; None for studies in memory.
        sizes: Numbers of finished trials.
        repetitions: How many trials of each.
        limit: Seconds after which a sampler at one size is timed no more, if it has had 5 trials.

    Returns:
        Seconds of each trial, and those of processor time, by sampler and size.
    """
    studies = {}
    for name, size in itertools.product(histories, sizes):
        # One storage a study, as each worker has its own: storages remember what they have read.
        storage = InMemoryStorage() if url is None else make_storage(url, heartbeat_interval=None)
        history = histories[name].first(size)
        studies[name, size] = store(history, storage, f"{name} {size}", name)
    names = list(next(iter(histories.values())).trials[0].params)
    for study in studies.values():
        for _ in range(_WARM_UP_TRIALS):
            run_trial(study, names)
    # The other studies' trials would make each collection slow that happens in a timed trial.
    gc.collect()
    gc.freeze()
    samples: dict[Cell, list[Sample]] = {cell: [] for cell in studies}
    for _ in range(repetitions):
        for cell, study in studies.items():
            spent = sum(seconds for seconds, _ in samples[cell])
            if len(samples[cell]) >= _LEAST_REPETITIONS and spent > limit:
                continue
            start, processor_start = time.perf_counter(), time.process_time()
            run_trial(study, names)
            samples[cell].append(
                (time.perf_counter() - start, time.process_time() - processor_start)
            )
    gc.unfreeze()
    return samples


def summary(samples: Sequence[Sample]) -> dict[str, float]:
    """Summarise the seconds of single trials, in milliseconds."""
    milliseconds = sorted(1e3 * seconds for seconds, _ in samples)
    return {
        "median_ms": round(statistics.median(milliseconds), 3),
        "mean_ms": round(statistics.fmean(milliseconds), 3),
        "p90_ms": round(milliseconds[int(0.9 * (len(milliseconds) - 1))], 3),
        "processor_ms": round(1e3 * statistics.median(processor for _, processor in samples), 3),
        "repetitions": len(milliseconds),
    }


def medians(results: Sequence[Mapping[str, Any]], field: str) -> dict[Key, float]:
    """Return a median by storage, parameters, sampler and finished trials.

    Args:
        results: The rows of all measurements.
        field: ``"median_ms"`` or ``"processor_ms"``.
    """
    return {
        (row["storage"], row["n_params"], row["sampler"], row["n_trials"]): row[field]
        for row in results
    }


def comparisons(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare BioTune's medians with NSGA-II's, and with its own in a small study.

    Args:
        results: The rows of all measurements.

    Returns:
        For each storage and number of parameters: ``of_nsga2``, the share of NSGA-II's time that
        BioTune takes in the largest study; ``added_of_nsga2``, the share of the processor time
        that NSGA-II adds to random sampling there; and ``growth``, how many times more processor
        time BioTune adds to random sampling in the largest study than in the smallest.
    """
    ms, processor = (medians(results, field) for field in ("median_ms", "processor_ms"))
    sizes = sorted({key[3] for key in ms})
    compared = []
    ours = [name for name in ("BioTune", "BioTune, paper") if any(key[2] == name for key in ms)]
    places = itertools.product(sorted({key[:2] for key in ms}), ours)
    for (storage, n_params), sampler in places:
        times = {name: ms[storage, n_params, name, sizes[-1]] for name in (sampler, "NSGA-II")}
        added = {
            (name, size): processor[storage, n_params, name, size]
            - processor[storage, n_params, "random", size]
            for name in times
            for size in sizes
        }
        bio, nsga2 = added[sampler, sizes[-1]], added["NSGA-II", sizes[-1]]
        compared.append(
            {
                "storage": storage,
                "n_params": n_params,
                "sampler": sampler,
                "of_nsga2": round(times[sampler] / times["NSGA-II"], 3),
                "added_of_nsga2": round(bio / nsga2, 3),
                "growth": round(bio / added[sampler, sizes[0]], 3),
            }
        )
    return compared


def table(result: Mapping[str, Any]) -> str:
    """Return a run as Markdown: a table of medians, and BioTune's comparison with others."""
    ms, processor = (medians(result["results"], f) for f in ("median_ms", "processor_ms"))
    sizes = sorted({key[3] for key in ms})
    header = [f"{size:,}" for size in sizes] + [f"processor, {size:,}" for size in sizes]
    lines = [
        "Median milliseconds of a trial after a number of finished trials, and of those the "
        "milliseconds of processor time:",
        "",
        f"| storage | parameters | sampler | {' | '.join(header)} |",
        "|---|---|---|" + "---:|" * len(header),
    ]
    for storage, n_params, sampler in dict.fromkeys(key[:3] for key in ms):
        times = [times[storage, n_params, sampler, n] for times in (ms, processor) for n in sizes]
        cells = " | ".join(f"{time:.2f}" for time in times)
        lines.append(f"| {storage} | {n_params} | {sampler} | {cells} |")
    lines += [
        "",
        f"BioTune's time as a share of NSGA-II's after {sizes[-1]:,} trials; the processor time "
        "that it adds to random sampling, as a share of what NSGA-II adds, and as a multiple of "
        f"what itself adds after {sizes[0]:,} trials:",
        "",
        "| storage | parameters | sampler | of NSGA-II's time | of what NSGA-II adds | growth |",
        "|---|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {row['storage']} | {row['n_params']} | {row['sampler']} | {row['of_nsga2']:.2f} | "
        f"{row['added_of_nsga2']:.2f} | {row['growth']:.2f} |"
        for row in result["comparisons"]
    ]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", type=int, nargs="+", default=[100, 1000, 10_000], help="finished trials")
    add("--params", type=int, nargs="+", default=[8, 16], help="float parameters of a trial")
    add("--storages", nargs="+", choices=STORAGES, default=list(STORAGES))
    add("--repetitions", type=int, default=40, help="timed trials of each sampler and size")
    add("--limit", type=float, default=30.0, help="most seconds for one sampler at one size")
    add(
        "--postgresql",
        default=POSTGRESQL_URL,
        help="URL of a server whose user may create databases; default: BIOTUNE_POSTGRESQL_URL, "
        "or a local one without a password",
    )
    add("--out", type=Path, default=RESULT, help="JSON file of the results")
    return parser


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure as the options say, and write the JSON file.

    Args:
        options: The parsed command line.

    Returns:
        The results.

    Raises:
        ValueError: If an option is out of range.
    """
    for name, least in (("sizes", 1), ("params", 2), ("repetitions", 1)):
        given = getattr(options, name)
        if min(given if isinstance(given, list) else [given]) < least:
            raise ValueError(f"`--{name}` must be at least {least}, but got {given}.")
    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {**environment(), "results": rows}
    for n_params in options.params:
        histories = {}
        for name in SAMPLERS:
            print(f"Filling a study of {n_params} parameters with {name}.", flush=True)
            histories[name] = run_history(name, max(options.sizes), n_params)
        for kind in options.storages:
            print(f"Timing in {kind}.", flush=True)
            with temporary_database(kind, options.postgresql) as url:
                cells = measure(
                    histories,
                    url,
                    sorted(options.sizes),
                    repetitions=options.repetitions,
                    limit=options.limit,
                )
            for (name, size), samples in cells.items():
                place = {"storage": kind, "n_params": n_params, "sampler": name, "n_trials": size}
                rows.append({**place, **summary(samples)})
    result["comparisons"] = comparisons(rows)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(f"{json.dumps(result, indent=1)}\n", encoding="utf-8")
    return result


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the tables.

    Args:
        arguments: The command line; None for that of the process.
    """
    options = _parser().parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    try:
        print(table(run(options)))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
