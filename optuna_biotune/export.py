"""Recipes as code: short Python files that apply a plan without this package."""

from __future__ import annotations

import json
from collections.abc import Callable

from optuna_biotune import export_templates as templates
from optuna_biotune.recipe import Recipe

_TIMM = "timm:"


def export_code(recipe: Recipe, framework: str = "torch") -> str:
    """Write Python code that fine-tunes a network by a recipe, and needs no optuna-biotune.

    The code defines ``BLOCKS``, ``parameter_groups(model)``, which freezes what the plan freezes
    and returns an optimizer's parameter groups with absolute learning rates, and
    ``frozen_modules(model)``, which are to stay in evaluation mode. Beside them

    - ``"torch"``: ``train_mode(model)``, to be called instead of ``model.train()``;
    - ``"timm"``: ``build()``, which gives the network, its optimizer and its schedule;
    - ``"lightning"``: ``FineTuningPlan``, a callback;
    - ``"transformers"``: ``PlanTrainer``, a ``Trainer``.

    Args:
        recipe: The recipe.
        framework: One of these names.

    Returns:
        The source of a module.

    Raises:
        ValueError: If the framework is unknown, or ``"timm"`` for a network that is not timm's.
    """
    if framework not in FRAMEWORKS:
        raise ValueError(
            f"`framework` must be one of {', '.join(FRAMEWORKS)}, but got {framework!r}."
        )
    if framework == "timm" and not recipe.network.startswith(_TIMM):
        raise ValueError(
            f"`framework` can be 'timm' only for networks of timm, but the recipe is for "
            f"{recipe.network!r}: take 'torch'."
        )
    return _FORMS[framework](recipe)


def _torch(recipe: Recipe) -> str:
    usage = templates.TORCH_USAGE.format(network=_network(recipe), **_schedule(recipe))
    return _module(recipe, usage, "import torch", templates.TRAIN_MODE)


def _timm(recipe: Recipe) -> str:
    code = templates.TIMM.format(
        name=recipe.network.removeprefix(_TIMM),
        head=f", num_classes={len(recipe.classes)}" if recipe.classes else "",
        **_schedule(recipe),
    )
    usage = templates.TIMM_USAGE.format(**_schedule(recipe))
    return _module(recipe, usage, templates.TIMM_IMPORTS, templates.TRAIN_MODE, code)


def _lightning(recipe: Recipe) -> str:
    usage = templates.LIGHTNING_USAGE.format(network=_network(recipe), **_schedule(recipe))
    return _module(recipe, usage, templates.LIGHTNING_IMPORTS, templates.LIGHTNING)


def _transformers(recipe: Recipe) -> str:
    attribute = "timm_model" if recipe.network.startswith(_TIMM) else "model"
    schedule = _schedule(recipe)
    usage = templates.TRANSFORMERS_USAGE.format(
        batch_size=recipe.batch_size, network=_network(recipe), **schedule
    )
    code = templates.TRANSFORMERS.format(attribute=attribute, **schedule)
    return _module(recipe, usage, templates.TRANSFORMERS_IMPORTS, code)


_FORMS: dict[str, Callable[[Recipe], str]] = {
    "torch": _torch,
    "timm": _timm,
    "lightning": _lightning,
    "transformers": _transformers,
}

FRAMEWORKS = tuple(_FORMS)
"""What code can be written for."""


def _module(recipe: Recipe, usage: str, imports: str, *parts: str) -> str:
    """Put a module together: what it is for, imports, the blocks, and functions."""
    package = recipe.versions.get("optuna-biotune", "")
    title = f"Fine-tuning plan for {recipe.network}, found by optuna-biotune {package}".rstrip()
    docstring = f'"""{title}.\n{usage.rstrip()}\n"""'
    head = f"{docstring}\n\n{imports.strip()}\n\n{_blocks(recipe)}"
    functions = (templates.COMMON, *parts)
    return "\n\n\n".join(part.strip("\n") for part in (head, *functions)) + "\n"


def _blocks(recipe: Recipe) -> str:
    """Write the blocks with their absolute learning rates."""
    rates = recipe.learning_rates
    lines = [
        f"    {json.dumps(block)}: ({rates[block]!r}, {json.dumps(names)}),"
        for block, names in recipe.blocks.items()
    ]
    comment = "# Block: its learning rate (0.0 = frozen), and its modules and parameters."
    decay = f"WEIGHT_DECAY = {recipe.weight_decay!r}"
    return "\n".join([comment, "BLOCKS = {", *lines, "}", "", decay])


def _network(recipe: Recipe) -> str:
    """Describe the network in a comment."""
    head = f" with a head for {len(recipe.classes)} classes" if recipe.classes else ""
    return f"{recipe.network}, pre-trained,{head}".rstrip(",")


def _schedule(recipe: Recipe) -> dict[str, int | None]:
    return {"epochs": recipe.epochs, "schedule": recipe.schedule_epochs}
