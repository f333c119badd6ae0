from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from typing import Any

import pytest

from optuna_biotune import FineTuningPlan, Recipe
from optuna_biotune.recipe import Preprocessing

PLAN = FineTuningPlan({"stem": 0.0, "layer1": 0.31, "fc": 4.2})
BLOCKS = {"stem": ("conv1", "bn1"), "layer1": ("layer1",), "fc": ("fc",)}


def make(**arguments: Any) -> Recipe:
    defaults: dict[str, Any] = {
        "network": "resnet18",
        "plan": PLAN,
        "blocks": BLOCKS,
        "lr": 1e-3,
        "epochs": 12,
        "schedule_epochs": 30,
        "classes": ["daisy", "tülip"],
        "preprocessing": Preprocessing(256, (224, 224)),
        "versions": {"torch": "2.9.0"},
    }
    return Recipe(**{**defaults, **arguments})


@pytest.mark.parametrize(
    "recipe",
    [
        make(),
        make(classes=(), preprocessing=None, schedule_epochs=None),
        make(preprocessing=Preprocessing((230, 240), (224, 200), (0.5,), (1.0,), "bicubic")),
    ],
)
def test_json_gives_an_equal_recipe_back(recipe: Recipe) -> None:
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert again.to_json() == recipe.to_json()


def test_json_keeps_the_order_of_the_blocks() -> None:
    assert list(Recipe.from_json(make().to_json()).blocks) == ["stem", "layer1", "fc"]


def test_learning_rates_are_absolute_and_zero_where_frozen() -> None:
    assert make().learning_rates == {"stem": 0.0, "layer1": 0.31e-3, "fc": pytest.approx(4.2e-3)}


def test_a_schedule_is_as_long_as_the_training_unless_given() -> None:
    assert make(epochs=7, schedule_epochs=None).schedule_epochs == 7


def test_versions_are_the_installed_ones_unless_given() -> None:
    recipe = Recipe("resnet18", PLAN, BLOCKS, 1e-3, 12)
    assert {"optuna-biotune", "optuna", "torch"} <= set(recipe.versions)


def test_a_recipe_cannot_be_changed_and_can_be_copied() -> None:
    recipe = make()
    with pytest.raises(TypeError):
        recipe.blocks["stem"] = ()  # type: ignore[index]
    assert copy.deepcopy(recipe) == recipe
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_recipes_load_neither_torch_nor_optuna() -> None:
    code = (
        "import sys\n"
        "from optuna_biotune import Recipe\n"
        "import optuna_biotune.export\n"
        "print('torch' in sys.modules, 'optuna' in sys.modules)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.stdout.split() == ["False", "False"], finished.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": ""}, "`network` must be the name of a network"),
        ({"network": 'a"""b'}, "`network` must be a name without quotes"),
        ({"network": "a\nb"}, "`network` must be a name without quotes"),
        ({"plan": {"fc": 1.0}}, "`plan` must be a FineTuningPlan"),
        ({"plan": FineTuningPlan({"fc": 1.0})}, "for the blocks stem, layer1, fc, .* is for fc"),
        ({"blocks": {**BLOCKS, "fc": ()}}, "'fc' has none"),
        ({"blocks": {**BLOCKS, "fc": "fc"}}, r"`blocks\['fc'\]` must be a list of strings"),
        ({"blocks": ["stem"]}, "`blocks` must map"),
        ({"lr": 0.0}, "`lr` must be finite and above 0, but got 0.0"),
        ({"lr": "fast"}, "`lr` must be a number, but got 'fast'"),
        ({"epochs": 0}, "`epochs` must be an integer of at least 1, but got 0"),
        ({"epochs": 31}, r"`schedule_epochs` must be at least `epochs` \(31\), but got 30"),
        ({"batch_size": 1.5}, "`batch_size` must be an integer"),
        ({"weight_decay": -1e-3}, "`weight_decay` must be finite and at least 0, but got -0.001"),
        ({"weight_decay": "low"}, "`weight_decay` must be a number, but got 'low'"),
        ({"classes": "cat"}, "`classes` must be a list of strings"),
        ({"preprocessing": {}}, "`preprocessing` must be a Preprocessing or None"),
        ({"versions": {"torch": 2}}, "`versions` must map package names to versions"),
    ],
)
def test_a_bad_attribute_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resize": (1, 2, 3)}, "`resize` must be pixels of height and width"),
        ({"crop": 224}, "`crop` must be pixels of height and width, but got 224"),
        ({"mean": "grey"}, "`mean` must hold a number a channel"),
        ({"mean": (0.5,)}, "`mean` and `std` must have one number a channel"),
        ({"std": (0.5, 0.5, 0.0)}, "`std` above 0"),
        ({"interpolation": "lanczos"}, "`interpolation` must be one of nearest, bilinear, bicubic"),
    ],
)
def test_bad_preprocessing_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Preprocessing(**{"resize": 256, "crop": (224, 224), **arguments})


def changed(**values: Any) -> str:
    data = json.loads(make().to_json())
    data.update(values)
    return json.dumps({key: value for key, value in data.items() if value != "absent"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "`text` must be a recipe in JSON, but is not JSON"),
        ("[1]", "must be a JSON object, but is list"),
        ("{}", "recipe version None; this package reads version 1"),
        (changed(version=2), "recipe version 2"),
        (changed(lr="absent", classes="absent"), "it lacks lr, classes"),
        (changed(learning_rate=1), "has the unknown learning_rate"),
        (changed(lr=-1.0), "not a valid recipe: `lr` must be finite"),
        (changed(multipliers={"fc": 1.0}), "not a valid recipe: `plan` must be for the blocks"),
        (changed(multipliers=3), "not a valid recipe: "),
        (changed(preprocessing={"crop": [1, 1]}), "not a valid recipe: .*resize"),
        (changed(preprocessing=5), "not a valid recipe: "),
    ],
)
def test_text_that_is_no_recipe_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.from_json(text)
