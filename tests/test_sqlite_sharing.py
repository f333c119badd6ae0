from __future__ import annotations

import copy
import logging
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage

from optuna_biotune.storage import make_storage

# One trial that lasts until it is ended from outside.
OTHER_PROCESS = """
import sys, time
import optuna
from optuna_biotune import make_storage

def objective(trial):
    print("running", flush=True)
    time.sleep(60)

storage = make_storage(sys.argv[1], heartbeat_interval=1)
optuna.load_study(study_name="shared", storage=storage).optimize(objective, n_trials=1)
"""


def study_in(storage: RDBStorage) -> optuna.Study:
    return optuna.create_study(
        storage=storage,
        study_name="shared",
        sampler=optuna.samplers.RandomSampler(seed=0),
        load_if_exists=True,
    )


def slow(trial: optuna.Trial) -> float:
    time.sleep(1.1)  # heartbeats are stamped with whole seconds
    return trial.suggest_float("x", 0.0, 1.0)


def warnings_in(log: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in log.records if r.levelno >= logging.WARNING]


def test_a_second_process_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "study.db"
    study = study_in(make_storage(file, heartbeat_interval=1))
    command = [sys.executable, "-c", OTHER_PROCESS, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "running\n"
        study.optimize(slow, n_trials=5)
        other.kill()
    (message,) = warnings_in(caplog)
    assert "Another process" in message and "study.db" in message and "PostgreSQL" in message


def test_threads_and_copies_of_one_process_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = make_storage(tmp_path / "study.db", heartbeat_interval=1)
    study_in(storage).optimize(slow, n_trials=4, n_jobs=2)
    study_in(copy.deepcopy(storage)).optimize(slow, n_trials=2)
    assert warnings_in(caplog) == []


def test_a_worker_that_died_before_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "study.db"
    study_in(make_storage(file, heartbeat_interval=1))
    command = [sys.executable, "-c", OTHER_PROCESS, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "running\n"
        other.kill()
    time.sleep(1.1)
    study_in(make_storage(file, heartbeat_interval=1)).optimize(slow, n_trials=2)
    assert warnings_in(caplog) == []
