"""The command ``predict``: the classes of image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optuna_biotune.commands.errors import CommandError, translate
from optuna_biotune.commands.files import RECIPE_FILE, WEIGHTS_FILE, read_recipe
from optuna_biotune.finetune.classifier import Classifier


def predict(images: Sequence[Path], folder: Path, device: str) -> list[str]:
    """Classify image files with the network that ``tune`` wrote.

    Args:
        images: The image files.
        folder: The folder that ``tune`` wrote to, or the recipe in it.
        device: ``"auto"`` or a torch device.

    Returns:
        A line for each image: its path, class and probability, with tabs between.

    Raises:
        CommandError: If the recipe, the weights or the device cannot be used.
        OSError: If a file is missing.
        ValueError: If a file cannot be used.
    """
    if folder.is_file():
        folder = folder.parent
    file = folder / RECIPE_FILE
    recipe = read_recipe(file)
    try:
        classifier = Classifier(recipe, folder / WEIGHTS_FILE, device)
    except (ImportError, ValueError) as error:
        raise CommandError(
            translate(str(error).replace("`network`", f"{file}: the network"))
        ) from error
    found = classifier.classify(images)
    return [
        f"{path}\t{name}\t{probability:.3f}"
        for path, (name, probability) in zip(images, found, strict=True)
    ]
