"""``optuna-biotune tune`` as a user runs it: a folder of images, weights in a file, no network."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from safetensors.torch import load_file

from optuna_biotune import FineTuningPlan, Recipe, best_plan, best_trial
from optuna_biotune.commands.errors import CommandError
from optuna_biotune.commands.search import search
from tests.commands.conftest import Place, Run, Tuned, command, environment

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def test_it_ends_with_a_table_a_recipe_weights_and_a_report(tuned: Tuned) -> None:
    assert tuned.finished.returncode == 0, tuned.finished.stderr
    printed = tuned.finished.stdout
    assert "3 classes; images: 19 to train and validate, 5 to test" in printed
    assert "Study shades-resnet18: 0 of 4 trials done" in printed
    assert printed.endswith("  optuna-biotune predict IMAGE...\n")
    assert re.search(r"^On 5 test images +Accuracy +Balanced accuracy", printed, re.MULTILINE)
    row = r"^{} +\d\.\d{{3}} ± \d\.\d{{3}} +\d\.\d{{3}} ± \d\.\d{{3}} +[\d.,]+( [kM])?$"
    for title in ("Linear probe", "Full fine-tuning"):
        assert re.search(row.format(f"{title}(, the best)?"), printed, re.MULTILINE), printed
    assert len(re.findall(row.format(".+"), printed, re.MULTILINE)) in (2, 3)
    assert len(re.findall(r"^ *\d/4 +trial \d +\d\.\d+", printed, re.MULTILINE)) == 4
    assert {path.name for path in tuned.output.iterdir()} == {
        "recipe.json",
        "model.safetensors",
        "report.html",
    }


def test_the_search_begins_with_the_usual_plans_trained_like_any_trial(tuned: Tuned) -> None:
    trials = tuned.place.study().get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    assert [trial.user_attrs["mask"] for trial in trials[:2]] == ["TTTTTT", "FFFFFT"]
    assert {trial.system_attrs["biotune"]["role"] for trial in trials[:3]} == {"baseline"}


def test_the_recipe_is_that_of_the_best_trial(tuned: Tuned) -> None:
    recipe = Recipe.from_json((tuned.output / "recipe.json").read_text())
    best = best_trial(tuned.place.study())
    assert recipe.plan == FineTuningPlan.from_trial(best)
    assert (recipe.network, recipe.lr, recipe.epochs) == ("resnet18", 1e-3, 1)
    assert recipe.classes == ("bright", "dark", "grey")
    assert recipe.blocks["stem"] == ("conv1", "bn1")
    assert recipe.preprocessing is not None
    assert recipe.preprocessing.crop == (32, 32)


def test_the_weights_are_the_given_ones_where_the_plan_freezes(tuned: Tuned) -> None:
    recipe = Recipe.from_json((tuned.output / "recipe.json").read_text())
    given, trained = tuned.place.given_weights(), load_file(tuned.output / "model.safetensors")
    assert trained["fc.weight"].shape == (3, 512)
    for block, names in recipe.blocks.items():
        keys = [f"{name}.{end}" for name in names for end in ("weight", "0.conv1.weight")]
        for key in (key for key in keys if key in given and not key.startswith("fc")):
            assert torch.equal(given[key], trained[key]) == (block in recipe.plan.frozen)


def test_the_report_needs_no_network(tuned: Tuned) -> None:
    page = (tuned.output / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    assert page.count('class="plotly-graph-div"') == 6
    assert "On 5 test images" in page and "Linear probe" in page
    best = best_trial(tuned.place.study()).number
    assert f"The best plan is that of trial {best}." in page and "What next:" in page


@pytest.mark.browser
def test_a_browser_without_a_network_draws_the_report(tuned: Tuned) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))))
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000")
    offline = "--host-resolver-rules=MAP * ~NOTFOUND"
    page = subprocess.run(
        [browser, *options, offline, "--dump-dom", (tuned.output / "report.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    assert page.count('class="main-svg"') >= 6


def wait_for_trials(place: Place, number: int, worker: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert worker.poll() is None, worker.communicate()
        try:
            if len(place.study().get_trials(states=FINISHED)) >= number:
                return
        except (KeyError, optuna.exceptions.StorageInternalError, Exception):
            pass
        time.sleep(0.2)
    raise TimeoutError(f"There were no {number} trials.")


def start(place: Place, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*place.tune, *arguments),
        cwd=place.directory,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_stopped_search_goes_on_by_the_same_command(
    place: Place, run_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start(place, "--trials", "6")
    wait_for_trials(place, 1, worker)
    worker.send_signal(signal.SIGINT)
    printed, errors = worker.communicate(timeout=60)
    assert worker.returncode == 130, errors
    assert errors.splitlines() == ["optuna-biotune: stopped; the same command goes on from here."]
    done = len(place.study().get_trials(states=FINISHED))
    assert 1 <= done < 6
    assert f"Study shades-resnet18: {done} of 6 trials done" in printed.splitlines()

    monkeypatch.chdir(place.directory)
    status, printed, errors = run_here(*place.tune, "--trials", "6")
    assert status == 0, errors
    assert f"Study shades-resnet18: {done} of 6 trials done" in printed
    trials = place.study().get_trials()
    states = [trial.state for trial in trials]
    # The signal may have come between two trials.
    n_failed = states.count(TrialState.FAIL)
    assert n_failed <= 1 and len(trials) == 6 + n_failed
    # The usual plan whose trial was stopped is tried again.
    plans = [FineTuningPlan.from_trial(trial) for trial in trials if trial.state in FINISHED]
    names = plans[0].names
    assert {FineTuningPlan.full(names), FineTuningPlan.linear_probe(names)} < set(plans)


@pytest.mark.slow
def test_two_workers_share_the_trials(place: Place) -> None:
    workers = [start(place, "--trials", "5", "--output", f"out{number}") for number in range(2)]
    for worker in workers:
        printed, errors = worker.communicate(timeout=200)
        assert worker.returncode == 0, errors
        assert "On 5 test images" in printed
    trials = place.study().get_trials()
    # The last trial of each can end behind the fifth.
    assert 5 <= len(trials) <= 6
    plans = [FineTuningPlan.from_trial(trial) for trial in trials]
    names = plans[0].names
    assert plans[:2] == [FineTuningPlan.full(names), FineTuningPlan.linear_probe(names)]
    assert len(set(plans)) == len(plans)
    recipes = {(place.directory / f"out{n}" / "recipe.json").read_text() for n in range(2)}
    best = best_plan(place.study())
    assert best in {Recipe.from_json(text).plan for text in recipes}


def test_a_finished_search_is_not_searched_again(
    tuned: Tuned, run_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tuned.place.directory)
    status, printed, errors = run_here(*tuned.place.tune, "--trials", "3", "--output", "again")
    assert status == 0, errors
    assert "Study shades-resnet18: 4 of 3 trials done" in printed
    assert len(tuned.place.study().get_trials()) == 4
    recipes = [tuned.place.directory / folder / "recipe.json" for folder in ("again", "biotune")]
    assert recipes[0].read_text() == recipes[1].read_text()


@pytest.mark.parametrize("change", [("--epochs", "2"), ("--lr", "0.01"), ("--seeds", "2")])
def test_a_study_does_not_go_on_with_other_settings(
    tuned: Tuned, run_here: Run, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str]
) -> None:
    monkeypatch.chdir(tuned.place.directory)
    status, _, errors = run_here(*tuned.place.tune, *change)
    assert status == 1
    assert f"was begun with {change[0]} " in errors and f", not {change[1]}: " in errors
    assert "give the same again, or another --study NAME" in errors


def test_weights_come_from_the_cache_of_torchvision(
    place: Place, run_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import ResNet18_Weights

    cache = place.directory / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    shutil.move(place.directory / "resnet18.pth", cache / Path(ResNet18_Weights.DEFAULT.url).name)
    options = [option for option in place.tune if option not in ("--weights", "resnet18.pth")]
    monkeypatch.setenv("TORCH_HOME", str(cache.parents[1]))
    monkeypatch.chdir(place.directory)
    status, printed, errors = run_here(*options, "--trials", "1")
    assert status == 0, errors
    # One trial is all there was: the other usual plan is trained for the comparison only.
    assert "Full fine-tuning, the best" in printed and "Linear probe " in printed


@pytest.mark.parametrize("network", ["resnet18", "timm:resnet18.a1_in1k"])
def test_without_a_network_it_says_at_once_how_to_do_without(
    network: str, place: Place, run_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing listens there, so this holds on machines with internet access, too.
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(place.directory))
    monkeypatch.chdir(place.directory)
    begin = time.monotonic()
    status, _, errors = run_here("tune", "shades", "--network", network)
    assert status == 1
    lines = [line for line in errors.splitlines() if not line.startswith("Downloading")]
    assert len(lines) == 1, errors
    assert "cannot be downloaded" in lines[0] and "--weights FILE" in lines[0]
    assert time.monotonic() - begin < 60


class NoProgress:
    """What :func:`search` tells its progress, unheard."""

    def begin(self, study: optuna.Study) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...

    def __call__(self, study: optuna.Study, trial: Any) -> None: ...


def test_a_search_in_which_every_trial_fails_ends() -> None:
    def fail(trial: optuna.Trial) -> float:
        trial.set_user_attr("failure", "Out of memory.")
        return float("nan")

    study = optuna.create_study(direction="maximize")
    with pytest.raises(CommandError, match=r"3 trials have failed, .* Out of memory\. Try a small"):
        search(study, fail, 5, NoProgress())  # type: ignore[arg-type]
    assert len(study.trials) == 3


def test_failed_trials_are_made_up_for() -> None:
    study = optuna.create_study(direction="maximize")
    values = iter([float("nan"), 0.1, float("nan"), float("nan"), 0.2, 0.3])
    search(study, lambda trial: next(values), 3, NoProgress())  # type: ignore[arg-type]
    assert len(study.get_trials(states=FINISHED)) == 3
    assert len(study.trials) == 6
