"""Images as bytes: the end of a transform that makes floats of them runs on batches instead.

A transform of torchvision usually ends by scaling bytes to numbers from 0 to 1 and normalising the
channels. Without that end its images take a quarter of the memory, and the end costs next to
nothing on a batch. The parts give the same bits as the whole: that is tried on an image, and where
it is not so, the transform stays whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torchvision import transforms as v1
from torchvision.transforms import functional as F
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

Transform = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Normalisation:
    """Makes float32 images of bytes: scaled to 0 to 1, then normalised a channel.

    Attributes:
        mean: What is subtracted from each channel, on the scale from 0 to 1; None: nothing.
        std: What each channel is then divided by; None if ``mean`` is.
        reciprocal: Multiply by 1 / 255, as torchvision's v2 does, instead of dividing by 255: the
            last bit can differ.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    reciprocal: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32 images, on the device and in the layout of the bytes.

        Args:
            images: uint8 [N, C, H, W].
        """
        scaled = images.float()
        scaled = scaled.mul_(1.0 / 255) if self.reciprocal else scaled.div_(255.0)
        if self.mean is None or self.std is None:
            return scaled
        return scaled.sub_(_constant(self.mean, images.device)).div_(
            _constant(self.std, images.device)
        )


@cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return a number a channel, float32 [C, 1, 1]. Copied once: to copy waits for the device."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


def split_transform(
    transform: Transform | None, examples: Iterable[Any]
) -> tuple[Transform, Normalisation] | None:
    """Take the end that makes floats of bytes off a transform.

    Known are ``Compose`` of torchvision and what ``weights.transforms()`` gives there.

    Args:
        transform: The transform of one image.
        examples: Images, to try the parts on.

    Returns:
        What makes bytes of an image, uint8 [C, H, W], and what makes the transform's float32 images
        of batches of these; None if the transform does not end that way, or the parts do not give
        the very bits of the whole for each of the examples.
    """
    parts = _parts(transform)
    if transform is None or parts is None:
        return None
    to_bytes, mean, std = parts
    candidates = [Normalisation(mean, std, reciprocal) for reciprocal in (True, False)]
    for image in examples:
        candidates = [c for c in candidates if _same_bits(transform, to_bytes, c, image)]
    return (to_bytes, candidates[0]) if candidates else None


_Numbers = tuple[float, ...] | None


def _parts(transform: Transform | None) -> tuple[Transform, _Numbers, _Numbers] | None:
    """Return what makes bytes of an image, mean and standard deviation; None if not known."""
    if isinstance(transform, ImageClassification):
        return _preset_bytes(transform), tuple(transform.mean), tuple(transform.std)
    if not isinstance(transform, (v1.Compose, v2.Compose)):
        return None
    steps: list[Any] = list(transform.transforms)
    mean = std = None
    if steps and isinstance(steps[-1], (v1.Normalize, v2.Normalize)):
        last = steps.pop()
        mean, std = _numbers(last.mean), _numbers(last.std)
        if mean is None or std is None:
            return None
    if not steps or not _scales(steps[-1]):
        return None
    scaling = steps.pop()
    if isinstance(scaling, (v1.ToTensor, v2.ToTensor)):
        steps.append(v1.PILToTensor())
    return _chain(steps), mean, std


def _numbers(values: Any) -> _Numbers:
    """Return a number a channel as a tuple; None if they are something else."""
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError):
        return None


def _scales(step: Any) -> bool:
    """Tell whether a step of a transform makes numbers from 0 to 1 of bytes."""
    if isinstance(step, v2.ToDtype):
        return bool(step.scale) and step.dtype == torch.float32
    if isinstance(step, (v1.ConvertImageDtype, v2.ConvertImageDtype)):
        return bool(step.dtype == torch.float32)
    return isinstance(step, (v1.ToTensor, v2.ToTensor))


def _chain(steps: list[Any]) -> Transform:
    """Return the steps as one transform."""

    def to_bytes(image: Any) -> Any:
        for step in steps:
            image = step(image)
        return image

    return to_bytes


def _preset_bytes(preset: ImageClassification) -> Transform:
    """Return what torchvision's preset does before it makes floats."""

    def to_bytes(image: Any) -> Any:
        image = F.resize(
            image,
            preset.resize_size,
            interpolation=preset.interpolation,
            antialias=preset.antialias,
        )
        image = F.center_crop(image, preset.crop_size)
        return image if isinstance(image, Tensor) else F.pil_to_tensor(image)

    return to_bytes


def _same_bits(
    transform: Transform, to_bytes: Transform, normalise: Normalisation, image: Any
) -> bool:
    """Tell whether the parts of a transform give what the whole gives, for one image."""
    try:
        pixels, expected = to_bytes(image), transform(image)
        if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.ndim != 3:
            return False
        return expected.dtype == torch.float32 and torch.equal(
            normalise(pixels.as_subclass(Tensor)[None])[0], expected
        )
    except Exception:
        # Whatever it is, the whole transform can run; if it cannot, that tells the user better.
        return False
