from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.artifacts import FileSystemArtifactStore, download_artifact, get_all_artifact_meta
from torch import nn

from optuna_biotune import (
    BioTuneSampler,
    FineTuningPlan,
    RefitResult,
    best_plan,
    best_trial,
    suggest_plan,
    visualization,
)
from optuna_biotune.dashboard import PublishEachGeneration, publish, top_trials, upload_model
from optuna_biotune.dashboard._figures import compact
from optuna_biotune.dashboard._publishing import is_due
from optuna_biotune.tags import Tag
from tests.synthetic_study import BLOCKS, LR, SyntheticObjective, large_study, synthetic_study

optuna_dashboard = pytest.importorskip(
    "optuna_dashboard", reason="optuna-dashboard is not installed"
)

PLOT_IDS = {
    "biotune-best-plan",
    "biotune-block-effect",
    "biotune-cost-parameters",
    "biotune-cost-seconds",
    "biotune-evolution",
    "biotune-lineage",
    "biotune-plans",
}
PLOT_PREFIX = "dashboard:plot_data:"


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture
def study() -> optuna.Study:
    return synthetic_study(24, prunes=True, has_baselines=True)


def attributes(study: optuna.Study) -> dict[str, Any]:
    attrs: dict[str, Any] = study._storage.get_study_system_attrs(study._study_id)
    return attrs


def stored_plots(study: optuna.Study) -> dict[str, dict[str, Any]]:
    """Put the stored chunks of each plot together."""
    attrs = attributes(study)
    names = {key.split(":")[2] for key in attrs if key.startswith(PLOT_PREFIX)}
    return {
        name: json.loads(
            "".join(
                attrs[f"{PLOT_PREFIX}{name}:{i}"]
                for i in range(sum(key.startswith(f"{PLOT_PREFIX}{name}:") for key in attrs))
            )
        )
        for name in names
    }


def n_publications(study: optuna.Study) -> int:
    """Return how often the note was written."""
    return sum(value for key, value in attributes(study).items() if key.endswith("note_ver"))


# What is published


def test_all_plots_are_stored_and_are_those_of_the_study(study: optuna.Study) -> None:
    publish(study)
    plots = stored_plots(study)
    assert set(plots) == PLOT_IDS
    title = visualization.plot_best_plan(study).layout.title.text
    assert plots["biotune-best-plan"]["layout"]["title"]["text"] == title


@pytest.mark.parametrize(
    "make",
    [lambda: large_study(1000), lambda: synthetic_study(149, blocks=[f"b{i}" for i in range(30)])],
    ids=["1000 trials", "30 blocks"],
)
def test_everything_takes_less_than_200_kilobytes(make: Callable[[], optuna.Study]) -> None:
    study = make()
    publish(study)
    assert set(stored_plots(study)) == PLOT_IDS
    assert sum(len(key) + len(str(value)) for key, value in attributes(study).items()) < 200_000


def test_what_is_too_large_even_without_hover_text_is_thinned_out_but_for_its_lines() -> None:
    study = large_study(2000)
    figure = visualization.plot_lineage(study)
    small = compact(figure, 20_000)
    assert len(small.to_json()) <= 20_000
    family = next(one for one in figure.data if one.name == "ancestors of the best")
    kept = next(one for one in small.data if one.name == "ancestors of the best")
    assert len(kept.x) == len(family.x)
    assert {one.name for one in small.data} == {one.name for one in figure.data}
    plans = compact(visualization.plot_plans(study), 20_000)
    widths = {len(row) for one in plans.data if one.type == "heatmap" for row in one.z}
    assert len(widths) == 1 and widths.pop() < 2000


def test_a_small_figure_keeps_its_hover_text_and_loses_digits_only(study: optuna.Study) -> None:
    figure = visualization.plot_evolution(study)
    small = compact(figure)
    for before, after in zip(figure.data, small.data, strict=True):
        assert list(after.y) == pytest.approx(list(before.y), rel=1e-4)
        assert after.hovertemplate == before.hovertemplate
    assert all(len(f"{value}".lstrip("0.-")) <= 6 for value in small.data[0].y)
    assert small.layout.template.layout.to_plotly_json() == {}


def test_plots_are_plain_numbers_which_any_version_of_plotly_reads(study: optuna.Study) -> None:
    publish(study)
    assert "bdata" not in json.dumps(stored_plots(study))


def test_several_objectives_publish_the_first_one_and_the_front() -> None:
    study = synthetic_study(24, has_cost=True)
    publish(study)
    assert set(stored_plots(study)) == PLOT_IDS
    note = optuna_dashboard.get_note(study)
    for trial in study.best_trials[:3]:
        assert f"| {trial.number} | " in note


