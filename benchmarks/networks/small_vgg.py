"""A plain stack of convolutions for small images, as VGG is."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def stage(in_channels: int, out_channels: int, convolutions: int) -> nn.Sequential:
    """Build 3x3 convolutions with BatchNorm, and a pooling that halves the resolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        convolutions: Number of convolutions, at least 1.
    """
    layers: list[nn.Module] = []
    for layer in range(convolutions):
        width = out_channels if layer else in_channels
        layers += [
            nn.Conv2d(width, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.MaxPool2d(2))


class SmallVGG(nn.Module):
    """A plain network of five stages, for images of at least 32 x 32 pixels.

    The blocks that ``partition_blocks`` finds are those of the paper's VGG-19: stage1, stage2,
    stage3, stage4, stage5 and classifier. BatchNorm, as in torchvision's ``vgg19_bn``, lets it be
    trained from scratch at the learning rate of the other networks.

    Args:
        n_classes: Outputs of the head ``classifier``.
        widths: Channels of the five stages, each of which halves the resolution.
        convolutions: Convolutions of each stage.
    """

    def __init__(
        self,
        n_classes: int,
        widths: Sequence[int] = (16, 32, 64, 96, 128),
        convolutions: Sequence[int] = (1, 1, 2, 2, 2),
    ) -> None:
        super().__init__()
        for name, values in (("widths", widths), ("convolutions", convolutions)):
            if len(values) != 5:
                raise ValueError(f"`{name}` must hold five numbers, but got {values!r}.")
        inputs = (3, *widths[:-1])
        self.stage1, self.stage2, self.stage3, self.stage4, self.stage5 = (
            stage(*numbers) for numbers in zip(inputs, widths, convolutions, strict=True)
        )
        self.classifier = nn.Linear(widths[-1], n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [N, n_classes] of images float [N, 3, H, W], H and W at least 32."""
        features = self.stage3(self.stage2(self.stage1(images)))
        features = self.stage5(self.stage4(features))
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits
