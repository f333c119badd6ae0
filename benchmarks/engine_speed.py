"""Compare the speed of ``FineTuningObjective`` with training loops as users write them.

python benchmarks/engine_speed.py --data DIR --device cpu
python benchmarks/engine_speed.py --data DIR --device cuda

Three ways to train the same plans on the same images, side by side in one run, each plan by each
way in turn, so that whatever else the machine does slows all of them alike:

- ``loader``: a plain, competent PyTorch loop in float32: a DataLoader with worker processes that
  decode JPEG files with PIL and transform them; frozen parameters need no gradients, frozen blocks
  are in evaluation mode.
- ``resident``: the same loop on images that were decoded once and lie on the device.
- ``engine``: ``FineTuningObjective`` with its defaults, one object for all plans, as in a study.

Plans: full fine-tuning, the first half of the blocks frozen, a linear probe, and random genotypes
(the mean over all). Each trial trains the same number of seeds and epochs, without early stopping.
The best validation accuracy of each trial, mean over the seeds, stands beside its time. The time
does not hold the engine's preparation (reading all images once), which is shown by itself.

On the CPU the network is the small one of these benchmarks, from its checkpoint. On CUDA they are
torchvision's ResNet-18, ResNet-50 and DenseNet-121 at 224 x 224 pixels, with random weights
unless ``--pretrained`` is given (torchvision then downloads them): accuracies of random weights
show only that all ways train alike. What the device can do at most in bfloat16 is measured, too.

Results go to ``results/engine_speed/<device>.json`` and ``.md``.
Those of the CPU were measured on two idle cores, with few images and epochs: their ratios count,
not their seconds.

Goals: the engine never slower than ``loader``; a linear probe at least 8 times, and the mean of 50
random genotypes at least 1.5 times as fast.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from optuna.trial import FixedTrial
from speed_problem import (
    NETWORKS,
    JpegFiles,
    Problem,
    add_options,
    command_of,
    machine,
    make_objective,
    make_problem,
    random_plans,
    wait_for,
    write_files,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from optuna_biotune import BlockPartition, FineTuningPlan, partition_blocks
from optuna_biotune.finetune.device import resolve_device

RESULTS = Path(__file__).parent / "results" / "engine_speed"
WAYS = ("loader", "resident", "engine")


class Transformed(Dataset[tuple[Tensor, int]]):
    """A data set whose images are transformed each time that they are read."""

    def __init__(self, images: JpegFiles, transform: Callable[[Any], Tensor]) -> None:
        self.images, self.transform = images, transform

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return the transformed image and its label."""
        image, label = self.images[index]
        return self.transform(image), label

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)


Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]


def plain_trial(
    problem: Problem, template: BlockPartition, plan: FineTuningPlan, train: Batches, val: Batches
) -> float:
    """Train a plan with each seed in a plain loop.

    Returns:
        The best validation accuracy, mean over the seeds.
    """
    best = []
    for seed in range(problem.seeds):
        torch.manual_seed(seed)
        model = problem.build().to(problem.device)
        blocks = template.for_model(model)
        optimizer = torch.optim.Adam(blocks.param_groups(plan, lr=1e-3))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=problem.epochs)
        scores = []
        for _ in range(problem.epochs):
            blocks.train(plan)
            for images, labels in train():
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            schedule.step()
            model.eval()
            right = n_images = 0
            with torch.no_grad():
                for images, labels in val():
                    right += int((model(images).argmax(1) == labels).sum())
                    n_images += len(labels)
            scores.append(right / n_images)
        best.append(max(scores))
    return statistics.fmean(best)


def loader_batches(problem: Problem, images: JpegFiles, shuffle: bool, workers: int) -> Batches:
    """Read batches with worker processes that stay."""
    loader = DataLoader(
        Transformed(images, problem.transform),
        problem.batch_size,
        shuffle=shuffle,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=problem.device.type == "cuda",
    )

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, labels in loader:
            yield (
                inputs.to(problem.device, non_blocking=True),
                labels.to(problem.device, non_blocking=True),
            )

    return batches


def resident_batches(problem: Problem, files: JpegFiles, shuffle: bool) -> Batches:
    """Take batches of images that were transformed once and lie on the device."""
    images = torch.stack([problem.transform(files[i][0]) for i in range(len(files))]).to(
        problem.device
    )
    labels = torch.tensor(files.labels, device=problem.device)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        n_images = len(labels)
        order = torch.randperm(n_images) if shuffle else torch.arange(n_images)
        for indices in torch.split(order.to(problem.device), problem.batch_size):
            yield images[indices], labels[indices]

    return batches


