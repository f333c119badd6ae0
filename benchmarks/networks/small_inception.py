"""A network of parallel branches for small images, as Inception is."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def convolution(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1
) -> nn.Sequential:
    """Build a convolution that keeps the resolution, up to its stride, with BatchNorm and ReLU.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width of the kernel, odd.
        stride: Stride of the convolution.
    """
    padding = kernel_size // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class Mixed(nn.Module):
    """Four branches side by side: 1x1, 3x3, twice 3x3, and a pooling; their outputs are joined.

    Args:
        in_channels: Channels of the input.
        width: Channels of each branch.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.branch1x1 = convolution(in_channels, width, 1)
        self.branch3x3 = nn.Sequential(
            convolution(in_channels, width, 1), convolution(width, width, 3)
        )
        self.branch3x3twice = nn.Sequential(
            convolution(in_channels, width, 1),
            convolution(width, width, 3),
            convolution(width, width, 3),
        )
        self.branch_pool = nn.Sequential(
            nn.AvgPool2d(3, stride=1, padding=1), convolution(in_channels, width, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return float [N, 4 width, H, W]."""
        branches = (self.branch1x1, self.branch3x3, self.branch3x3twice, self.branch_pool)
        return torch.cat([branch(features) for branch in branches], dim=1)


class Reduction(nn.Module):
    """Three branches that halve the resolution: 3x3, twice 3x3, and a pooling.

    Args:
        in_channels: Channels of the input.
        width: Channels of each branch with convolutions.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.branch3x3 = convolution(in_channels, width, 3, stride=2)
        self.branch3x3twice = nn.Sequential(
            convolution(in_channels, width, 1), convolution(width, width, 3, stride=2)
        )
        self.branch_pool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Return float [N, in_channels + 2 width, ceil(H / 2), ceil(W / 2)]."""
        branches = (self.branch3x3, self.branch3x3twice, self.branch_pool)
        return torch.cat([branch(features) for branch in branches], dim=1)


class SmallInception(nn.Module):
    """A network of parallel branches in eight blocks, for images of about 32 x 32 pixels.

    The blocks that ``partition_blocks`` finds are, as in the paper's Inception v3, the stem, each
    module of branches, and the head: stem, mixed1, reduction1, mixed2, mixed3, reduction2, mixed4
    and fc.

    Args:
        n_classes: Outputs of the head ``fc``.
        width: Channels of a branch of the first module; later modules have more.
    """

    def __init__(self, n_classes: int, width: int = 8) -> None:
        super().__init__()
        self.stem = convolution(3, 2 * width, 3, stride=2)
        self.mixed1 = Mixed(2 * width, width)
        self.reduction1 = Reduction(4 * width, 2 * width)
        self.mixed2 = Mixed(8 * width, 3 * width)
        self.mixed3 = Mixed(12 * width, 3 * width)
        self.reduction2 = Reduction(12 * width, 4 * width)
        self.mixed4 = Mixed(20 * width, 6 * width)
        self.fc = nn.Linear(24 * width, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [N, n_classes] of images float [N, 3, H, W]."""
        features = self.reduction1(self.mixed1(self.stem(images)))
        features = self.reduction2(self.mixed3(self.mixed2(features)))
        logits: Tensor = self.fc(self.mixed4(features).mean(dim=(2, 3)))
        return logits
