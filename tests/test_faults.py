"""Faults, injected for real: killed workers, databases that go away, disks that are full."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from optuna_biotune import BioTuneSampler, patience
from optuna_biotune.tags import TAG_KEY, Tag
from tests.workers import (
    BLOCKS,
    STUDY,
    RecordingSampler,
    StorageAddress,
    check_evolution,
    create_study,
    objective,
    tag_of,
    work,
    work_until,
)

POSTGRESQL_PROGRAMS = Path(os.environ.get("BIOTUNE_POSTGRESQL_BIN", "/usr/lib/postgresql/15/bin"))
SPACE: dict[str, BaseDistribution] = {
    name: FloatDistribution(0.0, 1.0)
    for name in ("freeze_threshold", *(f"importance/{block}" for block in BLOCKS))
}
# What a worker imports; Optuna leaves half of it to the moment when a database is opened.
PRELOADED = [
    "tests.workers",
    "alembic.command",
    "optuna.storages._rdb.models",
    "psycopg",
    "pymysql",
]
UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)


# Workers


class Workers:
    """Worker processes that are forked from one that has imported everything already."""

    def __init__(self, n_workers: int, target: Callable[..., None], *args: Any) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._target, self._args = target, args
        self.processes = [self._start() for _ in range(n_workers)]
        self.n_killed = 0

    def _start(self) -> ForkServerProcess:
        process = self._context.Process(target=self._target, args=self._args)
        process.start()
        return process

    def kill_one(self) -> None:
        """Kill a worker, of those at work, with SIGKILL, and start another one."""
        index = random.randrange(len(self.processes))
        process = self.processes[index]
        process.kill()
        process.join()
        self.n_killed += process.exitcode == -9
        self.processes[index] = self._start()

    def join(self, timeout: float = 240.0) -> None:
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        assert codes == [0] * len(codes)


def n_complete(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def wait_for(study: optuna.Study, wanted: int, timeout: float = 240.0) -> None:
    """Wait until a study has a number of complete trials."""
    deadline = time.monotonic() + timeout
    while n_complete(study) < wanted:
        assert time.monotonic() < deadline, "the workers stand still"
        time.sleep(0.02)


def finish_trials_of_dead_workers(address: StorageAddress) -> None:
    """Run a worker until no trial is left that is waiting or has a dead worker."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(
        storage=address.open(), study_name=STUDY, sampler=RecordingSampler.paper(seed=0)
    )
    for _ in range(5):
        if not study.get_trials(deepcopy=False, states=UNFINISHED):
            return
        time.sleep((address.grace_period or 0) + 1.0)
        study.optimize(objective, n_trials=len(study.get_trials(states=UNFINISHED)))
    raise AssertionError("some trials never end")


def check_retries(trials: list[FrozenTrial]) -> None:
    """Check that each trial of a dead worker failed, and ran again once, in the same place."""
    by_number = {trial.number: trial for trial in trials}
    retried = [trial for trial in trials if "retry_history" in trial.system_attrs]
    previous = [trial.system_attrs["retry_history"][-1] for trial in retried]
    assert len(set(previous)) == len(previous), "a trial was enqueued again twice"
    for trial, number in zip(retried, previous, strict=True):
        assert by_number[number].state == TrialState.FAIL
        assert by_number[number].params.items() <= trial.params.items()
        if len(by_number[number].params) == len(trial.params) > 0:
            assert tag_of(by_number[number]) == tag_of(trial)


