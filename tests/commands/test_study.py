from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from optuna_biotune import FineTuningPlan, make_storage, suggest_plan
from optuna_biotune.commands.errors import CommandError
from optuna_biotune.commands.study import default_pruner, open_study, trial_of

BLOCKS = ("stem", "fc")
BASELINES = (FineTuningPlan.linear_probe(BLOCKS), FineTuningPlan.full(BLOCKS))
SETTINGS = {"images": "1a2b", "--epochs": 30, "--lr": 1e-3}


@pytest.fixture
def storage(tmp_path: Path) -> optuna.storages.RDBStorage:
    return make_storage(tmp_path / "study.db")


def reopen(storage: optuna.storages.RDBStorage, **changes: object) -> optuna.Study:
    settings = {**SETTINGS, **changes}
    return open_study(storage, "name", settings, BASELINES, default_pruner())


def test_baselines_are_enqueued_once(storage: optuna.storages.RDBStorage) -> None:
    for _ in range(3):
        study = reopen(storage)
    assert [trial.state for trial in study.trials] == [TrialState.WAITING] * 2
    study.optimize(lambda trial: len(suggest_plan(trial, BLOCKS).frozen), n_trials=2)
    assert len(reopen(storage).trials) == 2


def test_a_baseline_that_failed_is_enqueued_again(storage: optuna.storages.RDBStorage) -> None:
    study = reopen(storage)
    study.tell(study.ask(), state=TrialState.FAIL)
    again = reopen(storage)
    states = [trial.state for trial in again.trials]
    assert states == [TrialState.FAIL, TrialState.WAITING, TrialState.WAITING]
    found = [trial_of(again, plan) for plan in BASELINES]
    assert [trial.number for trial in found if trial is not None] == [2, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--epochs": 10}, "begun with --epochs 30, not 10: give the same again, or another"),
        ({"images": "ffff"}, "begun with other images: give the same again"),
    ],
)
def test_other_settings_are_refused(
    storage: optuna.storages.RDBStorage, changes: dict[str, object], message: str
) -> None:
    reopen(storage)
    with pytest.raises(CommandError, match=message):
        reopen(storage, **changes)


def test_a_study_of_another_kind_is_refused(storage: optuna.storages.RDBStorage) -> None:
    study = optuna.create_study(storage=storage, study_name="name", direction="minimize")
    with pytest.raises(CommandError, match="does not maximise one value: give another --study"):
        reopen(storage)
    optuna.delete_study(study_name="name", storage=storage)
    study = optuna.create_study(storage=storage, study_name="name", direction="maximize")
    study.ask()
    with pytest.raises(CommandError, match="was not made by this command"):
        reopen(storage)