def compare(problem: Problem, n_plans: int, workers: int) -> dict[str, Any]:
    """Train all plans in all ways and return seconds a trial and accuracies."""
    start = time.perf_counter()
    objective = make_objective(problem)
    preparation = time.perf_counter() - start
    sets = {"train": problem.train, "val": problem.val}
    batches: dict[str, dict[str, Batches]] = {"loader": {}, "resident": {}}
    for part, images in sets.items():
        batches["loader"][part] = loader_batches(problem, images, part == "train", workers)
        batches["resident"][part] = resident_batches(problem, images, part == "train")

    template = partition_blocks(problem.build())
    attributes: dict[str, Any] = {}

    def run(way: str, plan: FineTuningPlan) -> float:
        if way != "engine":
            return plain_trial(problem, template, plan, **batches[way])
        trial = FixedTrial(plan.to_params())
        value = objective(trial)
        attributes.update(trial.user_attrs)
        assert isinstance(value, float)
        return value

    names = objective.block_names
    half = {name: float(i >= len(names) // 2) for i, name in enumerate(names)}
    kinds = {
        "full fine-tuning": [FineTuningPlan.full(names)],
        "first half frozen": [FineTuningPlan(half)],
        "linear probe": [FineTuningPlan.linear_probe(names)],
        f"mean of {n_plans} random genotypes": random_plans(names, n_plans),
    }
    for way in WAYS:  # Not timed: libraries load, workers start.
        run(way, FineTuningPlan.full(names))
    rows: dict[str, Any] = {}
    for kind, plans in kinds.items():
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        values: dict[str, list[float]] = {way: [] for way in WAYS}
        for plan in tqdm(plans, desc=f"{problem.name}, {kind}", leave=False):
            for way in WAYS:
                wait_for(problem.device)
                start = time.perf_counter()
                values[way].append(run(way, plan))
                wait_for(problem.device)
                seconds[way].append(time.perf_counter() - start)
        rows[kind] = {
            way: {
                "seconds": statistics.fmean(seconds[way]),
                "accuracy": statistics.fmean(values[way]),
            }
            for way in WAYS
        }
        rows[kind]["engine"]["teraflops_a_second"] = attributes.get("teraflops_per_second")
    return {"preparation": preparation, "trials": rows}


def bfloat16_ceiling(device: torch.device) -> dict[str, float]:
    """Measure the device's greatest speed in bfloat16, in teraflop/s.

    Returns:
        That of a product of 8192 x 8192 matrices, and of a 3 x 3 convolution of 256 channels.
    """
    options: dict[str, Any] = {"device": device, "dtype": torch.bfloat16}
    one, other = (torch.randn(8192, 8192, **options) for _ in range(2))
    images = torch.randn(128, 256, 56, 56, **options).to(memory_format=torch.channels_last)
    layer = nn.Conv2d(256, 256, 3, padding=1, bias=False).to(**options)
    layer = layer.to(memory_format=torch.channels_last)
    cases: dict[str, tuple[Callable[[], Tensor], int]] = {
        "matrix product": (lambda: one @ other, 2 * 8192**3),
        "convolution": (lambda: layer(images), 2 * 128 * 56 * 56 * 256 * 256 * 9),
    }
    ceiling = {}
    with torch.no_grad():
        for name, (compute, flops) in cases.items():
            times = []
            for _ in range(30):
                wait_for(device)
                start = time.perf_counter()
                compute()
                wait_for(device)
                times.append(time.perf_counter() - start)
            ceiling[name] = flops / min(times) / 1e12
    return ceiling


def markdown(result: dict[str, Any]) -> str:
    """Return the results as Markdown tables, one a network."""
    about = f"{result['machine']}; {result['loader_workers']} loader workers."
    lines = [f"`{result['command']}`", "", about, ""]
    if result["bfloat16_ceiling"]:
        shown = (f"{name} {value:.0f}" for name, value in result["bfloat16_ceiling"].items())
        lines += [f"Greatest speed in bfloat16, TFLOP/s: {', '.join(shown)}.", ""]
    for network, measured in result["networks"].items():
        lines += [
            f"{network}; the engine's preparation took {measured['preparation']:.1f} s.",
            "",
            "| | loader, s | resident, s | engine, s | faster than loader | than resident "
            "| accuracy: loader | resident | engine |",
            "|---" * 9 + "|",
        ]
        for kind, row in measured["trials"].items():
            seconds = [row[way]["seconds"] for way in WAYS]
            ratios = (seconds[0] / seconds[2], seconds[1] / seconds[2])
            cells = [
                kind,
                *(f"{value:.2f}" for value in seconds),
                *(f"x {ratio:.1f}" for ratio in ratios),
                *(f"{row[way]['accuracy']:.3f}" for way in WAYS),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write the results."""
    parser = argparse.ArgumentParser(description="Measure the speed of FineTuningObjective.")
    add_options(parser)
    parser.add_argument("--workers", type=int, help="of the data loaders (default: all cores)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    device = resolve_device(options.device)
    workers = options.workers if options.workers is not None else (os.cpu_count() or 1)
    result: dict[str, Any] = {
        "command": command_of("engine_speed.py", parser, options),
        "machine": machine(device),
        "threads": torch.get_num_threads(),
        "loader_workers": workers,
        "bfloat16_ceiling": bfloat16_ceiling(device) if device.type == "cuda" else None,
        "networks": {},
    }
    with tempfile.TemporaryDirectory() as directory:
        files = write_files(options, device, Path(directory))
        for network in options.networks or NETWORKS[device.type]:
            problem = make_problem(network, options, device, files)
            result["networks"][network] = compare(problem, options.genotypes, workers)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{device.type}.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / f"{device.type}.md").write_text(markdown(result) + "\n")
    print(markdown(result))


if __name__ == "__main__":
    main(sys.argv[1:])
