"""Measure how many trials a second several processes evaluate on one device, against one process.

python benchmarks/concurrent_trials.py --data DIR --device cuda --processes 1 2 4

A small network on small batches leaves a large GPU idle: do several workers of a study on one GPU
pay? Each process has its own ``FineTuningObjective``, as a worker of a study has, and evaluates its
share of the same random plans. The time begins when all processes have read the images and tried
one plan, and ends with the last trial. On a CPU the processes share the cores.

Networks and images are those of ``engine_speed.py``. Results go to
``results/concurrent_trials/<device>.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import Manager, get_context
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

import torch
from optuna.trial import FixedTrial
from speed_problem import (
    NETWORKS,
    JpegFiles,
    add_options,
    command_of,
    machine,
    make_objective,
    make_problem,
    random_plans,
    wait_for,
    write_files,
)
from tqdm import tqdm

from optuna_biotune import FineTuningPlan
from optuna_biotune.finetune.device import resolve_device

RESULTS = Path(__file__).parent / "results" / "concurrent_trials"

# Reading images and compiling kernels, before any process begins; then it hangs.
_SECONDS_TO_START = 600.0


def evaluate_share(
    network: str,
    options: argparse.Namespace,
    files: dict[str, JpegFiles],
    place: int,
    n_processes: int,
    start: Barrier,
) -> tuple[float, float]:
    """Evaluate every n-th plan; the task of a process.

    Args:
        network: Name of the network.
        options: The parsed command line.
        files: The images.
        place: Number of this process.
        n_processes: How many there are.
        start: Where all processes meet before the first measured trial.

    Returns:
        When its first and its last trial began and ended, as ``time.time`` gives it.
    """
    try:
        device = resolve_device(options.device)
        if device.type == "cpu":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // n_processes))
        objective = make_objective(make_problem(network, options, device, files))
        names = objective.block_names
        objective(FixedTrial(FineTuningPlan.full(names).to_params()))
        start.wait(_SECONDS_TO_START)
    except BaseException:
        start.abort()  # the others would wait for this one
        raise
    began = time.time()
    for plan in random_plans(names, options.genotypes)[place::n_processes]:
        objective(FixedTrial(plan.to_params()))
    wait_for(device)
    return began, time.time()


def measure(
    network: str, options: argparse.Namespace, files: dict[str, JpegFiles], n_processes: int
) -> float:
    """Return trials a second of some processes together."""
    with Manager() as manager, ProcessPoolExecutor(n_processes, get_context("spawn")) as pool:
        start = manager.Barrier(n_processes)
        shares = [
            pool.submit(evaluate_share, network, options, files, place, n_processes, start)
            for place in range(n_processes)
        ]
        # Of one that failed, the others say only that they waited for it.
        errors = [error for share in shares if (error := share.exception()) is not None]
        for error in sorted(errors, key=lambda one: isinstance(one, BrokenBarrierError)):
            raise error
        times = [share.result() for share in shares]
    seconds = max(ended for _, ended in times) - min(began for began, _ in times)
    return float(options.genotypes / seconds)


def markdown(result: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    counts = [str(count) for count in result["processes"]]
    lines = [
        f"`{result['command']}`",
        "",
        f"{result['machine']}. Trials a second, and against one process of the same run:",
        "",
        f"| processes | {' | '.join(counts)} |",
        "|---" * (len(counts) + 1) + "|",
    ]
    for network, rates in result["networks"].items():
        cells = [f"{rate:.2f} (x {rate / rates[0]:.2f})" for rate in rates]
        lines.append(f"| {network} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.processes[0] != 1 or min(options.processes) < 1:
        parser.error("--processes must begin with 1, which the others are compared with")
    if max(options.processes) > options.genotypes:
        parser.error("--processes must be at most the number of --genotypes")
    device = resolve_device(options.device)
    result: dict[str, Any] = {
        "command": command_of("concurrent_trials.py", parser, options),
        "machine": machine(device),
        "processes": options.processes,
        "networks": {},
    }
    with tempfile.TemporaryDirectory() as directory:
        files = write_files(options, device, Path(directory))
        for network in options.networks or NETWORKS[device.type]:
            counts = tqdm(options.processes, desc=network)
            rates = [measure(network, options, files, count) for count in counts]
            result["networks"][network] = rates
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{device.type}.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / f"{device.type}.md").write_text(markdown(result) + "\n")
    print(markdown(result))


if __name__ == "__main__":
    main(sys.argv[1:])