def test_a_plot_that_cannot_be_drawn_yet_is_named_in_the_note() -> None:
    study = synthetic_study(1)
    publish(study)
    assert set(stored_plots(study)) == PLOT_IDS - {"biotune-block-effect"}
    assert "No plot `biotune-block-effect`: " in optuna_dashboard.get_note(study)


def test_a_study_without_plans_is_refused_and_nothing_is_written() -> None:
    study = optuna.create_study()
    study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=2)
    before = attributes(study)
    with pytest.raises(ValueError, match="has no fine-tuning plan"):
        publish(study)
    assert attributes(study) == before


# The note


def test_the_note_has_the_best_plan_and_the_baselines(study: optuna.Study) -> None:
    publish(study)
    note = optuna_dashboard.get_note(study)
    best = best_trial(study)
    for name, rate in FineTuningPlan.from_trial(best).multipliers.items():
        shown = f"{rate:.2g}" if rate else "frozen"
        assert f"| {name} | {shown} |" in note
    assert f"| best plan | {best.number} | {best.value:.4g} " in note
    luckiest = f"| best value | {study.best_trial.number} | {study.best_value:.4g} "
    assert (luckiest in note) == (best.number != study.best_trial.number)
    assert f"| full fine-tuning | 0 | {study.trials[0].value:.4g} " in note
    assert f"| linear probe | 1 | {study.trials[1].value:.4g} " in note


def test_the_code_in_the_note_has_a_weight_decay_that_was_searched() -> None:
    study = optuna.create_study(direction="maximize", sampler=BioTuneSampler(seed=0))
    for _ in range(3):
        trial = study.ask()
        suggest_plan(trial, BLOCKS)
        study.tell(trial, trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True))
    publish(study)
    note = optuna_dashboard.get_note(study)
    best = best_trial(study)
    assert f"objective.refit(study.trials[{best.number}], test=test)" in note
    assert f", weight_decay={best.params['weight_decay']!r})" in note


def test_the_code_in_the_note_gives_the_best_plan(study: optuna.Study) -> None:
    publish(study)
    (code,) = re.findall(r"```python\n(.*?)```", optuna_dashboard.get_note(study), re.DOTALL)
    scope: dict[str, Any] = {}
    exec(code.partition("result =")[0], scope)
    assert scope["plan"] == best_plan(study)
    assert f"blocks.param_groups(plan, lr={LR})" in code


def test_results_on_test_data_stand_in_the_note(study: optuna.Study) -> None:
    plan = FineTuningPlan.full(BLOCKS)
    publish(
        study,
        results={
            "best plan": RefitResult(nn.Linear(1, 1), plan, 3, {"macro_f1": [0.8, 0.9]}),
            "full fine-tuning": RefitResult(nn.Linear(1, 1), plan, 3, {"macro_f1": [0.5]}),
        },
    )
    note = optuna_dashboard.get_note(study)
    assert "|  | macro f1 |" in note
    assert "| best plan | 0.850 \u00b1 0.071 |" in note
    assert "| full fine-tuning | 0.500 \u00b1 0.000 |" in note


def test_publishing_again_replaces_what_was_published_and_keeps_other_text(
    study: optuna.Study,
) -> None:
    optuna_dashboard.save_note(study, "Ask Ada about the labels.")
    publish(study)
    first = optuna_dashboard.get_note(study)
    optuna_dashboard.save_note(study, f"{first}\n\nTo do: more data.")
    plots = set(stored_plots(study))
    study.optimize(SyntheticObjective(), n_trials=3)
    publish(study)
    note = optuna_dashboard.get_note(study)
    assert note.startswith("Ask Ada about the labels.\n\n## Fine-tuning plan")
    assert note.endswith("To do: more data.")
    assert note.count("## Fine-tuning plan") == 1
    assert "27 trials" in note and "24 trials" not in note
    assert set(stored_plots(study)) == plots


# The callback


def test_each_generation_is_published_once() -> None:
    study = optuna.create_study(direction="maximize", sampler=BioTuneSampler(seed=0))
    study.optimize(SyntheticObjective(), n_trials=36, callbacks=[PublishEachGeneration()])
    assert n_publications(study) == 3