def kill_workers(address: StorageAddress, n_workers: int, n_kills: int, n_trials: int) -> None:
    study = create_study(address)
    workers = Workers(n_workers, work_until, address, n_trials)
    for kill in range(n_kills):
        wait_for(study, kill * n_trials * 9 // (10 * n_kills))
        time.sleep(random.uniform(0.0, 0.1))
        workers.kill_one()
    assert workers.n_killed == n_kills
    workers.join()
    assert n_trials <= n_complete(study) < n_trials + n_workers
    n_left = len(study.get_trials(states=(TrialState.RUNNING,)))
    assert n_left <= n_kills, "only killed workers leave trials behind"
    finish_trials_of_dead_workers(address)

    trials = study.get_trials(deepcopy=False)
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.FAIL}
    n_failed = sum(trial.state == TrialState.FAIL for trial in trials)
    assert 0 < n_failed <= n_kills
    check_retries(trials)
    check_evolution(trials, n_workers + 1)


@pytest.mark.services
@pytest.mark.parametrize(
    ("server", "n_kills", "n_trials"),
    [
        ("postgresql", 50, 120),
        pytest.param("mariadb", 50, 200, marks=pytest.mark.slow),
        pytest.param("postgresql", 200, 1000, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
    ],
)
def test_a_study_survives_workers_killed_at_random_moments(
    server: str, n_kills: int, n_trials: int, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(f"{server}_url")
    address = StorageAddress("rdb", url, heartbeat_interval=1, grace_period=4)
    kill_workers(address, n_workers=5, n_kills=n_kills, n_trials=n_trials)


@pytest.mark.slow
def test_a_sqlite_study_survives_workers_killed_at_random_moments(tmp_path: Path) -> None:
    location = str(tmp_path / "killed.db")
    address = StorageAddress("rdb", location, heartbeat_interval=1, grace_period=10)
    kill_workers(address, n_workers=2, n_kills=20, n_trials=100)


def test_a_trial_has_a_heartbeat_before_its_worker_can_die(tmp_path: Path) -> None:
    address = StorageAddress("rdb", str(tmp_path / "early.db"), 1, 60)
    study = create_study(address)
    study.enqueue_trial({"freeze_threshold": 0.5})
    context = multiprocessing.get_context("forkserver")
    for n_running in (1, 2):  # the enqueued trial, then a new one
        process = context.Process(target=_die_as_soon_as_a_trial_runs, args=(address,))
        process.start()
        process.join(60)
        assert process.exitcode == -9
        assert len(study.get_trials(states=(TrialState.RUNNING,))) == n_running
    finish_trials_of_dead_workers(replace(address, grace_period=2))
    assert [trial.state.name for trial in study.trials] == ["FAIL"] * 2 + ["COMPLETE"] * 2


class _Deadly(BioTuneSampler):
    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        os.kill(os.getpid(), 9)


def _die_as_soon_as_a_trial_runs(address: StorageAddress) -> None:
    study = optuna.load_study(storage=address.open(), study_name=STUDY, sampler=_Deadly())
    study.optimize(objective, n_trials=1)


@pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed:UserWarning")
@pytest.mark.filterwarnings("ignore:.*fail_stale_trials:optuna.exceptions.ExperimentalWarning")
def test_a_trial_without_heartbeats_is_never_taken_for_dead(tmp_path: Path) -> None:
    address = StorageAddress("rdb", str(tmp_path / "asked.db"), 1, 2)
    study = create_study(address)
    study.optimize(objective, n_trials=1)
    optuna.storages.fail_stale_trials(study)
    trial = study.ask()
    time.sleep(3.5)
    optuna.storages.fail_stale_trials(study)
    study.tell(trial, objective(trial))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2


# Servers that go away


class PostgreSQL:
    """A PostgreSQL server of this test's own, on a free port, in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"postgresql://biotune@127.0.0.1:{self._port}/postgres"
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(directory, "postgres", "postgres")
        self._run("initdb", "--auth=trust", "--no-sync", "--username=biotune")

    def _run(self, program: str, *arguments: str) -> None:
        user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        command = [*user, str(POSTGRESQL_PROGRAMS / program), "-D", str(self._directory / "data")]
        subprocess.run([*command, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=60)

    def start(self) -> None:
        options = (
            f"-p {self._port} -c listen_addresses=127.0.0.1 -c fsync=off "
            f"-c unix_socket_directories={self._directory}"
        )
        log = str(self._directory / "log")
        self._run("pg_ctl", "start", "--wait", "--options", options, "--log", log)

    def stop(self, mode: str) -> None:
        self._run("pg_ctl", "stop", "--wait", "--mode", mode)


@pytest.fixture
def own_postgresql() -> Iterator[PostgreSQL]:
    if not (POSTGRESQL_PROGRAMS / "initdb").exists():
        pytest.skip(f"no initdb in {POSTGRESQL_PROGRAMS}")
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("no runuser to run PostgreSQL as another user than root")
    with tempfile.TemporaryDirectory(prefix="biotune_postgresql_") as directory:
        server = PostgreSQL(Path(directory))
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # a test may have stopped it
                server.stop("immediate")


def check_undisturbed(study: optuna.Study, n_workers: int, n_trials: int) -> None:
    """Check that each worker finished each of its trials, and that the evolution is sound.

    A trial whose creation was not answered is left behind without parameters.
    """
    trials = study.get_trials(deepcopy=False)
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(finished) == n_workers * n_trials
    assert [trial.params for trial in trials if trial not in finished] == [{}] * (
        len(trials) - len(finished)
    )
    check_evolution(trials, n_workers)


@pytest.mark.parametrize(
    "pauses",
    [
        [("fast", 2.0), ("immediate", 0.5)],
        pytest.param(
            [("fast", 1.0), ("immediate", 0.5)] * 10 + [("fast", 90.0)],
            marks=[pytest.mark.slow, pytest.mark.timeout(1200)],
        ),
    ],
)
def test_workers_survive_restarts_of_postgresql(
    own_postgresql: PostgreSQL, pauses: list[tuple[str, float]]
) -> None:
    n_workers, n_trials = 4, 10 * len(pauses)
    address = StorageAddress("rdb", own_postgresql.url)
    study = create_study(address)
    workers = Workers(n_workers, work, address, n_trials)
    for number, (mode, seconds) in enumerate(pauses, start=1):
        wait_for(study, number * 10)
        own_postgresql.stop(mode)
        time.sleep(seconds)
        own_postgresql.start()
    workers.join()
    check_undisturbed(study, n_workers, n_trials)


def _end_postgresql_connections(connection: Connection) -> None:
    connection.execute(
        text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    )


def _end_mariadb_connections(connection: Connection) -> None:
    threads = connection.execute(
        text(
            "SELECT id FROM information_schema.processlist "
            "WHERE db = database() AND id <> connection_id()"
        )
    ).scalars()
    for thread in list(threads):
        with contextlib.suppress(DBAPIError):  # it may have ended by itself
            connection.execute(text(f"KILL {thread}"))


@pytest.mark.services
@pytest.mark.parametrize(
    ("server", "drivername", "end_connections"),
    [
        ("postgresql", "postgresql+psycopg", _end_postgresql_connections),
        ("mariadb", "mysql+pymysql", _end_mariadb_connections),
    ],
)
@pytest.mark.parametrize(
    "n_cuts", [10, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]
)
def test_workers_survive_connections_that_are_cut(
    server: str,
    drivername: str,
    end_connections: Callable[[Connection], None],
    n_cuts: int,
    request: pytest.FixtureRequest,
) -> None:
    n_workers, n_trials = 4, max(15, n_cuts)
    address = StorageAddress("rdb", request.getfixturevalue(f"{server}_url"))
    study = create_study(address)
    workers = Workers(n_workers, work, address, n_trials)
    engine = create_engine(
        make_url(address.location).set(drivername=drivername), isolation_level="AUTOCOMMIT"
    )
    for cut in range(n_cuts):
        wait_for(study, cut * n_trials * n_workers // (n_cuts + 1))
        time.sleep(random.uniform(0.0, 0.05))
        with engine.connect() as connection:
            end_connections(connection)
    engine.dispose()
    workers.join()
    check_undisturbed(study, n_workers, n_trials)


def test_an_outage_is_logged_once_when_it_begins_and_once_when_it_is_over(
    own_postgresql: PostgreSQL, caplog: pytest.LogCaptureFixture
) -> None:
    study = create_study(StorageAddress("rdb", own_postgresql.url))
    restart = threading.Timer(1.5, own_postgresql.start)

    def interrupted(trial: optuna.Trial) -> float:
        if trial.number == 0:
            own_postgresql.stop("fast")
            restart.start()
        return objective(trial)

    study.optimize(interrupted, n_trials=6, n_jobs=3)
    restart.join()
    records = [r.getMessage() for r in caplog.records if r.name == patience.__name__]
    assert len(records) == 2
    assert "is away" in records[0]
    assert "is back after" in records[1]
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 6


# Faults that cannot be survived

_LIMITED_PATIENCE = """
import sys
import optuna
from optuna_biotune import BioTuneSampler, make_storage, patience
from tests.workers import objective

patience.LONGEST_OUTAGE = 1.0
study = optuna.create_study(
    storage=make_storage(sys.argv[1], heartbeat_interval=None),
    study_name="shared",
    load_if_exists=True,
    direction="maximize",
    sampler=BioTuneSampler.paper(seed=0),
)

def wait(moment):
    study._storage._backend.engine.dispose()  # a file system in use cannot turn read-only
    print(moment, flush=True)
    sys.stdin.readline()

def interrupted(trial):
    wait("begun")
    value = objective(trial)
    wait("ended")
    return value

study.optimize(interrupted, n_trials=1, callbacks=[lambda study, trial: wait("told")])
study.optimize(objective, n_trials=1000)
"""


@contextmanager
def interrupted_worker(location: str, moment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a worker that stands still at a moment of its first trial."""
    worker = subprocess.Popen(
        [sys.executable, "-c", _LIMITED_PATIENCE, location],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin is not None and worker.stdout is not None
    try:
        while (reached := worker.stdout.readline().strip()) != moment:
            assert reached, "the worker ended"
            worker.stdin.write("\n")
            worker.stdin.flush()
        yield worker
    finally:
        worker.kill()
        worker.wait()


def last_line_of(worker: subprocess.Popen[str]) -> str:
    """Let a worker go on and return the last line of its traceback."""
    _, errors = worker.communicate("\n" * 3, timeout=120)
    assert worker.returncode == 1, errors
    assert "AssertionError" not in errors and "UnboundLocalError" not in errors, errors
    return errors.strip().splitlines()[-1]


MOMENTS = pytest.mark.parametrize("moment", ["begun", "ended", "told"])


@MOMENTS
def test_a_database_that_stays_away_ends_in_one_sentence(
    own_postgresql: PostgreSQL, moment: str
) -> None:
    url = make_url(own_postgresql.url).set(drivername="postgresql+psycopg", password="s3cr3t")
    with interrupted_worker(url.render_as_string(hide_password=False), moment) as worker:
        own_postgresql.stop("fast")
        line = last_line_of(worker)
    assert line.startswith(
        f"optuna.exceptions.StorageInternalError: The database {url} "
        "has been away for more than 1 seconds ("
    )
    assert "refused" in line and line.endswith(". Once it answers, resume the study.")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """The directory of a file system of a few hundred kilobytes."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(directory)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small file system")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def _remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def _fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(512)):
            pass


def check_resumed(location: str, n_trials: int) -> None:
    address = StorageAddress("rdb", location)
    study = optuna.load_study(
        storage=address.open(), study_name=STUDY, sampler=RecordingSampler.paper(seed=0)
    )
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    study.optimize(objective, n_trials=n_trials - n_complete(study))
    trials = study.get_trials(deepcopy=False)
    assert sum(trial.state == TrialState.FAIL for trial in trials) <= 1
    check_evolution(trials, n_workers=1)


@MOMENTS
def test_a_full_disk_ends_in_one_sentence_and_the_study_resumes_with_more_space(
    disk: Path, moment: str
) -> None:
    location = str(disk / "full.db")
    with interrupted_worker(location, moment) as worker:
        _fill(disk)
        line = last_line_of(worker)
    assert line == (
        f"optuna.exceptions.StorageInternalError: The database sqlite:///{location} cannot be used "
        "any more (database or disk is full). Free space on its disk, then resume the study."
    )
    _remount(disk, "size=4m")
    check_resumed(location, 40)


def test_a_disk_that_turns_read_only_ends_in_one_sentence(disk: Path) -> None:
    location = str(disk / "readonly.db")
    with interrupted_worker(location, "ended") as worker:
        _remount(disk, "ro")
        line = last_line_of(worker)
    assert line == (
        f"optuna.exceptions.StorageInternalError: The database sqlite:///{location} cannot be used "
        "any more (attempt to write a readonly database). Make the file and its directory "
        "writable, then resume the study."
    )
    _remount(disk, "rw")
    check_resumed(location, 40)


# Trials of other versions

GOOD_TAG = {"generation": 1, "role": "offspring", "parents": [0, 1]}


@pytest.mark.parametrize(
    "tag",
    [
        None,
        "generation 3",
        17,
        [],
        {},
        {**GOOD_TAG, "role": "mutant"},
        {**GOOD_TAG, "role": ["offspring"]},
        {**GOOD_TAG, "role": None},
        {**GOOD_TAG, "generation": "1"},
        {**GOOD_TAG, "generation": -1},
        {**GOOD_TAG, "generation": None},
        {**GOOD_TAG, "generation": 10**9},
        {**GOOD_TAG, "generation": 4},
        {**GOOD_TAG, "parents": "01"},
        {**GOOD_TAG, "parents": [0]},
        {**GOOD_TAG, "parents": [0, None]},
        {**GOOD_TAG, "role": "elite_plus", "parents": []},
        {"generation": 1, "role": "offspring"},
        {**GOOD_TAG, "trial": 99},
        {"version": 2, "individual": {"generation": 1}},
    ],
    ids=str,
)
def test_trials_whose_tag_is_not_understood_belong_to_the_first_generation(tag: Any) -> None:
    study = optuna.create_study(
        direction="maximize", sampler=BioTuneSampler.paper(seed=0, momentum=0.5)
    )
    for number in range(4):
        study.add_trial(
            optuna.create_trial(
                value=0.1 * number,
                params={name: (number + 1) / 9 for name in SPACE},
                distributions=SPACE,
                system_attrs={} if tag is None else {TAG_KEY: tag},
            )
        )
    study.optimize(objective, n_trials=6 + 13 + 13)
    proposed = study.get_trials(deepcopy=False)[4:]
    generations = [tag_of(trial).generation for trial in proposed]
    assert generations == [0] * 6 + [1] * 13 + [2] * 13


def test_parents_that_the_study_does_not_have_are_forgotten() -> None:
    study = optuna.create_study(
        direction="maximize", sampler=BioTuneSampler.paper(seed=0, momentum=0.5)
    )
    study.optimize(objective, n_trials=22)
    other = optuna.create_study(
        direction="maximize", sampler=BioTuneSampler.paper(seed=0, momentum=0.5)
    )
    other.add_trials(trial for trial in study.trials if trial.number % 2)
    other.optimize(objective, n_trials=20)
    assert all(tag_of(trial).generation > 0 for trial in other.trials[-5:])


def test_a_tag_with_more_keys_than_we_know_is_understood() -> None:
    attrs = {TAG_KEY: {**GOOD_TAG, "trial": 3, "fold": 1}}
    trial = optuna.create_trial(value=0.0, system_attrs=attrs)
    trial.number = 3
    assert Tag.of(trial) == Tag(1, "offspring", (0, 1))
