"""Labelled images in one tensor.

Every item of a dataset is read once, before any training; training then takes batches by index,
on the device, without a data loader.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, TensorDataset
from tqdm import tqdm

_IMAGES_CHECKED_AT_ONCE = 1024


class ImageDataset(Protocol):
    """A map-style dataset: a torch ``Dataset`` with a length, or a list of (image, label)."""

    def __getitem__(self, index: int, /) -> Any:
        """Return the pair (image, label) of one item."""
        ...

    def __len__(self) -> int:
        """Return the number of items."""
        ...


@dataclass(frozen=True)
class LabelledImages:
    """Images and their labels.

    Attributes:
        images: Float32 [N, C, H, W], as the network takes them.
        labels: Int64 [N], from 0.
        key: Tells these data from all others of this process.
    """

    images: Tensor
    labels: Tensor
    key: int = field(default_factory=itertools.count().__next__, compare=False)

    def __len__(self) -> int:
        """Return the number of images N."""
        return len(self.labels)

    @property
    def n_bytes(self) -> int:
        """Memory of the images, in bytes."""
        return self.images.nbytes

    def to(self, device: torch.device) -> LabelledImages:
        """Return the data on a device; this very data if it is there already."""
        return LabelledImages(self.images.to(device), self.labels.to(device), self.key)

    def take(self, indices: Tensor, device: torch.device) -> Tensor:
        """Return a copy of some images on a device, channels last on CUDA, where that is faster.

        Args:
            indices: Int64 [n], on any device.
            device: Where the network runs.
        """
        images = self.images[indices.to(self.images.device)].to(device, non_blocking=True)
        if device.type == "cuda" and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return images


def load_images(
    dataset: ImageDataset, transform: Callable[[Any], Tensor] | None, name: str
) -> LabelledImages:
    """Read a whole dataset into one tensor in main memory.

    The tensors of a ``TensorDataset`` are taken as they are if there is no transform. Random
    augmentation inside the dataset is drawn once, here.

    Args:
        dataset: Map-style dataset of (image, label): images float [C, H, W], all of one size, or
            anything that ``transform`` makes such a tensor of; labels integers from 0.
        transform: Deterministic, applied to each image once; None: the images are used as they
            are.
        name: The argument that the dataset was given as, for messages.

    Raises:
        TypeError: If it is not a map-style dataset, an item is not a pair, an image is not a
            float tensor (after the transform), or a label is not an integer.
        ValueError: If it is empty, an image has another size than the first or a value that is
            not finite, or a label is negative.
    """
    indexable = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if not indexable or isinstance(dataset, IterableDataset):
        raise TypeError(
            f"`{name}` must be a map-style dataset of (image, label), with `__getitem__` and "
            f"`__len__`, but got {type(dataset).__name__}."
        )
    if len(dataset) == 0:
        raise ValueError(f"`{name}` must hold images, but it is empty.")
    if isinstance(dataset, TensorDataset) and transform is None:
        images, labels = _take_tensors(dataset, name)
    else:
        images, labels = _read_items(dataset, transform, name)
    _check_images_are_finite(images, name)
    negative = torch.nonzero(labels < 0)
    if len(negative) > 0:
        index = int(negative[0])
        raise ValueError(
            f"Labels must be 0 or more, but `{name}` has {int(labels[index])} at index {index}."
        )
    return LabelledImages(images, labels)


def _take_tensors(dataset: TensorDataset, name: str) -> tuple[Tensor, Tensor]:
    """Return the images and labels of a ``TensorDataset`` without a loop over its items."""
    if len(dataset.tensors) != 2:
        raise TypeError(
            f"`{name}` must give pairs (image, label), but its TensorDataset has "
            f"{len(dataset.tensors)} tensor(s)."
        )
    images, labels = dataset.tensors
    _check_image(images[0], 0, False, name)
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise TypeError(
            f"The labels of `{name}` must be integers, one an image, but its TensorDataset has "
            f"labels {labels.dtype} of shape {tuple(labels.shape)}."
        )
    return images.detach().to("cpu", torch.float32), labels.to("cpu", torch.int64)


def _read_items(
    dataset: ImageDataset, transform: Callable[[Any], Tensor] | None, name: str
) -> tuple[Tensor, Tensor]:
    """Read item by item into tensors that are allocated once."""
    labels = torch.empty(len(dataset), dtype=torch.int64)
    images = torch.empty(0)
    # Silent where it takes a moment only, or where nobody watches.
    progress = tqdm(range(len(dataset)), f"reading {name}", delay=2.0, disable=None, leave=False)
    for index in progress:
        item = dataset[index]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise TypeError(
                f"`{name}` must give pairs (image, label), but item {index} is {_describe(item)}."
            )
        image = item[0] if transform is None else transform(item[0])
        _check_image(image, index, transform is not None, name)
        if index == 0:
            images = torch.empty((len(dataset), *image.shape), dtype=torch.float32)
        elif image.shape != images.shape[1:]:
            raise ValueError(
                f"The images of `{name}` must have one size, but item {index} is "
                f"{tuple(image.shape)} and item 0 is {tuple(images.shape[1:])}: resize and crop "
                "them with `transform`."
            )
        images[index] = image.detach()
        labels[index] = _label(item[1], index, name)
    return images, labels


def _describe(value: Any) -> str:
    """Say what a value is: its type, and if it is an array its dtype and shape."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    if isinstance(value, (Tensor, np.ndarray)):
        return f"a {kind} of {value.dtype} and shape {tuple(value.shape)}"
    return f"a {kind}"


