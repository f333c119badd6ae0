"""The networks of the benchmarks: small enough to fine-tune hundreds of times on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Network:
    """A network that can be pre-trained and fine-tuned.

    Attributes:
        build: Builds it with random weights, given the number of classes.
        head: Name of the module that is replaced for another number of classes.
    """

    build: Callable[[int], nn.Module]
    head: str


NETWORKS: dict[str, Network] = {
    "small_resnet": Network(SmallResNet, head="fc"),
    "small_densenet": Network(SmallDenseNet, head="fc"),
}
"""Every network of the benchmarks, by name."""


def build_network(name: str, n_classes: int) -> nn.Module:
    """Build a network with random weights, drawn from torch's global generator.

    Args:
        name: One of :data:`NETWORKS`.
        n_classes: Outputs of its head, at least 1.

    Returns:
        The network on the CPU, its weights in channels-last format, which is faster there, too.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in NETWORKS:
        raise ValueError(f"`name` must be one of {', '.join(NETWORKS)}, but got {name!r}.")
    return NETWORKS[name].build(n_classes).to(memory_format=torch.channels_last)
