"""The target sets that the networks are fine-tuned to: small sets of real images in .npz files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import TensorDataset

TARGETS: dict[str, str] = {
    "mnist": "handwritten digits",
    "cifar10": "natural objects",
    "gtsrb43": "traffic signs",
    "dtd10": "textures",
    "flowers5": "flowers",
    "isic8": "skin lesions",
    "busi": "breast ultrasound",
    "chestxray_nih2": "chest X-rays",
}
"""Name of each target set, and what its images show."""

_SPLITS = ("train", "val", "test")
_IMAGES_RESIZED_AT_ONCE = 256


@dataclass(frozen=True)
class Target:
    """A target set, ready for a network.

    Attributes:
        train: Training images float32 [N, 3, size, size] and labels int64 [N].
        val: Validation data alike.
        test: Test data alike.
        classes: Names of the classes, in the order of the labels.
        transform: None: the images are as the network takes them.
    """

    train: TensorDataset
    val: TensorDataset
    test: TensorDataset
    classes: tuple[str, ...]
    transform: Callable[[Any], Tensor] | None = None


def load_target(
    data: Path,
    name: str,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    size: int = 32,
    max_train: int | None = None,
    max_val: int | None = None,
    subset: int = 0,
) -> Target:
    """Read a target set, resize its images once and normalise them.

    Args:
        data: Directory with ``<name>.npz``: ``images`` uint8 [N, H, W, 3], ``labels`` int64 [N],
            ``split`` uint8 [N] (0 train, 1 val, 2 test) and ``classes``, the names.
        name: Name of the set.
        mean: Mean of each channel that the network expects, on a scale from 0 to 1.
        std: Standard deviation alike.
        size: Height and width that the images are resized to, bilinearly and antialiased.
        max_train: Most training images: a stratified subset. None for all.
        max_val: Most validation images alike.
        subset: Which subsets, from 0; the same number gives the same ones in every run.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If ``size`` is below 1, ``max_train`` or ``max_val`` is below the number of
            classes, or a split is empty.
    """
    path = data / f"{name}.npz"
    if not path.is_file():
        raise FileNotFoundError(f"`data` must hold {name}.npz, but {data} does not.")
    if size < 1:
        raise ValueError(f"`size` must be at least 1, but got {size}.")
    with np.load(path, allow_pickle=False) as file:
        images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
        split, classes = file["split"], tuple(str(name) for name in file["classes"])
    parts = {part: np.flatnonzero(split == code) for code, part in enumerate(_SPLITS)}
    for part, indices in parts.items():
        if len(indices) == 0:
            raise ValueError(f"`name` must be a set with all splits, but {name} has no {part}.")
    for part, most in (("train", max_train), ("val", max_val)):
        if most is not None:
            parts[part] = stratified_subset(
                parts[part], labels.numpy(), most, f"max_{part}", subset
            )
    pixels = _resized(images, size)
    shape = (1, 3, 1, 1)
    pixels = (pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    sets = {part: TensorDataset(pixels[index], labels[index]) for part, index in parts.items()}
    return Target(sets["train"], sets["val"], sets["test"], classes)


def stratified_subset(
    indices: np.ndarray[tuple[int], np.dtype[np.int64]],
    labels: np.ndarray[tuple[int], np.dtype[np.int64]],
    n_items: int,
    argument: str = "max_train",
    seed: int = 0,
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return a stratified subset of indices, or all of them if there are no more.

    Args:
        indices: What to choose from, int64 [n].
        labels: Label of each item that there is, int64.
        n_items: Most indices to choose.
        argument: What the user knows ``n_items`` as.
        seed: Which subset; runs with the same one differ by their search only.

    Raises:
        ValueError: If ``n_items`` is below the number of classes.
    """
    n_classes = len(np.unique(labels[indices]))
    if n_items < n_classes:
        raise ValueError(
            f"`{argument}` must be at least the number of classes, {n_classes}, but got {n_items}."
        )
    # The rest must hold every class, too, for scikit-learn to stratify.
    if n_items > len(indices) - n_classes:
        return indices
    chosen, _ = train_test_split(
        indices, train_size=n_items, random_state=seed, stratify=labels[indices]
    )
    return np.sort(np.asarray(chosen))


def _resized(images: Tensor, size: int) -> Tensor:
    """Return uint8 images [N, H, W, 3] as float32 [N, 3, size, size] from 0 to 1."""
    resized = [
        nn.functional.interpolate(
            part.permute(0, 3, 1, 2).float() / 255,
            size=(size, size),
            mode="bilinear",
            antialias=True,
        )
        for part in torch.split(images, _IMAGES_RESIZED_AT_ONCE)
    ]
    return torch.cat(resized)
