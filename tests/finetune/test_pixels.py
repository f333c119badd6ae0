"""The end of a transform, which makes floats of bytes, on batches: the bits must stay the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as v1
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

from optuna_biotune.finetune.pixels import split_transform
from optuna_biotune.finetune.reading import load_images

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photographs(mode: str = "RGB", n: int = 4) -> list[tuple[Image.Image, int]]:
    rng = np.random.default_rng(0)
    shape = (20, 24, 3) if mode == "RGB" else (20, 24)
    dtype = np.uint16 if mode == "I;16" else np.uint8
    pixels = (rng.integers(0, 256, shape, dtype=np.uint8).astype(dtype) for _ in range(n))
    return [(Image.fromarray(image), index % 2) for index, image in enumerate(pixels)]


KNOWN = {
    "weights": ResNet18_Weights.DEFAULT.transforms(crop_size=16, resize_size=18),
    "v2": v2.Compose(
        [
            v2.Resize(18),
            v2.CenterCrop(16),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    ),
    "v1": v1.Compose([v1.Resize(18), v1.CenterCrop(16), v1.ToTensor(), v1.Normalize(MEAN, STD)]),
    "not normalised": v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]),
    "v1 tensors": v1.Compose([v1.PILToTensor(), v1.ConvertImageDtype(torch.float32)]),
}


@pytest.mark.parametrize("name", KNOWN)
def test_bytes_are_kept_and_give_the_very_bits_of_the_transform(name: str) -> None:
    transform = KNOWN[name]
    data = load_images({"train": photographs()}, transform)
    assert data.images.dtype == torch.uint8
    expected = torch.stack([torch.as_tensor(transform(image)) for image, _ in photographs()])
    assert torch.equal(data.take(torch.arange(4), CPU), expected)


def doubled(image: torch.Tensor) -> torch.Tensor:
    return image * 2


UNKNOWN: dict[str, Callable[[Any], torch.Tensor]] = {
    "a function": lambda image: v2.functional.to_dtype(v2.functional.to_image(image), scale=True),
    "floats are resized": v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Resize(10)]
    ),
    "an unknown step behind": v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), doubled]
    ),
    "floats before": v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32), v2.ToDtype(torch.float32, scale=True)]
    ),
    "not scaled": v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32), v2.Normalize(MEAN, STD)]),
    "random": v2.Compose([v2.RandomCrop(8), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_any_other_transform_stays_whole(name: str) -> None:
    assert split_transform(UNKNOWN[name], [image for image, _ in photographs()]) is None
    assert load_images({"train": photographs()}, UNKNOWN[name]).images.dtype == torch.float32


def test_a_later_image_that_is_not_of_bytes_is_read_with_the_whole_transform() -> None:
    transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    mixed = [*photographs("L"), *photographs("I;16")]
    data = load_images({"train": mixed}, transform)
    assert data.images.dtype == torch.float32
    assert torch.equal(data.images, torch.stack([transform(image) for image, _ in mixed]))


def test_an_error_of_the_transform_reaches_the_caller() -> None:
    with pytest.raises(ValueError, match="std evaluated to zero"):
        load_images(
            {"train": photographs()},
            v2.Compose(
                [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, (0, 1, 1))]
            ),
        )
