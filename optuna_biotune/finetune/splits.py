"""Which items to train and to validate on: fixed stratified splits, and batches of indices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit
from torch import Tensor

from optuna_biotune.finetune.data import (
    ImageDataset,
    LabelledImages,
    check_classes,
    check_known_classes,
)
from optuna_biotune.finetune.reading import Allocate, in_main_memory, load_images

# The splits are the same in every study and every trial, so that trials differ by their plan only.
_SPLIT_SEED = 0
_VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class Fold:
    """Which items one generation trains on, and which it validates on.

    Attributes:
        train: Indices of the training items, int64 [n].
        val: Indices of the validation items, int64 [m]; none of them is in ``train``.
    """

    train: Tensor
    val: Tensor


def load_training_data(
    train: ImageDataset,
    val: ImageDataset | None,
    transform: Callable[[Any], Tensor] | None,
    allocate: Allocate = in_main_memory,
) -> tuple[LabelledImages, Fold]:
    """Read training and validation data into one tensor, and say which item is which.

    Args:
        train: The training data.
        val: The validation data; None: a fixed stratified fifth of ``train``.
        transform: Applied to each image once; None for none.
        allocate: Gives the tensor for the images, of a shape and a type.

    Raises:
        TypeError: If an image or a label is of the wrong kind.
        ValueError: If data are empty, of one class, of unequal sizes or not finite, if a class is
            too rare to be split, or if ``val`` has one that ``train`` lacks.
    """
    if val is None:
        data = load_images({"train": train}, transform, allocate)
        check_classes(data.labels, "train")
        return data, split_train(data.labels)
    data = load_images({"train": train, "val": val}, transform, allocate)
    whole = Fold(torch.arange(len(train)), torch.arange(len(train), len(data)))
    train_labels, val_labels = data.labels[whole.train], data.labels[whole.val]
    check_classes(train_labels, "train")
    check_classes(val_labels, "val")
    check_known_classes(val_labels, train_labels, "val")
    return data, whole


def split_train(labels: Tensor) -> Fold:
    """Split training data 80 to 20 into training and validation data, stratified by class.

    The split depends on the labels only: it is the same in every run.

    Args:
        labels: Int64 [N].

    Raises:
        ValueError: If a class has one example only.
    """
    _check_examples_per_class(labels, 2, "train", "to be split into training and validation data")
    n_classes = len(torch.unique(labels))
    n_val = max(round(_VALIDATION_SHARE * len(labels)), n_classes)
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=n_val, random_state=_SPLIT_SEED)
    train, val = next(splitter.split(np.zeros(len(labels)), labels.cpu().numpy()))
    return Fold(_sorted_indices(train), _sorted_indices(val))


def stratified_folds(labels: Tensor, whole: Fold, folds: int) -> tuple[Fold, ...]:
    """Cut training and validation data into parts with the same shares of the classes.

    Fold g holds part g of the training data and part g of the validation data. The parts depend
    on the labels only: they are the same in every run.

    Args:
        labels: Labels of all items, int64 [N].
        whole: The training and the validation items.
        folds: Number of parts; 1 gives ``whole`` itself.

    Raises:
        ValueError: If a class has fewer examples than there are parts.
    """
    if folds == 1:
        return (whole,)
    train = _parts(labels, whole.train, folds, "train")
    val = _parts(labels, whole.val, folds, "val")
    return tuple(Fold(*parts) for parts in zip(train, val, strict=True))


def _parts(labels: Tensor, indices: Tensor, folds: int, name: str) -> list[Tensor]:
    """Cut the items at ``indices`` into stratified parts, and return the indices of each."""
    chosen = labels[indices]
    _check_examples_per_class(chosen, folds, name, f"to be cut into `folds={folds}` parts")
    splitter = StratifiedKFold(n_splits=folds, shuffle=True, random_state=_SPLIT_SEED)
    parts = splitter.split(np.zeros(len(chosen)), chosen.cpu().numpy())
    return [indices[_sorted_indices(part)] for _, part in parts]


def _check_examples_per_class(labels: Tensor, least: int, name: str, purpose: str) -> None:
    """Raise ValueError naming the first class with fewer examples than ``least``."""
    classes, counts = torch.unique(labels, return_counts=True)
    rare = torch.nonzero(counts < least)
    if len(rare) > 0:
        where = int(rare[0])
        raise ValueError(
            f"Every class of `{name}` needs at least {least} examples {purpose}, but class "
            f"{int(classes[where])} has {int(counts[where])}."
        )


def _sorted_indices(indices: np.ndarray[Any, Any]) -> Tensor:
    """Return indices as a sorted int64 tensor."""
    return torch.from_numpy(np.sort(indices)).to(torch.int64)


def batches(indices: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Cut indices into batches.

    A last batch of one item joins the batch before it, which then holds ``batch_size + 1``:
    BatchNorm cannot normalise over a single item.

    Args:
        indices: Int64 [n], in the order of training.
        batch_size: Items a batch.

    Yields:
        Int64 [batch_size] views of ``indices``; the last may be shorter, or longer by one.
    """
    n = len(indices)
    starts = list(range(0, n, batch_size))
    if batch_size > 1 and n > 1 and n - starts[-1] == 1:
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], n], strict=True):
        yield indices[start:stop]