def test_the_first_trial_of_a_generation_publishes_and_no_late_one_does() -> None:
    due = []

    def note_if_due(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if is_due(study, trial):
            due.append(trial.number)

    study = optuna.create_study(direction="maximize", sampler=BioTuneSampler(seed=0))
    study.enqueue_trial(FineTuningPlan.full(BLOCKS).to_params())
    study.optimize(SyntheticObjective(), n_trials=36, callbacks=[note_if_due])
    assert due == [0, 10, 23]
    assert [trial.number for trial in study.trials if is_due(study, trial)] == [23]


@pytest.mark.timeout(120)
def test_threads_publish_each_generation_and_end_with_the_right_number_of_trials() -> None:
    study = optuna.create_study(direction="maximize", sampler=BioTuneSampler(seed=0))
    study.optimize(SyntheticObjective(), n_trials=40, n_jobs=4, callbacks=[PublishEachGeneration()])
    tags = [Tag.of(trial) for trial in study.trials]
    n_generations = len({tag.generation for tag in tags if tag is not None})
    # The trial that opened a generation may finish after the next one was opened. Several publish
    # the same one only if trials of lower numbers are tagged later: of the first one, perhaps each
    # of the four that begin together, of a later one hardly ever two.
    assert 1 <= n_publications(study) <= n_generations + 4
    assert len(study.trials) == 40


def test_another_samplers_study_is_published_every_tenth_trial() -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(SyntheticObjective(), n_trials=21, callbacks=[PublishEachGeneration()])
    assert n_publications(study) == 3


def test_a_study_that_cannot_be_published_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    study = optuna.create_study(sampler=BioTuneSampler(seed=0), study_name="flowers")
    with caplog.at_level(logging.WARNING, logger="optuna_biotune"):
        study.optimize(
            lambda trial: trial.suggest_float("x", 0.0, 1.0),
            n_trials=3,
            callbacks=[PublishEachGeneration()],
        )
    assert len(study.trials) == 3
    assert "Could not publish study 'flowers'" in caplog.text


def test_without_optuna_dashboard_the_extra_is_named_before_the_search() -> None:
    code = (
        "import sys\n"
        "sys.modules['optuna_dashboard'] = None\n"
        "from optuna_biotune import dashboard\n"
        "assert 'torch' not in sys.modules\n"
        "dashboard.PublishEachGeneration()\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'optuna-biotune[dashboard]'" in finished.stderr


# Models


def test_the_top_trials_are_in_the_order_of_their_values() -> None:
    study = synthetic_study(20, minimise=True, prunes=True)
    complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    expected = sorted(complete, key=lambda trial: trial.values[0])
    assert top_trials(study, 3) == expected[:3]
    assert len(top_trials(study, 100)) == len(complete)
    with pytest.raises(ValueError, match="`n_trials` must be at least 1, but got 0"):
        top_trials(study, 0)


class Tied(nn.Module):
    """A network with one weight in two places, which safetensors' plain functions refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(3)


def test_an_uploaded_model_comes_back_with_weights_buffers_and_plan(tmp_path: Path) -> None:
    from safetensors.torch import load_model

    study = synthetic_study(2)
    model = Tied()
    nn.init.ones_(model.norm.get_buffer("running_mean"))
    result = RefitResult(model, FineTuningPlan.from_trial(study.best_trial), 3, {})
    (tmp_path / "store").mkdir()
    store = FileSystemArtifactStore(tmp_path / "store")
    uploaded = upload_model(study, result, store, name="best", files={"notes.md": "Good."})

    assert set(uploaded) == {"best.safetensors", "best.plan.json", "best.notes.md"}
    known = {meta.filename: meta.artifact_id for meta in get_all_artifact_meta(study)}
    assert known == uploaded
    for name, identifier in uploaded.items():
        path = str(tmp_path / name)
        download_artifact(artifact_store=store, file_path=path, artifact_id=identifier)
    again = Tied()
    load_model(again, tmp_path / "best.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert FineTuningPlan.from_json((tmp_path / "best.plan.json").read_text()) == result.plan
    assert (tmp_path / "best.notes.md").read_text() == "Good."


@pytest.mark.parametrize(
    ("name", "files"), [("../best", {}), ("best", {"../../notes.md": ""}), ("", {})]
)
def test_file_names_that_are_paths_are_refused(
    name: str, files: dict[str, str], tmp_path: Path
) -> None:
    study = synthetic_study(1)
    result = RefitResult(nn.Linear(1, 1), FineTuningPlan.full(BLOCKS), 1, {})
    with pytest.raises(ValueError, match="must be file names, but got"):
        upload_model(study, result, FileSystemArtifactStore(tmp_path), name=name, files=files)
    assert not get_all_artifact_meta(study)
