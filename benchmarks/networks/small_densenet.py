"""A densely connected network for small images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class DenseLayer(nn.Module):
    """A 3x3 convolution of everything before it, whose output joins what came in.

    Args:
        in_channels: Channels of the input.
        growth: Channels that are added.
    """

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, growth, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return float [N, in_channels + growth, H, W]."""
        return torch.cat([features, self.conv(torch.relu(self.bn(features)))], dim=1)


class Transition(nn.Module):
    """Halves channels and resolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return float [N, out_channels, H / 2, W / 2]."""
        return nn.functional.avg_pool2d(self.conv(torch.relu(self.bn(features))), 2)


class SmallDenseNet(nn.Module):
    """A densely connected network of nine blocks, for images of about 32 x 32 pixels.

    The blocks that ``partition_blocks`` finds are those of the paper's DenseNet-121: stem, dense1,
    transition1, dense2, transition2, dense3, transition3, dense4 and fc.

    Args:
        n_classes: Outputs of the head ``fc``.
        growth: Channels that a layer adds.
        layers: Layers of each of the four dense blocks.
    """

    def __init__(
        self, n_classes: int, growth: int = 16, layers: Sequence[int] = (2, 3, 4, 3)
    ) -> None:
        super().__init__()
        if len(layers) != 4:
            raise ValueError(f"`layers` must hold four numbers of layers, but got {layers!r}.")
        channels = 2 * growth
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        for stage, n_layers in enumerate(layers, start=1):
            widths = [channels + layer * growth for layer in range(n_layers + 1)]
            block = nn.Sequential(*(DenseLayer(width, growth) for width in widths[:-1]))
            channels = widths[-1]
            self.add_module(f"dense{stage}", block)
            if stage < len(layers):
                self.add_module(f"transition{stage}", Transition(channels, channels // 2))
                channels //= 2
        self.fc = nn.Linear(channels, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [N, n_classes] of images float [N, 3, H, W]."""
        features = images
        for name, module in self.named_children():
            if name != "fc":
                features = module(features)
        logits: Tensor = self.fc(torch.relu(features).mean(dim=(2, 3)))
        return logits
