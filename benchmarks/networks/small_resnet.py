"""A residual network for small images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, and a shortcut around them.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the first convolution, and of the shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, features: Tensor) -> Tensor:
        """Return float [N, out_channels, H / stride, W / stride]."""
        out = torch.relu(self.bn1(self.conv1(features)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(features))


class SmallResNet(nn.Module):
    """A residual network with one basic block a stage, for images of about 32 x 32 pixels.

    The blocks that ``partition_blocks`` finds are stem, layer1, layer2, layer3, layer4 and fc.

    Args:
        n_classes: Outputs of the head ``fc``.
        widths: Channels of the four stages, each of which halves the resolution; the stem, at
            full resolution, has those of the first.
    """

    def __init__(self, n_classes: int, widths: Sequence[int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        if len(widths) != 4:
            raise ValueError(f"`widths` must hold four numbers of channels, but got {widths!r}.")
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        self.layer1 = BasicBlock(widths[0], widths[0], stride=2)
        self.layer2 = BasicBlock(widths[0], widths[1], stride=2)
        self.layer3 = BasicBlock(widths[1], widths[2], stride=2)
        self.layer4 = BasicBlock(widths[2], widths[3], stride=2)
        self.fc = nn.Linear(widths[3], n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [N, n_classes] of images float [N, 3, H, W]."""
        features = self.layer1(self.stem(images))
        features = self.layer4(self.layer3(self.layer2(features)))
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits
