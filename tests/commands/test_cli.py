"""The command line beside ``tune``: the other commands, help, and errors in one line."""

from __future__ import annotations

import signal
import subprocess
import sys
import types
from pathlib import Path

import optuna
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision import models

import optuna_biotune
from optuna_biotune import FineTuningPlan, Recipe, partition_blocks
from optuna_biotune.commands.errors import explained
from optuna_biotune.finetune.image_folder import image_transform
from tests.commands.conftest import Place, Run, Tuned

# predict


def test_predict_gives_what_the_trained_network_says(tuned: Tuned, run_here: Run) -> None:
    images = sorted((tuned.place.directory / "shades").glob("*/0.png"))
    status, printed, errors = run_here("predict", *images, "--model", tuned.output)
    assert (status, errors) == (0, "")
    recipe = Recipe.from_json((tuned.output / "recipe.json").read_text())
    assert recipe.preprocessing is not None
    model = models.resnet18(num_classes=3)
    model.load_state_dict(load_file(tuned.output / "model.safetensors"))
    transform = image_transform(recipe.preprocessing)
    batch = torch.stack([transform(Image.open(path)) for path in images])
    with torch.no_grad():
        probabilities = model.eval()(batch).softmax(1)
    expected = [
        f"{path}\t{recipe.classes[int(row.argmax())]}\t{float(row.max()):.3f}"
        for path, row in zip(images, probabilities, strict=True)
    ]
    assert printed.splitlines() == expected


def test_predict_refuses_weights_of_other_classes(
    tuned: Tuned, run_here: Run, tmp_path: Path
) -> None:
    text = (tuned.output / "recipe.json").read_text().replace('"grey"', '"grey", "white"')
    (tmp_path / "recipe.json").write_text(text)
    (tmp_path / "model.safetensors").symlink_to(tuned.output / "model.safetensors")
    status, _, errors = run_here("predict", "x.png", "--model", tmp_path)
    assert status == 1
    assert "does not hold the weights of resnet18 for 4 classes" in errors


# export


@pytest.mark.parametrize("target", ["folder", "file"])
def test_export_prints_code_that_trains_by_the_recipe(
    tuned: Tuned, run_here: Run, target: str
) -> None:
    path = tuned.output if target == "folder" else tuned.output / "recipe.json"
    status, printed, _ = run_here("export", path)
    assert status == 0
    module = types.ModuleType("exported")
    exec(compile(printed, "exported.py", "exec"), module.__dict__)
    model = models.resnet18(num_classes=3)
    recipe = Recipe.from_json((tuned.output / "recipe.json").read_text())
    expected = partition_blocks(model).param_groups(recipe.plan, recipe.lr)
    groups = module.parameter_groups(model)
    assert [(group["name"], group["lr"]) for group in groups] == [
        (group["name"], group["lr"]) for group in expected
    ]


# report


def test_report_draws_a_study_that_is_still_running(
    tuned: Tuned, run_here: Run, tmp_path: Path
) -> None:
    storage = f"sqlite:///{tuned.place.directory / 'biotune.db'}"
    page = tmp_path / "page.html"
    status, printed, _ = run_here("report", "--storage", storage, "--output", page)
    assert (status, printed) == (0, f"Written to {page}.\n")
    assert page.read_text(encoding="utf-8").count('class="plotly-graph-div"') == 6


def test_report_draws_any_study_of_plans(run_here: Run, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'own.db'}"
    study = optuna.create_study(study_name="<own>", storage=storage, direction="maximize")
    study.enqueue_trial(FineTuningPlan.full(("stem", "fc")).to_params())
    study.optimize(
        lambda trial: sum(optuna_biotune.suggest_plan(trial, ("stem", "fc")).multipliers.values()),
        n_trials=5,
    )
    page = tmp_path / "page.html"
    status, _, errors = run_here("report", "--storage", tmp_path / "own.db", "--output", page)
    assert status == 0, errors
    text = page.read_text(encoding="utf-8")
    assert "&lt;own&gt;" in text
    assert text.count('class="plotly-graph-div"') == 5
    assert "What accuracy costs. Left out: `cost` must be" in text


def test_report_names_the_studies_if_there_are_several(run_here: Run, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'two.db'}"
    for name in ("first", "second"):
        optuna.create_study(study_name=name, storage=storage)
    status, _, errors = run_here("report", "--storage", storage)
    assert status == 1
    assert "first, second: give one as --study" in errors
    status, _, errors = run_here("report", "--storage", storage, "--study", "first")
    assert (status, errors) == (1, "optuna-biotune: The study first has no complete trial yet.\n")


# Help and errors


def test_help_answers_without_loading_torch_or_optuna() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['optuna-biotune', 'tune', '--help']\n"
        "from optuna_biotune.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print('torch' in sys.modules, 'optuna' in sys.modules)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.stdout.splitlines()[-1] == "False False", finished.stderr
    assert "DATA_DIR" in finished.stdout


