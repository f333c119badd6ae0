"""What the speed of training is measured on: a network, image files, and options for both."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import checkpoint_path, library_versions, load_checkpoint
from PIL import Image
from targets import TARGETS
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2

from optuna_biotune import FineTuningObjective, FineTuningPlan

NETWORKS = {"cpu": ("small_resnet",), "cuda": ("resnet18", "resnet50", "densenet121")}
"""The networks that are measured on a kind of device, unless others are named."""

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class JpegFiles(Dataset[tuple[Image.Image, int]]):
    """Images in JPEG files, as a folder of photographs has them."""

    def __init__(self, files: Sequence[Path], labels: Sequence[int]) -> None:
        self.files, self.labels = files, labels

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return the decoded image and its label."""
        with Image.open(self.files[index]) as image:
            return image.convert("RGB"), self.labels[index]

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.files)


@dataclass(frozen=True)
class Problem:
    """What is trained, and for how long."""

    name: str
    build: Callable[[], nn.Module]
    train: JpegFiles
    val: JpegFiles
    transform: Callable[[Any], Tensor]
    device: torch.device
    batch_size: int
    epochs: int
    seeds: int


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose network, images and sizes."""
    add = parser.add_argument
    add("--data", type=Path, required=True, help="directory of the target sets")
    add("--target", choices=TARGETS, default="isic8")
    add("--device", default="auto", help="cpu or cuda (default: auto)")
    add("--networks", nargs="+", help="default: those of the device")
    add("--pretrained", action="store_true", help="torchvision's weights on CUDA")
    add("--images", type=int, help="training and validation images, most of each")
    add("--size", type=int, help="height and width (default: 32, CUDA: 224)")
    add("--epochs", type=int, default=6)
    add("--seeds", type=int, default=3)
    add("--batch-size", type=int, default=64)
    add("--genotypes", type=int, default=50, help="random plans (default: 50)")


def command_of(script: str, parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """Return the command line without paths, and without options that have their defaults.

    Args:
        script: Name of the script.
        parser: Its parser.
        options: What it parsed.
    """
    words = [f"python benchmarks/{script} --data DIR"]
    for name, value in vars(options).items():
        if name in ("data", "out") or value == parser.get_default(name):
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        words.append(" ".join([f"--{name.replace('_', '-')}", *map(str, values)]))
    return " ".join(words)


def machine(device: torch.device) -> str:
    """Return the device, the number of cores, and the versions of the libraries."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    versions = (f"{library} {version}" for library, version in library_versions().items())
    return f"{name}, {os.cpu_count()} cores. {', '.join(versions)}"


def write_files(
    options: argparse.Namespace, device: torch.device, directory: Path
) -> dict[str, JpegFiles]:
    """Write the images of the target that the options name, as JPEG files, for ``make_problem``.

    Args:
        options: The parsed command line.
        device: Where the network trains.
        directory: Where to write.
    """
    most = options.images or (1200 if device.type == "cuda" else 320)
    path = options.data / f"{options.target}.npz"
    return write_jpegs(path, directory, _size(options, device), most)


def make_problem(
    network: str, options: argparse.Namespace, device: torch.device, files: dict[str, JpegFiles]
) -> Problem:
    """Return what is trained.

    Args:
        network: Name of the network.
        options: The parsed command line.
        device: Where it trains.
        files: What :func:`write_files` wrote.
    """
    mean, std = _IMAGENET
    if network == "small_resnet":
        record = load_checkpoint(checkpoint_path(network)).record
        mean, std = record.mean, record.std  # type: ignore[assignment]
    size = _size(options, device)
    transform = v2.Compose(
        [
            v2.Resize(size, antialias=True),
            v2.CenterCrop(size),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ]
    )
    return Problem(
        name=network,
        build=_build(network, max(files["train"].labels) + 1, options.pretrained),
        train=files["train"],
        val=files["val"],
        transform=transform,
        device=device,
        batch_size=options.batch_size,
        epochs=options.epochs,
        seeds=options.seeds,
    )


def make_objective(problem: Problem) -> FineTuningObjective:
    """Return the objective of a study, with its defaults, but without early stopping."""
    return FineTuningObjective(
        model=problem.build,
        train=problem.train,
        val=problem.val,
        transform=problem.transform,
        epochs=problem.epochs,
        patience=problem.epochs,
        seeds=range(problem.seeds),
        batch_size=problem.batch_size,
        metric="accuracy",
        device=problem.device,
    )


def _size(options: argparse.Namespace, device: torch.device) -> int:
    return int(options.size or (224 if device.type == "cuda" else 32))


def random_plans(names: Sequence[str], n_plans: int) -> list[FineTuningPlan]:
    """Draw plans as the first generation of a search does: valid ones, uniformly."""
    rng = np.random.default_rng(0)
    plans: list[FineTuningPlan] = []
    while len(plans) < n_plans:
        plan = FineTuningPlan.from_genes(names, list(rng.random(len(names))), float(rng.random()))
        if plan.trainable:
            plans.append(plan)
    return plans


def wait_for(device: torch.device) -> None:
    """Wait until the device has done everything that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def write_jpegs(path: Path, directory: Path, size: int, most: int) -> dict[str, JpegFiles]:
    """Write a target's images as JPEG files a quarter larger than the network takes them.

    Args:
        path: The target's file, as ``targets.py`` reads it.
        directory: Where to write.
        size: Height and width that the network takes.
        most: Most training and most validation images.
    """
    sets = {}
    with np.load(path, allow_pickle=False) as file:
        images, labels, split = file["images"], file["labels"], file["split"]
    stored = math.ceil(size * 1.25)
    for code, part in enumerate(("train", "val")):
        chosen = np.random.default_rng(0).permutation(np.flatnonzero(split == code))[:most]
        files = [directory / f"{index}.jpg" for index in chosen]
        for index, name in zip(chosen, files, strict=True):
            Image.fromarray(images[index]).resize((stored, stored)).save(name, quality=95)
        sets[part] = JpegFiles(files, [int(label) for label in labels[chosen]])
    return sets


def _build(network: str, n_classes: int, pretrained: bool) -> Callable[[], nn.Module]:
    """Return what builds a network with a body that is the same each time, and a new head."""
    if network == "small_resnet":
        checkpoint = load_checkpoint(checkpoint_path(network))
        return lambda: checkpoint.build(n_classes)
    import torchvision

    body = torchvision.models.get_model(network, weights="DEFAULT" if pretrained else None)
    state = body.state_dict()
    head = "classifier" if network.startswith("densenet") else "fc"

    def build() -> nn.Module:
        model: nn.Module = torchvision.models.get_model(network)
        model.load_state_dict(state)
        setattr(model, head, nn.Linear(getattr(model, head).in_features, n_classes))
        return model

    return build
