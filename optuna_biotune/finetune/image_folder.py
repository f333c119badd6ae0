"""Folders of images: finding the classes, splitting, and making tensors of the images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from optuna_biotune.finetune.splits import split_train
from optuna_biotune.recipe import Preprocessing

# Both splits, for testing and for validation, need an image of each class beside the others.
_LEAST_IMAGES_PER_CLASS = 4

_PARTS = ("train", "val", "test")
_OTHER_NAMES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}


@dataclass(frozen=True)
class ImageFolders:
    """Images in class folders, split into parts.

    Attributes:
        train: Training images as pairs (PIL image, label).
        val: Validation images alike; None: the search takes a fifth of ``train``.
        test: Test images alike.
        classes: Names of the classes; a label is an index into them.
        digest: Changes with the images' names, folders and parts.
        left_out: Suffix to the number of files in the folders that are not read as images.
    """

    train: Subset[Any]
    val: Subset[Any] | None
    test: Subset[Any]
    classes: tuple[str, ...]
    digest: str
    left_out: Mapping[str, int]


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
    _check_part_names(root)
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


def _check_part_names(root: Path) -> None:
    """Raise ValueError if folders look like parts, but would be left out or taken for classes."""
    meanings = {name: _OTHER_NAMES.get(name.lower(), name.lower()) for name in _class_names(root)}
    if "train" not in meanings and not set(meanings.values()) <= set(_PARTS):
        return
    for name, meant in meanings.items():
        if meant in _PARTS and meant != name:
            raise ValueError(f"{root / name} must be called {meant}: rename it.")
    if meanings and "train" not in meanings:
        raise ValueError(f"{root} must have a folder train beside {' and '.join(meanings)}.")


class _ClassFolders(ImageFolder):  # type: ignore[misc]
    """An ``ImageFolder`` without hidden folders, such as ``.ipynb_checkpoints``."""

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        names = _class_names(Path(directory))
        return names, {name: label for label, name in enumerate(names)}


def _class_names(folder: Path) -> list[str]:
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _open(folder: Path) -> ImageFolder:
    """List the images of the class folders in a folder."""
    classes = _class_names(folder)
    if len(classes) < 2:
        found = f"only the folder {classes[0]}" if classes else "no folders"
        raise ValueError(
            f"{folder} must hold one folder of images for each class, but has {found}."
        )
    try:
        return _ClassFolders(folder, loader=read_image)
    except FileNotFoundError as error:
        reason = str(error).partition(" Supported")[0].rstrip(".")
        raise FileNotFoundError(
            f"{folder}: {reason}: put images there ({', '.join(IMG_EXTENSIONS)}), or take these "
            "folders away."
        ) from error


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
    parts = [part.dataset for part in (train, val, test) if part is not None]
    folders = {Path(images.root) for images in parts}  # type: ignore[attr-defined]
    return ImageFolders(
        train, val, test, classes, digest.hexdigest()[:16], _left_out(sorted(folders))
    )


def _left_out(folders: Sequence[Path]) -> dict[str, int]:
    """Count the visible files below class folders that are not read as images, by suffix."""
    suffixes = Counter(
        file.suffix.lower() or file.name
        for folder in folders
        for name in _class_names(folder)
        for file in (folder / name).rglob("*")
        if not file.name.startswith(".") and file.is_file()
    )
    return {suffix: n for suffix, n in sorted(suffixes.items()) if suffix not in IMG_EXTENSIONS}


def read_image(path: str | Path) -> Image.Image:
    """Read an image file as RGB.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read as an image.
    """
    try:
        with Image.open(path) as file:
            if file.mode == "I" or file.mode.startswith("I;16"):
                return _eight_bits(file).convert("RGB")
            image: Image.Image = file.convert("RGB")
            return image
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no image {path}.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, (IsADirectoryError, PermissionError)):
            reason = error.strerror or type(error).__name__
        else:
            reason = str(error).partition("<")[0].strip().rstrip(".") or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as an image ({reason}): mend it or take it away."
        ) from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale an image of 16 bits to 8, of which Pillow would make a white one."""
    values = np.asarray(image).astype(np.int64) >> 8
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


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
