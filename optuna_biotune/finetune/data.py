"""Labelled images, each of which was read once; training takes batches by index.

There is no data loader: a batch is one indexing operation, and on CUDA at most one copy.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from optuna_biotune.finetune.pixels import Normalisation


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
        images: [N, C, H, W] as they are kept: floats as the network takes them, or uint8. On the
            device, in main memory or in a mapped file.
        labels: Int64 [N], from 0, in main memory.
        normalisation: What makes the network's images of a batch of uint8; None for floats.
        key: Tells these data from all others of this process.
    """

    images: Tensor
    labels: Tensor
    normalisation: Normalisation | None = None
    key: int = field(default_factory=itertools.count().__next__, compare=False)

    def __len__(self) -> int:
        """Return the number of images N."""
        return len(self.labels)

    def take(self, indices: Tensor, device: torch.device) -> Tensor:
        """Return a copy of some images as the network takes them, float32 [n, C, H, W].

        They are laid out channels last on CUDA, where that is faster.

        Args:
            indices: Int64 [n]; where the images are, it is quickest.
            device: Where the network runs.
        """
        images = self._gather(indices.to(self.images.device), device)
        if device.type == "cuda":
            images = images.contiguous(memory_format=torch.channels_last)
        return images.float() if self.normalisation is None else self.normalisation(images)

    def _gather(self, indices: Tensor, device: torch.device) -> Tensor:
        """Return some images as they are kept, on a device.

        They are gathered in pinned memory for CUDA, so that the program does not wait for the copy.
        Torch does not use that memory again before the copy is done.
        """
        kept = self.images
        if kept.device.type != "cpu" or device.type != "cuda":
            return kept[indices].to(device)
        shape = (len(indices), *kept.shape[1:])
        # Else it would be pinned for the current device, which may be another one.
        with torch.cuda.device(device):
            batch = torch.empty(shape, dtype=kept.dtype, pin_memory=True)
            torch.index_select(kept, 0, indices, out=batch)
            return batch.to(device, non_blocking=True)


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
