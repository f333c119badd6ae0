"""The files that ``tune`` writes and the other commands read."""

from __future__ import annotations

from pathlib import Path

from optuna_biotune.commands.errors import CommandError
from optuna_biotune.recipe import Recipe

DEFAULT_OUTPUT = Path("biotune")
RECIPE_FILE = "recipe.json"
WEIGHTS_FILE = "model.safetensors"
REPORT_FILE = "report.html"


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a file.

    Args:
        path: The file, or the folder that ``tune`` wrote to.

    Raises:
        CommandError: If there is none, or it is not a recipe.
    """
    file = path / RECIPE_FILE if path.is_dir() else path
    if not file.is_file():
        raise CommandError(
            f"There is no recipe {file}: give the recipe.json that `optuna-biotune tune` wrote, or "
            "its folder."
        )
    try:
        return Recipe.from_json(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise CommandError(f"{file} must be a recipe in JSON, but is not text.") from error
    except ValueError as error:
        raise CommandError(str(error).replace("`text`", str(file))) from error
