"""The nine image sets of the BioTune paper, at the paper's resolution.

Eight come through torchvision, which downloads them into the directory of the data; ISIC 2020 has
to be put there by hand. What follows the paper and its published code: the shorter side is resized
to 232 pixels, and the centre of 224 x 224 is kept (342 and 299 for Inception v3), without
augmentation. Test images are those that the set's authors chose.

What is not known of the paper's protocol is chosen here. Validation images are those of the set's
authors where there are such (Flowers-102, of which the published example takes some of the
training images instead, FGVC-Aircraft and DTD), else a stratified fifth of the training images.
Aircraft have their 100 variants as classes, and textures the first of their ten partitions. Of
ISIC 2020, whose test labels are not public, one fifth of the training images is for testing and
one for validation, without a patient in two of the parts; its imbalance, one malignant image in
57, is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from targets import stratified_subset
from torch import Tensor
from torchvision import datasets

from optuna_biotune.finetune.data import ImageDataset
from optuna_biotune.finetune.image_folder import image_transform
from optuna_biotune.finetune.pretrained import impatient_connections
from optuna_biotune.finetune.splits import split_train
from optuna_biotune.recipe import Preprocessing
from paper_targets.isic2020 import CLASSES as ISIC_CLASSES
from paper_targets.isic2020 import read_lesions, split_lesions

__all__ = ["PAPER_TARGETS", "Images", "PaperTarget", "load_paper_target"]

_Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Images:
    """Some images of a data set, all in RGB.

    Attributes:
        source: Pairs (PIL image, label).
        indices: Which of them, int64 [n].
    """

    source: ImageDataset
    indices: _Indices

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return an image, in three channels even if it is grey, and its label from 0."""
        image, label = self.source[int(self.indices[index])]
        return image.convert("RGB"), int(label)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.indices)


@dataclass(frozen=True)
class PaperTarget:
    """An image set of the paper, whose images are read when they are asked for.

    Attributes:
        train: Training images as pairs (PIL image, label).
        val: Validation images alike.
        test: Test images alike.
        classes: Names of the classes, in the order of the labels.
        transform: Makes of an image what a network takes, float32 [3, size, size].
    """

    train: Images
    val: Images
    test: Images
    classes: tuple[str, ...]
    transform: Callable[[Any], Tensor]


def _flagged(kind: Any) -> Callable[[Path, bool], dict[str, Any]]:
    """Open a set of torchvision that takes ``train=True`` or ``train=False``."""
    return lambda root, download: {
        "train": kind(root, train=True, download=download),
        "test": kind(root, train=False, download=download),
    }


def _named(kind: Any, *parts: str) -> Callable[[Path, bool], dict[str, Any]]:
    """Open a set of torchvision that takes the name of a part as ``split``."""
    return lambda root, download: {
        part: kind(root, split=part, download=download) for part in parts
    }


@dataclass(frozen=True)
class _Published:
    """How torchvision gives a set.

    Attributes:
        shows: What the images show.
        expected: The class of torchvision, whose documentation says which files it expects.
        open: Opens its parts, given the directory and whether to download.
        labels: The attribute of a part with all its labels: to read them one by one would decode
            every image.
    """

    shows: str
    expected: str
    open: Callable[[Path, bool], dict[str, Any]]
    labels: str


_THREE = ("train", "val", "test")
_PUBLISHED = {
    "mnist": _Published("handwritten digits", "MNIST", _flagged(datasets.MNIST), "targets"),
    "usps": _Published("handwritten digits", "USPS", _flagged(datasets.USPS), "targets"),
    "svhn": _Published("house numbers", "SVHN", _named(datasets.SVHN, "train", "test"), "labels"),
    "cifar10": _Published("natural objects", "CIFAR10", _flagged(datasets.CIFAR10), "targets"),
    "stl10": _Published(
        "natural objects", "STL10", _named(datasets.STL10, "train", "test"), "labels"
    ),
    "flowers102": _Published(
        "flowers", "Flowers102", _named(datasets.Flowers102, *_THREE), "_labels"
    ),
    "fgvc_aircraft": _Published(
        "aircraft", "FGVCAircraft", _named(datasets.FGVCAircraft, *_THREE), "_labels"
    ),
    "dtd": _Published("textures", "DTD", _named(datasets.DTD, *_THREE), "_labels"),
}
_ISIC = "isic2020"

