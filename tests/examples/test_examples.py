"""Each example runs as its docstring says, in an empty directory, with smaller numbers."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from optuna.pruners import NopPruner, ThresholdPruner
from PIL import Image
from torchvision import models

from optuna_biotune import BioTuneSampler, FineTuningPlan

EXAMPLES = Path(__file__).parents[2] / "examples"
ROW = re.compile(r"^  (Linear probe|Full fine-tuning|BioTune) +(0\.\d{3}|1\.000)", re.MULTILINE)


def run_example(
    name: str, *arguments: str | Path, directory: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        cwd=directory,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_quickstart_compares_three_plans_and_goes_on_where_it_ended(tmp_path: Path) -> None:
    first = run_example("quickstart.py", "--trials", "3", "--seeds", "2", directory=tmp_path)
    assert first.returncode == 0, first.stderr
    assert [title for title, _ in ROW.findall(first.stdout)] == [
        "Linear probe",
        "Full fine-tuning",
        "BioTune",
    ]
    assert "3/3" in first.stderr, "no progress bar"
    assert "optuna-dashboard sqlite:///quickstart.db" in first.stdout

    second = run_example("quickstart.py", "--trials", "4", "--seeds", "2", directory=tmp_path)
    assert second.returncode == 0, second.stderr
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'quickstart.db'}")
    # A linear probe is poor here: the pruner may end it.
    assert len(study.trials) == 4
    assert {trial.state.name for trial in study.trials} <= {"COMPLETE", "PRUNED"}
    assert [trial.user_attrs["mask"] for trial in study.trials[:2]] == ["TTTTTT", "FFFFFT"]
    best = FineTuningPlan.from_trial(study.best_trial)
    shown = re.findall(r"^  (\w+) +(frozen|[\d.]+)$", second.stdout, re.MULTILINE)
    assert [name for name, rate in shown if rate == "frozen"] == list(best.frozen)
    assert [name for name, _ in shown] == list(best.names)


@pytest.mark.slow
def test_own_training_loop_searches_with_both_samplers(tmp_path: Path) -> None:
    finished = run_example("own_training_loop.py", "--trials", "12", directory=tmp_path)
    assert finished.returncode == 0, finished.stderr
    found = dict(re.findall(r"^(\w+): validation accuracy ([\d.]+)", finished.stdout, re.MULTILINE))
    assert list(found) == ["BioTune", "TPE"]
    assert all(float(value) > 0.7 for value in found.values()), finished.stdout
    assert len(re.findall("frozen|learning rate", finished.stdout)) == 2 * 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm_training_loop.py", "more_parameters.py"])
def test_loops_of_other_kinds_find_a_plan(name: str, tmp_path: Path) -> None:
    finished = run_example(name, "--trials", "4", directory=tmp_path)
    assert finished.returncode == 0, finished.stderr
    accuracy = re.search(r"^Best accuracy (\d\.\d{3})", finished.stdout, re.MULTILINE)
    assert accuracy is not None and float(accuracy[1]) > 0.7
    if name == "more_parameters.py":
        assert re.search(r"^weight decay [\d.e-]+, batch size \d0$", finished.stdout, re.MULTILINE)


def test_lightning_reports_every_epoch_so_that_trials_can_be_pruned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("lightning")
    monkeypatch.syspath_prepend(EXAMPLES)
    example = runpy.run_path(str(EXAMPLES / "lightning_pruning.py"))
    # Its first trial trains all blocks.
    sampler = BioTuneSampler(seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=NopPruner())
    study.optimize(example["objective"], n_trials=1)
    assert list(study.trials[0].intermediate_values) == list(range(example["EPOCHS"]))
    assert study.best_value > 0.7
    study.pruner = ThresholdPruner(lower=2.0)
    study.optimize(example["objective"], n_trials=1)
    assert study.trials[1].state == optuna.trial.TrialState.PRUNED


@pytest.mark.slow
def test_the_terminator_reads_the_scores_of_cross_validation_and_ends_the_search(
    tmp_path: Path,
) -> None:
    finished = run_example("optuna_terminator.py", "--trials", "21", directory=tmp_path)
    assert finished.returncode == 0, finished.stderr
    found = re.findall(
        r"^(\w+): ended after (\d+) trials, test accuracy (0\.\d+)", finished.stdout, re.MULTILINE
    )
    assert [name for name, _, _ in found] == ["Terminator", "StopOnPlateau"]
    assert all(20 <= int(trials) <= 21 and float(test) > 0.7 for _, trials, test in found)


@pytest.mark.slow
def test_mlflow_has_a_run_for_each_trial_and_one_for_the_network(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    finished = run_example("mlflow_tracking.py", "--trials", "4", directory=tmp_path)
    assert finished.returncode == 0, finished.stderr
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    by_name = {run.info.run_name: run.data for run in runs}
    assert set(by_name) == {"0", "1", "2", "3", "best plan"}
    for number in range(4):
        run = by_name[str(number)]
        assert {"balanced_accuracy"} == set(run.metrics)
        assert "freeze_threshold" in run.params and len(run.tags["mask"]) == 4
    best = by_name["best plan"]
    assert best.metrics["test_accuracy"] > 0.7
    assert len([name for name in best.params if name.startswith("multiplier/")]) == 4


@pytest.mark.slow
def test_a_study_that_tpe_began_is_joined(tmp_path: Path) -> None:
    finished = run_example("join_tpe_study.py", "--trials", "11", directory=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "after 11 trials" in finished.stdout and "after 22 trials" in finished.stdout
    trials = optuna.load_study(
        study_name="digits", storage=f"sqlite:///{tmp_path / 'joined.db'}"
    ).trials
    generations = [trial.user_attrs.get("generation") for trial in trials]
    tags = [trial.system_attrs.get("biotune") for trial in trials]
    assert generations == [None] * 22 and tags[:11] == [None] * 11
    # TPE's trials are the whole first generation: all that comes after them is bred from them.
    assert {tag["generation"] for tag in tags[11:] if tag is not None} == {1}


def test_every_example_is_in_the_gallery() -> None:
    gallery = (EXAMPLES / "README.md").read_text()
    linked = set(re.findall(r"\]\(([\w/]+\.py)\)", gallery))
    found = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("[!_]*.py")}
    assert linked == found - {"distributed/digits.py"}  # the task of the others


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Return a folder with twelve small images in each of two classes, dark and bright."""
    rng = np.random.default_rng(0)
    for name, brightness in (("bright", 160), ("dark", 0)):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for index in range(12):
            pixels = rng.integers(brightness, brightness + 90, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "images"


@pytest.mark.slow
def test_pretrained_imagefolder_saves_the_plan_and_the_network_it_trained(
    tmp_path: Path, image_folder: Path
) -> None:
    torch.manual_seed(0)
    given = models.resnet18(weights=None).state_dict()
    torch.save(given, tmp_path / "resnet18.pth")
    options = ("--network", "resnet18", "--weights", tmp_path / "resnet18.pth")
    small = ("--trials", "2", "--epochs", "1", "--seeds", "1", "--output", "out")
    finished = run_example(
        "pretrained_imagefolder.py", image_folder, *options, *small, directory=tmp_path
    )
    assert finished.returncode == 0, finished.stderr
    assert "Accuracy on 5 test images" in finished.stdout
    assert len(ROW.findall(finished.stdout)) == 3

    plan = FineTuningPlan.from_json((tmp_path / "out" / "plan.json").read_text())
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'out' / 'study.db'}")
    assert plan == FineTuningPlan.from_trial(study.best_trial)
    assert len(study.trials) == 2
    trained = torch.load(tmp_path / "out" / "model.pth", weights_only=True)
    assert trained["fc.weight"].shape == (2, 512)
    stem_is_frozen = plan.names[0] in plan.frozen
    assert torch.equal(trained["conv1.weight"], given["conv1.weight"]) == stem_is_frozen


@pytest.mark.slow
def test_pretrained_imagefolder_refuses_weights_of_another_network(
    tmp_path: Path, image_folder: Path
) -> None:
    torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "other.pth")
    options = ("--network", "resnet18", "--weights", tmp_path / "other.pth")
    finished = run_example("pretrained_imagefolder.py", image_folder, *options, directory=tmp_path)
    assert finished.returncode == 1
    assert "`weights` do not fit resnet18" in finished.stderr.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet18", "timm:resnet18.a1_in1k"])
def test_pretrained_imagefolder_says_at_once_how_to_do_without_a_download(
    network: str, tmp_path: Path, image_folder: Path
) -> None:
    start = time.monotonic()
    finished = run_example(
        "pretrained_imagefolder.py",
        image_folder,
        "--network",
        network,
        directory=tmp_path,
        # Nothing listens there, so this holds on machines with internet access, too.
        https_proxy="http://127.0.0.1:9",
        HTTPS_PROXY="http://127.0.0.1:9",
        HF_HOME=str(tmp_path),
        TORCH_HOME=str(tmp_path),
    )
    assert finished.returncode == 1
    assert "give it as `weights`" in finished.stderr.strip().splitlines()[-1]
    assert "Traceback" not in finished.stderr
    assert time.monotonic() - start < 60
