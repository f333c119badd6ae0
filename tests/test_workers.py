"""Worker processes on every storage that people share a study through."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.workers import (
    StorageAddress,
    check_evolution,
    check_generations,
    create_study,
    run_workers,
)

N_WORKERS = 8

trials_per_worker = pytest.mark.parametrize(
    "n_trials", [15, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]
)


def share_a_study(
    address: StorageAddress, n_workers: int, n_trials: int, prescreen: str | None = None
) -> None:
    study = create_study(address)
    run_workers(address, n_workers, n_trials, prescreen)
    trials = study.get_trials(deepcopy=False)
    assert len(trials) == n_workers * n_trials
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    check = check_evolution if prescreen is None else check_generations
    check(trials, n_workers)


def test_processes_that_prescreen_share_a_journal_file(tmp_path: Path) -> None:
    address = StorageAddress("journal_file", str(tmp_path / "shared.log"))
    share_a_study(address, 4, 12, "phenotype")


@pytest.mark.services
def test_processes_that_prescreen_share_a_postgresql_database(postgresql_url: str) -> None:
    share_a_study(StorageAddress("rdb", postgresql_url), 4, 12, "phenotype")


@trials_per_worker
def test_processes_share_a_sqlite_file(tmp_path: Path, n_trials: int) -> None:
    share_a_study(StorageAddress("rdb", str(tmp_path / "shared.db")), 2, n_trials)


@trials_per_worker
def test_processes_share_a_journal_file(tmp_path: Path, n_trials: int) -> None:
    address = StorageAddress("journal_file", str(tmp_path / "shared.log"))
    share_a_study(address, N_WORKERS, n_trials)


@pytest.mark.services
@trials_per_worker
def test_processes_share_a_redis_journal(redis_url: str, n_trials: int) -> None:
    share_a_study(StorageAddress("journal_redis", redis_url), N_WORKERS, n_trials)


@pytest.mark.services
@trials_per_worker
def test_processes_share_a_postgresql_database(postgresql_url: str, n_trials: int) -> None:
    share_a_study(StorageAddress("rdb", postgresql_url), N_WORKERS, n_trials)


@pytest.mark.services
@trials_per_worker
def test_processes_share_a_mariadb_database(mariadb_url: str, n_trials: int) -> None:
    share_a_study(StorageAddress("rdb", mariadb_url), N_WORKERS, n_trials)


@pytest.mark.services
@trials_per_worker
def test_processes_share_postgresql_through_a_grpc_proxy(
    postgresql_url: str, n_trials: int
) -> None:
    with grpc_server(postgresql_url) as location:
        share_a_study(StorageAddress("grpc", location), N_WORKERS, n_trials)


_SERVER = """
import sys
from optuna.storages import get_storage, run_grpc_proxy_server
from optuna_biotune import make_storage

storage = get_storage(make_storage(sys.argv[1]))
run_grpc_proxy_server(storage, host="localhost", port=int(sys.argv[2]))
"""


@contextmanager
def grpc_server(url: str) -> Iterator[str]:
    """Run Optuna's storage proxy in front of a database and give its host and port."""
    pytest.importorskip("grpc")
    with closing(socket.socket()) as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-c", _SERVER, url, str(port)])
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("localhost", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, "the proxy ended"
                assert time.monotonic() < deadline, "the proxy does not answer"
                time.sleep(0.1)
        yield f"localhost:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)
