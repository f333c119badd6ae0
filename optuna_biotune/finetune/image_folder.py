"""Folders of images: finding the classes, splitting, and making tensors of the images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from optuna_biotune.finetune.splits import split_train
from optuna_biotune.recipe import Preprocessing

# Both splits, for testing and for validation, need an image of each class beside the others.
_LEAST_IMAGES_PER_CLASS = 4


@dataclass(frozen=True)
class ImageFolders:
    """Images in class folders, split into parts.

    Attributes:
        train: Training images as pairs (PIL image, label).
        val: Validation images alike; None: the search takes a fifth of ``train``.
        test: Test images alike.
        classes: Names of the classes; a label is an index into them.
        digest: Changes with the images' names, folders and parts.
    """

    train: Subset[Any]
    val: Subset[Any] | None
    test: Subset[Any]
    classes: tuple[str, ...]
    digest: str


def read_image_folders(root: Path) -> ImageFolders:
    """Find the images below a folder.

    Args:
        root: Holds one folder of images for each class; or the folders ``train`` and, if there
            are such, ``val`` and ``test``, each of which does. Without ``test``, a stratified
            fifth of the training images, always the same, is put aside for testing.

    Raises:
        FileNotFoundError: If there is no such folder, or a class folder without images.
        ValueError: If there are fewer than two classes or too few images of one, or if two parts
            have different classes.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder.")
    if not (root / "train").is_dir():
        images = _open(root)
        _check_counts(root, images, _LEAST_IMAGES_PER_CLASS)
        return _split(images, None)
    parts = {name: _open(root / name) for name in ("train", "val", "test") if _has(root, name)}
    for name, part in parts.items():
        differing = sorted(set(part.classes).symmetric_difference(parts["train"].classes))
        if differing:
            raise ValueError(
                f"{root / name} must have the same class folders as {root / 'train'}, but they "
                f"differ in {differing[0]}."
            )
    if "test" not in parts:
        least = 2 if "val" in parts else _LEAST_IMAGES_PER_CLASS
        _check_counts(root / "train", parts["train"], least)
        return _split(parts["train"], parts.get("val"))
    _check_counts(root / "train", parts["train"], 1 if "val" in parts else 2)
    return _folders(
        **{name: Subset(part, range(len(part))) for name, part in parts.items()},
    )


def _has(root: Path, part: str) -> bool:
    return (root / part).is_dir()


def _open(folder: Path) -> ImageFolder:
    """List the images of the class folders in a folder."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if len(classes) < 2:
        found = f"only the folder {classes[0]}" if classes else "no folders"
        raise ValueError(
            f"{folder} must hold one folder of images for each class, but has {found}."
        )
    try:
        return ImageFolder(folder, loader=read_image)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder}: {str(error).splitlines()[0]}") from error


def _check_counts(folder: Path, images: ImageFolder, least: int) -> None:
    """Raise ValueError naming the class with too few images to be split."""
    rarest, count = min(Counter(images.targets).items(), key=lambda item: item[1])
    if count < least:
        raise ValueError(
            f"{folder / images.classes[rarest]} needs at least {least} images to be split into "
            f"training, validation and test images, but has {count}."
        )


def _split(images: ImageFolder, val: ImageFolder | None) -> ImageFolders:
    """Put a stratified fifth of the images aside for testing."""
    fold = split_train(torch.tensor(images.targets))
    return _folders(
        train=Subset(images, fold.train.tolist()),
        val=None if val is None else Subset(val, range(len(val))),
        test=Subset(images, fold.val.tolist()),
    )


def _folders(train: Subset[Any], test: Subset[Any], val: Subset[Any] | None = None) -> ImageFolders:
    """Put the parts together."""
    digest = hashlib.sha256()
    for part in (train, val, test):
        digest.update(b"part")
        for index in () if part is None else part.indices:
            path = Path(part.dataset.samples[index][0])  # type: ignore[union-attr]
            digest.update(f"{path.parent.name}/{path.name}\n".encode("utf-8", "surrogateescape"))
    classes = tuple(train.dataset.classes)  # type: ignore[attr-defined]
    return ImageFolders(train, val, test, classes, digest.hexdigest()[:16])


def read_image(path: str | Path) -> Image.Image:
    """Read an image file as RGB.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read as an image.
    """
    try:
        with Image.open(path) as file:
            image: Image.Image = file.convert("RGB")
            return image
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no image {path}.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, (IsADirectoryError, PermissionError)):
            reason = error.strerror or type(error).__name__
        else:
            reason = str(error).partition("<")[0].strip() or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as an image ({reason}): mend it or take it away."
        ) from error


def image_transform(preprocessing: Preprocessing) -> Callable[[Image.Image], Tensor]:
    """Return the transform of a PIL image to a float tensor [C, H, W].

    Args:
        preprocessing: What it does.
    """
    resize: int | Sequence[int] = preprocessing.resize
    transform: Callable[[Image.Image], Tensor] = transforms.Compose(
        [
            transforms.Resize(resize, transforms.InterpolationMode(preprocessing.interpolation)),
            transforms.CenterCrop(preprocessing.crop),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    return transform
