"""Read data sets: every item once, with checks that name the item, into one tensor."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, TensorDataset
from tqdm import tqdm

from optuna_biotune.finetune.data import ImageDataset, LabelledImages
from optuna_biotune.finetune.pixels import Normalisation, Transform, split_transform

Allocate = Callable[[tuple[int, ...], torch.dtype], Tensor]

# Of a tensor of images, how many are checked and copied at once.
_IMAGES_AT_ONCE = 1024
# Everything else is kept as float32.
_KEPT_TYPES = (torch.uint8, torch.float16, torch.bfloat16)


def in_main_memory(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor that is not filled."""
    return torch.empty(shape, dtype=dtype)


def load_images(
    datasets: Mapping[str, ImageDataset],
    transform: Transform | None,
    allocate: Allocate = in_main_memory,
) -> LabelledImages:
    """Read data sets, one behind the other, into one tensor of images.

    The images keep their type: uint8, or 16-bit or 32-bit floats. Where a transform of torchvision
    ends by making floats of bytes, the bytes are kept, and that end is applied to each batch.
    Random augmentation inside a data set or the transform is drawn once, here.

    Args:
        datasets: For each name, as messages call it, a map-style dataset of (image, label): images
            float [C, H, W], all of one size, or anything that ``transform`` makes such a tensor
            of; labels integers from 0.
        transform: Deterministic, applied to each image once, to float or uint8 [C, H, W]; uint8 is
            scaled to 0 to 1 for the network. None: the images are used as they are.
        allocate: Gives the tensor for the images, of a shape and a type.

    Raises:
        TypeError: If it is not a map-style dataset, an item is not a pair, an image is not a
            tensor as above (after the transform) or of another type than the first, or a label is
            not an integer.
        ValueError: If a data set is empty, an image has another size than the first or a value
            that is not finite, or a label is negative.
    """
    for name, dataset in datasets.items():
        _check_dataset(dataset, name)
    parts = split_transform(transform, _FirstImages(datasets))
    if parts is not None:
        try:
            return _read(datasets, parts[0], parts[1], allocate)
        except TypeError:
            # An image is not of bytes, such as a scan of 16 bits: the whole takes it, or says why.
            pass
    return _read(datasets, transform, Normalisation(), allocate)


class _FirstImages:
    """The first image of each data set, read only if it is asked for."""

    def __init__(self, datasets: Mapping[str, ImageDataset]) -> None:
        self._datasets = datasets

    def __iter__(self) -> Any:
        for name, dataset in self._datasets.items():
            yield _pair(dataset[0], 0, name)[0]


def _check_dataset(dataset: ImageDataset, name: str) -> None:
    """Raise TypeError unless it is a map-style dataset, ValueError if it is empty."""
    indexable = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if not indexable or isinstance(dataset, IterableDataset):
        raise TypeError(
            f"`{name}` must be a map-style dataset of (image, label), with `__getitem__` and "
            f"`__len__`, but got {type(dataset).__name__}."
        )
    if len(dataset) == 0:
        raise ValueError(f"`{name}` must hold images, but it is empty.")


def _read(
    datasets: Mapping[str, ImageDataset],
    transform: Transform | None,
    normalisation: Normalisation,
    allocate: Allocate,
) -> LabelledImages:
    """Read all data sets with one transform."""
    target = _Target(sum(map(len, datasets.values())), allocate)
    for name, dataset in datasets.items():
        target.begin(name)
        if isinstance(dataset, TensorDataset) and transform is None:
            _copy_tensors(dataset, target)
        else:
            _read_items(dataset, transform, target)
    bytes_are_kept = target.images.dtype == torch.uint8
    return LabelledImages(target.images, target.labels, normalisation if bytes_are_kept else None)


