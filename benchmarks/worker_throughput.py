"""Count the trials per second of worker processes that share one study in PostgreSQL.

python benchmarks/worker_throughput.py

Each worker runs trials whose objective sleeps for 50 ms and does nothing else, so n workers ideally
finish n / 0.05 trials a second. What is missing went into Optuna, the storage and the sampler;
random sampling, which takes turns with BioTuneSampler, shows the share of the first two.

Workers need the processor between their sleeps: once there are more of them than the cores can
serve, all of them wait for the cores. The table therefore gives the processor time a trial, too.
Real trials take minutes; then this cost is invisible.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from databases import POSTGRESQL_URL, environment, temporary_database
from filled_studies import parameter_names
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState

from optuna_biotune import BioTuneSampler, make_storage

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

RESULT = Path(__file__).parent / "results" / "worker_throughput.json"
SAMPLERS: dict[str, Callable[[], BaseSampler]] = {
    # With a seed, all workers would draw the same.
    "random": RandomSampler,
    "BioTune": lambda: BioTuneSampler(seed=0),
    "BioTune, paper": lambda: BioTuneSampler.paper(seed=0),
}
SLEEP = 0.05  # seconds
_N_PARAMS = 8
_START_TIMEOUT = 300  # seconds for all workers to import and connect
_END_TIMEOUT = 60  # seconds for a worker to finish its last trial

WorkerReport = tuple[datetime, float]  # when it began, seconds of processor time


def objective(trial: optuna.Trial) -> float:
    """Suggest eight floats, sleep, and return a value that depends on them."""
    value = sum(
        (trial.suggest_float(name, 0.0, 1.0) - 0.7) ** 2 for name in parameter_names(_N_PARAMS)
    )
    time.sleep(SLEEP)
    return value


def work(
    url: str, sampler: str, seconds: float, start: Barrier, reports: SimpleQueue[WorkerReport]
) -> None:
    """Run trials for some seconds, from the moment on when all workers are ready.

    Args:
        url: Database URL.
        sampler: A name in ``SAMPLERS``, which is also the study's.
        seconds: For how long trials are begun.
        start: Where the workers wait for each other.
        reports: Takes when this worker began and the processor time that it used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = make_storage(url)
    study = optuna.load_study(storage=storage, study_name=sampler, sampler=SAMPLERS[sampler]())
    start.wait(_START_TIMEOUT)
    began = datetime.now()
    processor = time.process_time()
    study.optimize(objective, timeout=seconds)
    reports.put((began, time.process_time() - processor))


def throughput(url: str, sampler: str, n_workers: int, seconds: float) -> dict[str, Any]:
    """Run workers on a new study and count what they finish.

    Args:
        url: URL of a database without a study of the sampler's name.
        sampler: A name in ``SAMPLERS``.
        n_workers: Worker processes.
        seconds: For how long they begin trials.

    Returns:
        Trials a second, the share of the ideal, processor milliseconds a trial, and how many
        trials were finished, failed or left unfinished.

    Raises:
        RuntimeError: If a worker fails or does not end.
    """
    study = optuna.create_study(storage=make_storage(url), study_name=sampler)
    context = multiprocessing.get_context("spawn")
    start, reports = context.Barrier(n_workers), context.SimpleQueue()
    workers = [
        context.Process(target=work, args=(url, sampler, seconds, start, reports))
        for _ in range(n_workers)
    ]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + _START_TIMEOUT + seconds + _END_TIMEOUT
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    stuck = [worker for worker in workers if worker.is_alive()]
    for worker in stuck:
        worker.kill()
    if stuck or any(worker.exitcode for worker in workers):
        raise RuntimeError(
            f"{len(stuck)} of {n_workers} workers did not end; exit codes of all: "
            f"{[worker.exitcode for worker in workers]}."
        )
    began, processor = zip(*(reports.get() for _ in workers), strict=True)
    return _counts(study, max(began), seconds, n_workers, sum(processor))


def _counts(
    study: optuna.Study, began: datetime, seconds: float, n_workers: int, processor: float
) -> dict[str, Any]:
    trials = study.get_trials(deepcopy=False)
    end = began + timedelta(seconds=seconds)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    in_time = sum(
        trial.datetime_complete is not None and began <= trial.datetime_complete <= end
        for trial in complete
    )
    distinct = {tuple(sorted(trial.params.items())) for trial in complete}
    return {
        "trials_per_second": round(in_time / seconds, 2),
        "share_of_ideal": round(in_time / seconds / (n_workers / SLEEP), 3),
        "processor_ms_per_trial": round(1e3 * processor / len(complete), 1),
        "complete": len(complete),
        "failed": sum(trial.state == TrialState.FAIL for trial in trials),
        "unfinished": sum(not trial.state.is_finished() for trial in trials),
        "duplicates": len(complete) - len(distinct),
    }


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| workers | sampler | trials a second | of the ideal | processor ms a trial | "
        "trials | failed | duplicates |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['workers']} | {row['sampler']} | {row['trials_per_second']:.1f} | "
        f"{row['share_of_ideal']:.0%} | {row['processor_ms_per_trial']:.1f} | "
        f"{row['complete']} | {row['failed']} | {row['duplicates']} |"
        for row in results
    ]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--workers", type=int, nargs="+", default=[1, 2, 8, 32], help="numbers of processes")
    add("--seconds", type=float, default=20.0, help="length of each run")
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
        RuntimeError: If a worker fails or does not end.
    """
    if min(options.workers) < 1:
        raise ValueError(f"`--workers` must be at least 1, but got {options.workers}.")
    if options.seconds <= 0.0:
        raise ValueError(f"`--seconds` must be above 0, but got {options.seconds}.")
    result = {**environment(), "sleep_s": SLEEP, "seconds": options.seconds, "results": []}
    for n_workers in options.workers:
        with temporary_database("postgresql", options.postgresql) as url:
            assert url is not None
            for sampler in SAMPLERS:
                print(f"Running {n_workers} workers with {sampler}.", flush=True)
                counts = throughput(url, sampler, n_workers, options.seconds)
                result["results"].append({"workers": n_workers, "sampler": sampler, **counts})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(f"{json.dumps(result, indent=1)}\n", encoding="utf-8")
    return result


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the table.

    Args:
        arguments: The command line; None for that of the process.
    """
    options = _parser().parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        print(table(run(options)["results"]))
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
