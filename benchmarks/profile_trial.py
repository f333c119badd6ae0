"""Print where the time of a trial goes: full fine-tuning, and the first half of the blocks frozen.

python benchmarks/profile_trial.py --data DIR

Each trial of ``FineTuningObjective`` runs once to warm up, once for its time, and once under
``torch.profiler``, which tells the shares of the operations in the time of that run; the rest is
Python. The profiler slows small operations a little. Frozen first blocks have been computed by the
warm-up, as in a search they have by earlier trials. On the CPU, in one thread:
``OMP_NUM_THREADS=1``.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from checkpoints import checkpoint_path, load_checkpoint
from optuna.trial import FixedTrial
from targets import TARGETS, load_target
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from optuna_biotune import FineTuningObjective, FineTuningPlan

# A name of an operation belongs to the first part that has one of its words.
PARTS = {
    "convolutions, backward": ("convolution_backward",),
    "convolutions, forward": ("conv",),
    "batch normalisation": ("batch_norm",),
    "head and loss": ("addmm", "aten::mm", "linear", "softmax", "nll_loss", "cross_entropy"),
    "fetching batches": ("aten::index",),
    "ReLU, sums, means": ("relu", "clamp", "threshold", "aten::add", "mean", "sum", "div"),
    "autograd itself": ("autograd::", "Backward", "AccumulateGrad"),
}


def part_of(event: FunctionEvent) -> str:
    """Return which part of training an event of the profiler belongs to."""
    above: FunctionEvent | None = event
    while above is not None:
        if above.name.startswith("Optimizer.step"):
            return "optimizer"
        above = above.cpu_parent
    for part, words in PARTS.items():
        if any(word in event.name for word in words):
            return part
    return "other operations"


def profile_plan(objective: FineTuningObjective, plan: FineTuningPlan) -> dict[str, float]:
    """Train a plan three times and return the seconds of its parts.

    Args:
        objective: The objective, on the CPU.
        plan: The plan.

    Returns:
        ``trial``, the seconds of the trial, and the share of each part, 0 to 1.
    """
    params = plan.to_params()
    objective(FixedTrial(params))
    start = time.process_time()
    objective(FixedTrial(params))
    total = time.process_time() - start
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        start = time.perf_counter()
        objective(FixedTrial(params))
        profiled = time.perf_counter() - start
    parts: dict[str, float] = defaultdict(float)
    for event in profiler.events() or ():
        parts[part_of(event)] += event.self_cpu_time_total / 1e6 / profiled
    parts["Python between operations"] = 1 - sum(parts.values())
    return {"trial": total, **parts}


def table(measured: dict[str, dict[str, float]]) -> str:
    """Return the parts of each plan's time as a Markdown table."""
    names = list(measured)
    rows = sorted(
        {part for parts in measured.values() for part in parts} - {"trial"},
        key=lambda part: -max(parts.get(part, 0.0) for parts in measured.values()),
    )
    totals = " | ".join(f"{measured[name]['trial']:.2f} s" for name in names)
    lines = [f"| | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|", f"| trial | {totals} |"]
    for row in rows:
        shares = (measured[name].get(row, 0.0) for name in names)
        lines.append(f"| {row} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Profile both plans and print the table.

    Args:
        arguments: The command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory of the target sets")
    parser.add_argument("--target", choices=TARGETS, default="isic8")
    parser.add_argument("--images", type=int, default=200, help="most training images")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args(arguments)
    checkpoint = load_checkpoint(checkpoint_path("small_resnet"))
    record = checkpoint.record
    target = load_target(
        options.data, options.target, mean=record.mean, std=record.std, max_train=options.images
    )
    objective = FineTuningObjective(
        model=partial(checkpoint.build, len(target.classes)),
        train=target.train,
        val=target.val,
        lr=3e-3,
        epochs=options.epochs,
        patience=options.epochs,
        seeds=(0,),
        batch_size=options.batch_size,
        device="cpu",
    )
    names = objective.block_names
    half = {name: float(i >= len(names) // 2) for i, name in enumerate(names)}
    plans = {
        "full fine-tuning": FineTuningPlan.full(names),
        "first half frozen": FineTuningPlan(half),
    }
    print(
        f"{len(target.train)} training, {len(target.val)} validation images, "
        f"{options.epochs} epochs, {torch.get_num_threads()} thread(s).\n"
    )
    print(table({name: profile_plan(objective, plan) for name, plan in plans.items()}))


if __name__ == "__main__":
    main()
