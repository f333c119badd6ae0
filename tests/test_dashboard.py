from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import optuna
import pytest

from optuna_biotune import BioTuneSampler, make_storage, suggest_plan

pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")

BLOCKS = ("stem", "layer1", "head")
SERVER = "from optuna_dashboard._cli import main; main()"
START_TIMEOUT = 60.0


def objective(trial: optuna.Trial) -> float:
    plan = suggest_plan(trial, BLOCKS)
    for name, lr in plan.learning_rates(1e-3).items():
        trial.set_user_attr(f"lr/{name}", lr)
    trial.set_user_attr("mask", plan.mask)
    trial.set_user_attr("trainable_params", 1000 * len(plan.trainable))
    return float(len(plan.trainable))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def get_json(url: str) -> Any:
    with urlopen(url, timeout=10) as response:
        return json.load(response)


def wait_for(server: subprocess.Popen[str], url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise AssertionError(f"the dashboard stopped: {server.communicate()[0]}")
        try:
            get_json(url)
        except URLError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"the dashboard did not answer within {START_TIMEOUT} s")


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    study = optuna.create_study(
        direction="maximize",
        study_name="flowers",
        sampler=BioTuneSampler(population_size=3, elite_size=1, seed=0),
        storage=make_storage(tmp_path / "biotune.db"),
    )
    study.optimize(objective, n_trials=5)
    return study


@pytest.fixture
def dashboard(study: optuna.Study, tmp_path: Path) -> Iterator[str]:
    """Address of a dashboard that shows the study."""
    port = free_port()
    storage = f"sqlite:///{tmp_path}/biotune.db"
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, storage, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for(server, f"http://127.0.0.1:{port}/api/studies")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.communicate(timeout=10)


def test_the_dashboard_shows_our_parameters_and_user_attributes(
    study: optuna.Study, dashboard: str
) -> None:
    (summary,) = get_json(f"{dashboard}/api/studies")["study_summaries"]
    assert summary["study_name"] == "flowers"

    detail = get_json(f"{dashboard}/api/studies/{summary['study_id']}")
    assert detail["directions"] == ["maximize"]
    assert [shown["number"] for shown in detail["trials"]] == [0, 1, 2, 3, 4]
    for shown, trial in zip(detail["trials"], study.trials, strict=True):
        assert shown["state"] == "Complete"
        assert shown["values"] == trial.values
        params = {param["name"]: param["param_internal_value"] for param in shown["params"]}
        assert params == trial.params
        assert {"importance/stem", "importance/head", "freeze_threshold"} <= set(params)
        attributes = {attr["key"]: attr["value"] for attr in shown["user_attrs"]}
        assert attributes["mask"] == trial.user_attrs["mask"]
        for name in BLOCKS:
            assert float(attributes[f"lr/{name}"]) == trial.user_attrs[f"lr/{name}"]

    sortable = {attr["key"]: attr["sortable"] for attr in detail["union_user_attrs"]}
    assert sortable == {
        "mask": False,
        "trainable_params": True,
        **{f"lr/{name}": True for name in BLOCKS},
    }
