"""A fine-tuned network in files: its weights, and the recipe that says how to use them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from optuna_biotune.finetune.device import resolve_device
from optuna_biotune.finetune.image_folder import image_transform, read_image
from optuna_biotune.finetune.pretrained import NetworkName, build_network
from optuna_biotune.recipe import Recipe
from optuna_biotune.whole_file import replacing

_IMAGES_AT_ONCE = 32


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a network's weights to a safetensors file.

    Args:
        model: The network. It is moved to the CPU.
        path: The file; one of this name is replaced.

    Raises:
        OSError: If it cannot be written.
    """
    with replacing(path) as partial:
        mode = partial.stat().st_mode  # safetensors would let nobody else read it
        try:
            save_model(model.cpu(), str(partial))
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written ({error}): is the disk full?") from error
        partial.chmod(mode)


class Classifier:
    """A fine-tuned network that classifies image files.

    Args:
        recipe: The recipe that it was trained by, with classes and preprocessing.
        weights: The safetensors file of its weights.
        device: ``"auto"`` or a torch device.

    Raises:
        FileNotFoundError: If there is no file of weights.
        ValueError: If the recipe has no classes or preprocessing or names an unknown network, or
            the weights are not for it.
    """

    def __init__(self, recipe: Recipe, weights: Path, device: str = "auto") -> None:
        if not recipe.classes or recipe.preprocessing is None:
            raise ValueError("The recipe must have the classes' names and the preprocessing.")
        if not weights.is_file():
            raise FileNotFoundError(f"There is no file {weights}.")
        self._classes = recipe.classes
        self._transform = image_transform(recipe.preprocessing)
        self._device = resolve_device(device)
        model = build_network(NetworkName.parse(recipe.network), len(recipe.classes))
        try:
            load_model(model, str(weights))
        except (RuntimeError, SafetensorError) as error:
            raise ValueError(
                f"{weights} does not hold the weights of {recipe.network} for "
                f"{len(recipe.classes)} classes."
            ) from error
        self._model = model.to(self._device).eval()

    def classify(self, paths: Sequence[Path]) -> list[tuple[str, float]]:
        """Return the most likely class of each image file, and its probability.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If a file cannot be read as an image.
        """
        found: list[tuple[str, float]] = []
        for start in range(0, len(paths), _IMAGES_AT_ONCE):
            chunk = paths[start : start + _IMAGES_AT_ONCE]
            images = torch.stack([self._transform(read_image(path)) for path in chunk])
            with torch.no_grad():
                probabilities = self._model(images.to(self._device)).float().softmax(1)
            best = probabilities.max(1)
            found += [
                (self._classes[label], probability)
                for label, probability in zip(
                    best.indices.tolist(), best.values.tolist(), strict=True
                )
            ]
        return found