class _Target:
    """Images and labels that are being read.

    Args:
        n_items: Number of items of all data sets.
        allocate: Gives the tensor for the images.
    """

    def __init__(self, n_items: int, allocate: Allocate) -> None:
        self.images = torch.empty(0)
        self.labels = torch.empty(n_items, dtype=torch.int64)
        self.name = self._first_name = ""
        self._allocate = allocate
        self._start = 0
        self._position = 0

    def begin(self, name: str) -> None:
        """Begin with a data set, called ``name`` in messages."""
        self.name, self._start = name, self._position
        self._first_name = self._first_name or name

    def put(self, images: Tensor, labels: Tensor) -> None:
        """Put images [n, C, H, W] and their labels [n] behind those before.

        Raises:
            TypeError: If they are of another type than the first image.
            ValueError: If one has another size than the first, a value that is not finite, or a
                negative label.
        """
        index, end = self._position - self._start, self._position + len(images)
        dtype = images.dtype if images.dtype in _KEPT_TYPES else torch.float32
        if self._position == 0:
            shape = (len(self.labels), *images.shape[1:])
            self.images = self._allocate(shape, dtype)
        self._check_like_first(images, dtype, index)
        if images.is_floating_point() and not bool(images.isfinite().all()):
            broken = index + int(torch.nonzero(~images.isfinite().flatten(1).all(1))[0])
            raise ValueError(
                f"Images must be finite, but item {broken} of `{self.name}` holds NaN or infinity."
            )
        if bool((labels < 0).any()):
            where = int(torch.nonzero(labels < 0)[0])
            raise ValueError(
                f"Labels must be 0 or more, but `{self.name}` has {int(labels[where])} at index "
                f"{index + where}."
            )
        self.images[self._position : end] = images.detach()
        self.labels[self._position : end] = labels
        self._position = end

    def _check_like_first(self, images: Tensor, dtype: torch.dtype, index: int) -> None:
        """Raise an error if images have another type or size than the first of all."""
        if dtype != self.images.dtype:
            raise TypeError(
                f"The images must be of one type, but item {index} of `{self.name}` is {dtype} and "
                f"item 0 of `{self._first_name}` is {self.images.dtype}."
            )
        size, first = tuple(images.shape[1:]), tuple(self.images.shape[1:])
        if size == first:
            return
        if index == 0:
            raise ValueError(
                f"`{self._first_name}` and `{self.name}` must have images of one size, but item 0 "
                f"of `{self._first_name}` is {first} and item 0 of `{self.name}` is {size}."
            )
        raise ValueError(
            f"The images of `{self.name}` must have one size, but item {index} is {size} and item "
            f"0 is {first}: resize and crop them with `transform`."
        )


def _copy_tensors(dataset: TensorDataset, target: _Target) -> None:
    """Copy the images and labels of a ``TensorDataset`` without a loop over its items."""
    name = target.name
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
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        some = slice(start, start + _IMAGES_AT_ONCE)
        target.put(images[some], labels[some])


def _read_items(dataset: ImageDataset, transform: Transform | None, target: _Target) -> None:
    """Read a data set item by item."""
    name = target.name
    # Silent where it takes a moment only, or where nobody watches.
    progress = tqdm(range(len(dataset)), f"reading {name}", delay=2.0, disable=None, leave=False)
    for index in progress:
        image, label = _pair(dataset[index], index, name)
        if transform is not None:
            image = transform(image)
        _check_image(image, index, transform is not None, name)
        target.put(image[None], torch.tensor([_label(label, index, name)]))


def _pair(item: Any, index: int, name: str) -> tuple[Any, Any]:
    """Return image and label of an item; TypeError if it is something else."""
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise TypeError(
            f"`{name}` must give pairs (image, label), but item {index} is {_describe(item)}."
        )
    return item[0], item[1]


def _describe(value: Any) -> str:
    """Say what a value is: its type, and if it is an array its dtype and shape."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    if isinstance(value, (Tensor, np.ndarray)):
        return f"a {kind} of {value.dtype} and shape {tuple(value.shape)}"
    return f"a {kind}"


def _check_image(image: Any, index: int, transformed: bool, name: str) -> None:
    """Raise TypeError unless it is a float tensor [C, H, W], or uint8 after a transform."""
    if (
        isinstance(image, Tensor)
        and image.ndim == 3
        and (image.is_floating_point() or (transformed and image.dtype == torch.uint8))
    ):
        return
    if transformed:
        raise TypeError(
            "`transform` must return float or uint8 tensors [C, H, W], but for item "
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
