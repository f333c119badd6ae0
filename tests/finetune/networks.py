"""Networks for the tests of blocks."""

from __future__ import annotations

import torch
from torch import nn

from optuna_biotune import BlockPartition, FineTuningPlan


def convolution(channels_in: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()
    )


class PlainNetwork(nn.Module):
    """A small network registered out of order, with its dropouts registered last."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)
        self.late = convolution(4, 8)
        self.early = convolution(1, 4)
        self.middle = convolution(4, 4)
        self.head_dropout = nn.Dropout(0.5)
        self.body_dropout = nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.middle(self.body_dropout(self.early(images)))
        x = self.late(x).mean((2, 3))
        logits: torch.Tensor = self.head(self.head_dropout(x))
        return logits


PLAIN_BLOCKS = {
    "early": ["early"],
    "middle": ["middle"],
    "late": ["late"],
    "head": ["head"],
}


class Wrapper(nn.Module):
    """A backbone in one attribute and a head in another, as users write it."""

    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__()
        self.head = nn.Linear(features, 3)
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.backbone(images).flatten(1))
        return logits


def plan_of(partition: BlockPartition, *frozen: str) -> FineTuningPlan:
    """Return a plan that trains all blocks but some."""
    return FineTuningPlan({name: float(name not in frozen) for name in partition.names})
