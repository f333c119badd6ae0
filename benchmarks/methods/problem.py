"""A target set and a pre-trained network, ready for every method alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from checkpoints import Checkpoint
from targets import Target, load_target, stratified_subset
from torch import nn
from torch.utils.data import TensorDataset

from optuna_biotune.finetune.data import LabelledImages
from optuna_biotune.finetune.device import (
    default_cache_bytes,
    resolve_device,
    resolve_precision,
)
from optuna_biotune.finetune.image_memory import allocate_images
from optuna_biotune.finetune.layout import favours_channels_last, set_channels_last
from optuna_biotune.finetune.prefix import PrefixSharing
from optuna_biotune.finetune.reading import load_images
from optuna_biotune.finetune.settings import TrainingSettings
from optuna_biotune.finetune.splits import Fold, load_training_data
from optuna_biotune.finetune.template import build_template

IntArray = npt.NDArray[np.int64]

# The same subsets in every run.
_SUBSET_SEED = 0


@dataclass(frozen=True)
class Sizes:
    """How large the data and the trainings are.

    Attributes:
        size: Height and width of the images.
        max_train: Most training images, a stratified subset; None for all.
        max_val: Most validation images alike.
        batch_size: Images a step.
        epochs: Most epochs of a training.
        patience: Epochs without improvement after which a training stops.
        lr: Base learning rate of methods that are not tuned, and of the plans.
    """

    size: int = 32
    max_train: int | None = 200
    max_val: int | None = 200
    batch_size: int = 32
    epochs: int = 8
    patience: int = 3
    lr: float = 1e-3


@dataclass(frozen=True)
class Problem:
    """What all trainings on one target share.

    Attributes:
        settings: How networks are built and trained.
        data: Training and validation images.
        whole: Which of them are which.
        test: Test images.
    """

    settings: TrainingSettings
    data: LabelledImages
    whole: Fold
    test: LabelledImages

    @property
    def block_names(self) -> tuple[str, ...]:
        """Names of the network's blocks, the input side first."""
        return self.settings.template.names


def load_problem(
    data: Path,
    target: str,
    checkpoint: Checkpoint,
    sizes: Sizes,
    *,
    images_per_class: int | None = None,
    device: str = "auto",
) -> Problem:
    """Read a target set and prepare the trainings on it.

    Args:
        data: Directory of the target sets.
        target: Name of the set.
        checkpoint: The pre-trained network.
        sizes: How large data and trainings are.
        images_per_class: If given, so many images of each class are training images, and as many
            validation images, up to ``max_val`` of them; ``max_train`` does not count.
        device: ``"auto"`` or a torch device.

    Raises:
        ValueError: If a class has fewer training images than ``images_per_class``.
    """
    record = checkpoint.record
    scarce = images_per_class is not None
    loaded = load_target(
        data,
        target,
        mean=record.mean,
        std=record.std,
        size=sizes.size,
        max_train=None if scarce else sizes.max_train,
    )
    return prepare(
        partial(checkpoint.build, len(loaded.classes)),
        _reduced(loaded, sizes.max_val, images_per_class),
        sizes,
        device,
    )


def prepare(
    build_model: Callable[[], nn.Module], target: Target, sizes: Sizes, device: str
) -> Problem:
    """Prepare the trainings on a target set, as ``FineTuningObjective`` does for its own.

    Args:
        build_model: Builds the pre-trained network with a new head.
        target: The target set.
        sizes: How large the trainings are.
        device: ``"auto"`` or a torch device.
    """
    where = resolve_device(device)
    precision = resolve_precision("auto", where)
    allocate = partial(allocate_images, device=where, data_bytes=None)
    images, whole = load_training_data(target.train, target.val, None, allocate)
    template, _ = build_template(build_model, None, images, 0, where, precision)
    example = images.take(torch.arange(2), where)
    channels_last = favours_channels_last(template.model, example, sizes.batch_size)
    if channels_last:
        set_channels_last(template.model, True)
    settings = TrainingSettings(
        build_model=build_model,
        template=template,
        lr=sizes.lr,
        epochs=sizes.epochs,
        patience=sizes.patience,
        batch_size=sizes.batch_size,
        metric="balanced_accuracy",
        device=where,
        precision=precision,
        augment=None,
        channels_last=channels_last,
        sharing=PrefixSharing(
            template, where, precision, sizes.batch_size, example, default_cache_bytes(where)
        ),
    )
    return Problem(settings, images, whole, load_images({"test": target.test}, None, allocate))


def _reduced(target: Target, max_val: int | None, images_per_class: int | None) -> Target:
    """Return a target with fewer training and validation images."""
    train, val = target.train, target.val
    if images_per_class is not None:
        train = _of_each_class(train, images_per_class, strict=True)
        val = _of_each_class(val, images_per_class, strict=False)
    if max_val is not None:
        val = _stratified(val, max_val)
    return Target(train, val, target.test, target.classes)


def _labels(dataset: TensorDataset) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.asarray(dataset.tensors[1])


def _rows(
    dataset: TensorDataset, rows: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> TensorDataset:
    return TensorDataset(*(tensor[np.sort(rows)] for tensor in dataset.tensors))


def _stratified(dataset: TensorDataset, n_items: int) -> TensorDataset:
    """Return a stratified subset, or the whole if it has no more items."""
    labels = _labels(dataset)
    return _rows(dataset, stratified_subset(np.arange(len(labels)), labels, n_items))


def images_per_class(dataset: TensorDataset) -> int:
    """Return how many images the rarest class has."""
    return int(np.unique(_labels(dataset), return_counts=True)[1].min())


def _of_each_class(dataset: TensorDataset, n_items: int, *, strict: bool) -> TensorDataset:
    """Return so many items of each class; of a class with fewer all, unless that is refused."""
    labels = _labels(dataset)
    if strict and n_items > images_per_class(dataset):
        raise ValueError(
            f"`images_per_class` must be at most {images_per_class(dataset)}, the images of the "
            f"rarest class, but got {n_items}."
        )
    rng = np.random.default_rng(_SUBSET_SEED)
    # More images of a class are the fewer and some others.
    rows = [rng.permutation(np.flatnonzero(labels == one))[:n_items] for one in np.unique(labels)]
    return _rows(dataset, np.concatenate(rows))