def _check_image(image: Any, index: int, transformed: bool, name: str) -> None:
    """Raise TypeError unless the image is a float tensor [C, H, W]."""
    if isinstance(image, Tensor) and image.is_floating_point() and image.ndim == 3:
        return
    if transformed:
        raise TypeError(
            "`transform` must return float tensors [C, H, W], but for item "
            f"{index} of `{name}` it returned {_describe(image)}."
        )
    raise TypeError(
        f"The images of `{name}` must be float tensors [C, H, W] as the network takes them, but "
        f"item {index} is {_describe(image)}: give a `transform` that makes it one, such as "
        "torchvision's `weights.transforms()`."
    )


def _label(label: Any, index: int, name: str) -> int:
    """Return a label as int: from an int, a NumPy integer or an integer tensor without axes."""
    try:
        if isinstance(label, (Tensor, np.ndarray)) and label.ndim != 0:
            raise TypeError
        return operator.index(label)
    except TypeError:
        shown = _describe(label) if isinstance(label, (Tensor, np.ndarray)) else repr(label)
        raise TypeError(
            f"The labels of `{name}` must be integers, but item {index} has {shown}."
        ) from None


def _check_images_are_finite(images: Tensor, name: str) -> None:
    """Raise ValueError naming the first image with a value that is NaN or infinite."""
    for start in range(0, len(images), _IMAGES_CHECKED_AT_ONCE):
        finite = torch.isfinite(images[start : start + _IMAGES_CHECKED_AT_ONCE]).flatten(1).all(1)
        if not bool(finite.all()):
            index = start + int(torch.nonzero(~finite)[0])
            raise ValueError(
                f"Images must be finite, but item {index} of `{name}` holds NaN or infinity."
            )


def join_images(train: LabelledImages, val: LabelledImages) -> LabelledImages:
    """Put the validation images behind the training images.

    Raises:
        ValueError: If the two have images of different sizes.
    """
    sizes = tuple(train.images.shape[1:]), tuple(val.images.shape[1:])
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"`train` and `val` must have images of one size, but item 0 of `train` is {sizes[0]} "
            f"and item 0 of `val` is {sizes[1]}."
        )
    return LabelledImages(
        torch.cat([train.images, val.images]), torch.cat([train.labels, val.labels])
    )


def check_classes(labels: Tensor, name: str) -> None:
    """Raise ValueError if the labels have one class only."""
    if bool((labels == labels[0]).all()):
        raise ValueError(
            f"`{name}` must have at least two classes, but all its {len(labels)} labels are "
            f"{int(labels[0])}."
        )


def check_known_classes(labels: Tensor, train_labels: Tensor, name: str) -> None:
    """Raise ValueError if there is a class that the training data lack.

    No plan could learn it, and its recall of 0 would lower every fitness by the same amount.
    """
    unknown = torch.nonzero(~torch.isin(labels, train_labels))
    if len(unknown) > 0:
        index = int(unknown[0])
        raise ValueError(
            f"Every class of `{name}` must occur in `train`, but class {int(labels[index])} "
            f"(index {index} of `{name}`) does not."
        )