PAPER_TARGETS: dict[str, str] = {
    **{name: published.shows for name, published in _PUBLISHED.items()},
    _ISIC: "skin lesions",
}
"""Name of each set, and what its images show."""


def load_paper_target(
    data: Path,
    name: str,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    size: int = 224,
    max_train: int | None = None,
    download: bool = True,
) -> PaperTarget:
    """Open one of the paper's image sets, and download it if it is missing.

    Args:
        data: Directory of the sets, each as torchvision lays it out; for ``isic2020`` see
            :func:`paper_targets.isic2020.read_lesions`.
        name: One of :data:`PAPER_TARGETS`.
        mean: Mean of each channel that the network expects, on a scale from 0 to 1.
        std: Standard deviation alike.
        size: Height and width of the crop, at least 1. The shorter side is resized to 342 pixels
            for 299, and else in the proportion of 232 to 224.
        max_train: Most training images: a stratified subset, always the same. None for all.
        download: Whether to download what is missing.

    Raises:
        FileNotFoundError: If the set is not there and cannot be downloaded.
        ValueError: If the name is unknown, ``size`` below 1, or ``max_train`` below the number of
            classes.
    """
    if name not in PAPER_TARGETS:
        raise ValueError(f"`name` must be one of {', '.join(PAPER_TARGETS)}, but got {name!r}.")
    if size < 1:
        raise ValueError(f"`size` must be at least 1, but got {size}.")
    if name == _ISIC:
        parts, labels, classes = _open_lesions(data)
    else:
        parts, labels, classes = _open_published(data, name, download)
    train = parts["train"]
    if max_train is not None:
        train = Images(train.source, stratified_subset(train.indices, labels, max_train))
    preprocessing = Preprocessing(_shorter_side(size), (size, size), tuple(mean), tuple(std))
    return PaperTarget(
        train, parts["val"], parts["test"], classes, transform=image_transform(preprocessing)
    )


def _shorter_side(size: int) -> int:
    """Return the length that the published code resizes the shorter side to, for a crop."""
    return 342 if size == 299 else round(size * 232 / 224)


_Opened = tuple[dict[str, Images], _Indices, tuple[str, ...]]


def _open_published(data: Path, name: str, download: bool) -> _Opened:
    """Return the parts of a set, the labels of its training images, and its classes."""
    published = _PUBLISHED[name]
    try:
        with impatient_connections():
            opened = published.open(data, download)
    except Exception as error:  # Servers, archives and torchvision fail in ways of their own.
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        cannot = "cannot be downloaded" if download else "is not to be downloaded"
        raise FileNotFoundError(
            f"`data` must hold the image set {name}, but {data} does not, or not all of it, and it "
            f"{cannot} ({reason}): put it there as torchvision.datasets.{published.expected} "
            "expects it."
        ) from error
    labels = np.asarray(getattr(opened["train"], published.labels), dtype=np.int64)
    parts = {part: Images(source, np.arange(len(source))) for part, source in opened.items()}
    if "val" not in parts:
        fold = split_train(torch.from_numpy(labels))
        source = opened["train"]
        parts |= {"train": Images(source, fold.train.numpy())}
        parts |= {"val": Images(source, fold.val.numpy())}
    # Sets of digits have no names for their classes.
    digits = tuple(str(label) for label in np.unique(labels))
    return parts, labels, tuple(getattr(opened["train"], "classes", digits))


def _open_lesions(data: Path) -> _Opened:
    """Return the parts of ISIC 2020, the labels of all its images, and its classes."""
    lesions = read_lesions(data)
    parts = {part: Images(lesions, indices) for part, indices in split_lesions(lesions).items()}
    return parts, np.asarray(lesions.labels, dtype=np.int64), ISIC_CLASSES
