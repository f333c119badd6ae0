from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from optuna_biotune import FineTuningPlan, make_storage, suggest_plan
from optuna_biotune.commands.errors import CommandError
from optuna_biotune.commands.study import default_pruner, open_study, trial_of

BLOCKS = ("stem", "fc")
BASELINES = (FineTuningPlan.full(BLOCKS), FineTuningPlan.linear_probe(BLOCKS))
SETTINGS = {"images": "1a2b", "--epochs": 30, "--lr": 1e-3}


@pytest.fixture
def storage(tmp_path: Path) -> optuna.storages.RDBStorage:
    return make_storage(tmp_path / "study.db")


def reopen(storage: optuna.storages.RDBStorage, **changes: object) -> optuna.Study:
    settings = {**SETTINGS, **changes}
    return open_study(storage, "name", settings, BLOCKS, default_pruner())


def test_workers_begin_with_the_usual_plans_however_many_there_are(
    storage: optuna.storages.RDBStorage,
) -> None:
    workers = [reopen(storage) for _ in range(3)]
    trials = [study.ask() for study in workers]
    assert [suggest_plan(trial, BLOCKS) for trial in trials[:2]] == list(BASELINES)
    assert suggest_plan(trials[2], BLOCKS) not in BASELINES


def test_the_trial_of_a_plan_is_found_unless_it_failed(
    storage: optuna.storages.RDBStorage,
) -> None:
    study = reopen(storage)
    for state in (TrialState.COMPLETE, TrialState.FAIL):
        trial = study.ask()
        suggest_plan(trial, BLOCKS)
        study.tell(trial, 0.5 if state == TrialState.COMPLETE else None, state=state)
    found = [trial_of(study, plan) for plan in BASELINES]
    assert [trial and trial.number for trial in found] == [0, None]


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