@pytest.mark.parametrize("command", ["report", "export"])
def test_commands_that_do_not_train_load_no_torch(tuned: Tuned, command: str) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['optuna-biotune', {command!r}]\n"
        "from optuna_biotune.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print('torch' in sys.modules)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tuned.place.directory
    )
    assert finished.stdout.splitlines()[-1] == "False", finished.stderr


def test_without_arguments_the_help_is_shown(run_here: Run) -> None:
    status, printed, errors = run_here()
    assert (status, errors) == (2, "")
    assert "predict" in printed


def test_a_polite_kill_is_an_interrupt(run_here: Run) -> None:
    run_here("--version")
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


def test_the_version_is_shown(run_here: Run) -> None:
    assert run_here("--version") == (0, f"optuna-biotune {optuna_biotune.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("tune", 2, "Missing argument 'DATA_DIR': see optuna-biotune tune --help."),
        ("tune shades --epochs 0", 2, "--epochs"),
        ("tune shades --bogus", 2, "No such option: --bogus"),
        ("bogus", 2, "No such command 'bogus': see optuna-biotune --help."),
        ("tune nowhere", 1, "nowhere is not a folder"),
        ("tune shades/dark", 1, "shades/dark must hold one folder of images for each class"),
        ("tune shades --network resnet8", 1, "--network 'resnet8' is no image classifier"),
        ("tune shades --network timm:resnt18", 1, "did you mean resnet18"),
        ("tune shades --storage foo://x", 1, "--storage must name a database"),
        ("tune shades --storage nowhere/x.db", 1, "--storage is a SQLite file in the directory"),
        ("tune shades --weights nowhere.pth", 1, "--weights FILE: there is no file nowhere.pth"),
        ("tune shades --weights resnet18.pth", 1, "--weights FILE do not fit resnet50"),
        ("tune shades --weights shades/dark/0.png", 1, "cannot be read as weights"),
        ("tune shades {weights} --lr 0", 1, "--lr must be finite and above 0, but got 0.0"),
        ("tune shades {weights} --device tpu", 1, "--device must be"),
        ("tune broken {weights}", 1, "broken/dark/bad.png cannot be read as an image"),
        ("tune shades {weights} --image-size 100000", 1, "GiB are free: give a smaller --image-s"),
        ("predict x.png", 1, "There is no recipe biotune/recipe.json"),
        ("export nowhere", 1, "There is no recipe nowhere"),
        ("export resnet18.pth", 1, "resnet18.pth must be a recipe in JSON, but is not text"),
        ("export recipe.json --to keras", 1, "--to must be one of torch, timm, lightning"),
        ("export recipe.json --to timm", 1, "--to can be 'timm' only for networks of timm"),
        ("predict x.png --model .", 1, "There is no file model.safetensors"),
        (
            "tune shades {weights} --output recipe.json",
            1,
            "--output recipe.json is no folder that can be written",
        ),
        ("tune shades {weights} --device mps", 1, "--device 'mps' cannot be used by torch"),
        ("tune shades {weights} --batch-size 1", 1, "give a --batch-size of at least 2"),
        ("export odd", 1, "odd/recipe.json is not a recipe: it lacks network, "),
        ("predict x.png --model unknown", 1, "unknown/recipe.json: the network 'resnet8' is no"),
        ("report --storage none.db", 1, "There is no file none.db"),
        ("report --storage sqlite:///none.db", 1, "give the --storage of the search"),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(
    arguments: str,
    status: int,
    message: str,
    shared_place: Place,
    run_here: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(shared_place.directory)
    weights = "--network resnet18 --weights resnet18.pth --image-size 32 --trials 1"
    found, _, errors = run_here(*arguments.format(weights=weights).split())
    assert found == status
    assert message in errors
    assert errors.startswith("optuna-biotune: ")
    assert len(errors.splitlines()) == 1, errors


def test_a_report_that_cannot_be_written_is_named_as_it_was_given(
    tuned: Tuned, run_here: Run, tmp_path: Path
) -> None:
    storage = tuned.place.directory / "biotune.db"
    for output in (tmp_path, tmp_path / "nowhere" / "x.html"):
        status, _, errors = run_here("report", "--storage", storage, "--output", output)
        assert status == 1
        assert errors.startswith(f"optuna-biotune: {output} cannot be used: ")


def test_predict_takes_the_recipe_for_its_folder(tuned: Tuned, run_here: Run) -> None:
    image = tuned.place.directory / "shades" / "dark" / "0.png"
    status, printed, errors = run_here("predict", image, "--model", tuned.output / "recipe.json")
    assert (status, errors) == (0, "")
    assert printed.startswith(f"{image}\t")


def test_an_error_of_the_program_itself_keeps_its_traceback() -> None:
    assert explained(KeyError("x")) is None


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            torch.OutOfMemoryError("x"),
            "Out of memory: give a smaller --batch-size or --image-size.",
        ),
        (ValueError("`lr` must be\n a number."), "--lr must be a number."),
        (ValueError(), "ValueError"),
    ],
)
def test_errors_are_put_in_the_words_of_the_options(error: Exception, line: str) -> None:
    assert str(explained(error)).startswith(line)
