from __future__ import annotations

import copy
import logging
import pickle
import socket
import subprocess
import sys
import threading
import traceback
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import event, text
from sqlalchemy.engine import make_url

from optuna_biotune.storage import make_storage

# Tests play dead workers with study.ask(), which sends no heartbeats and says so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*fail_stale_trials:optuna.exceptions.ExperimentalWarning"),
]

SECRET = "s3cr3t p/w%d"
ENCODED_SECRET = quote(SECRET, safe="")
LONG_AGO = "2000-01-01 00:00:00"


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.services),
        pytest.param("mariadb", marks=pytest.mark.services),
    ]
)
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/study.db"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine that refuses connections."""
    with socket.socket() as bound_but_not_listening:
        bound_but_not_listening.bind(("127.0.0.1", 0))
        yield bound_but_not_listening.getsockname()[1]


def objective(trial: optuna.Trial) -> float:
    trial.set_user_attr("mask", "FT")
    return trial.suggest_float("importance/stem", 0.0, 1.0)


def optimize(storage: RDBStorage, n_trials: int) -> optuna.Study:
    study = optuna.create_study(
        storage=storage,
        study_name="shared",
        sampler=optuna.samplers.RandomSampler(seed=0),
        load_if_exists=True,
    )
    study.optimize(objective, n_trials=n_trials)
    return study


def execute(storage: RDBStorage, statement: str, **values: Any) -> Any:
    with storage.engine.begin() as connection:
        result = connection.execute(text(statement), values)
        return result.scalar() if result.returns_rows else None


# Where the study lives


@pytest.mark.parametrize("form", [str, Path, "sqlite:///{}".format])
def test_a_sqlite_database_is_named_by_a_file_name_a_path_or_a_url(
    form: Any, tmp_path: Path
) -> None:
    file = tmp_path / "study.db"
    optimize(make_storage(form(file)), n_trials=1)
    assert file.is_file()


def test_special_characters_in_a_file_name_are_kept(tmp_path: Path) -> None:
    optimize(make_storage(tmp_path / "a {b} %41.db"), n_trials=1)
    assert [file.name for file in tmp_path.iterdir()] == ["a {b} %41.db"]


def test_a_new_process_finds_the_trials_of_the_study(any_url: str) -> None:
    storage = make_storage(any_url)
    values = [trial.value for trial in optimize(storage, n_trials=5).trials]
    code = (
        "import optuna, sys; from optuna_biotune.storage import make_storage\n"
        "study = optuna.load_study(study_name='shared', storage=make_storage(sys.argv[1]))\n"
        "print([trial.value for trial in study.trials])\n"
    )
    reopened = subprocess.run(
        [sys.executable, "-c", code, any_url], capture_output=True, text=True, timeout=60
    )
    assert reopened.stdout == f"{values}\n", reopened.stderr


def test_workers_that_start_at_the_same_moment_all_open_a_new_database(any_url: str) -> None:
    n_workers = 6
    barrier = threading.Barrier(n_workers)

    def work(_: int) -> None:
        barrier.wait()
        optimize(make_storage(any_url), n_trials=2)

    with ThreadPoolExecutor(n_workers) as workers:
        list(workers.map(work, range(n_workers)))
    study = optuna.load_study(study_name="shared", storage=make_storage(any_url))
    assert [trial.number for trial in study.trials] == list(range(2 * n_workers))
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copied_storage_opens_the_same_study_with_the_same_heartbeat(
    duplicate: Any, any_url: str
) -> None:
    storage = make_storage(any_url, heartbeat_interval=7, grace_period=77)
    optimize(storage, n_trials=2)
    copied = duplicate(storage)
    assert len(optimize(copied, n_trials=1).trials) == 3
    assert (copied.heartbeat_interval, copied.grace_period) == (7, 77)
    assert copied.engine is not storage.engine


# Engine settings


def test_sqlite_waits_a_minute_for_the_lock_and_keeps_the_rollback_journal(tmp_path: Path) -> None:
    storage = make_storage(tmp_path / "study.db")
    assert execute(storage, "PRAGMA busy_timeout") == 60_000
    assert execute(storage, "PRAGMA journal_mode") == "delete"


def test_a_timeout_in_the_url_goes_before_the_default(tmp_path: Path) -> None:
    storage = make_storage(f"sqlite:///{tmp_path}/study.db?timeout=5")
    assert execute(storage, "PRAGMA busy_timeout") == 5_000


@pytest.mark.services
def test_a_study_goes_on_after_postgresql_closed_its_connections(postgresql_url: str) -> None:
    storage = make_storage(postgresql_url)
    optimize(storage, n_trials=1)
    other = make_storage(postgresql_url)
    closed = execute(
        other,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    assert closed >= 1
    assert len(optimize(storage, n_trials=1).trials) == 2


@pytest.mark.services
def test_a_study_goes_on_after_mariadb_closed_its_connections(mariadb_url: str) -> None:
    storage = make_storage(mariadb_url)
    optimize(storage, n_trials=1)
    connection_id = execute(storage, "SELECT connection_id()")
    execute(make_storage(mariadb_url), f"KILL {connection_id}")
    assert len(optimize(storage, n_trials=1).trials) == 2


@pytest.mark.services
def test_a_url_without_a_driver_takes_an_installed_one(
    postgresql_url: str, mariadb_url: str
) -> None:
    assert make_storage(postgresql_url).engine.url.drivername == "postgresql+psycopg"
    assert make_storage(mariadb_url).engine.url.drivername == "mysql+pymysql"


# Heartbeats


def test_ctrl_c_during_a_query_is_no_outage(tmp_path: Path) -> None:
    storage = make_storage(tmp_path / "study.db")
    study = optimize(storage, n_trials=1)

    @event.listens_for(storage.engine, "do_execute", once=True)
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.optimize(objective, n_trials=1)
    study.optimize(objective, n_trials=1)


def test_heartbeats_bring_no_warnings(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", optuna.exceptions.ExperimentalWarning)
        storage = make_storage(tmp_path / "study.db")
        optimize(pickle.loads(pickle.dumps(storage)), n_trials=1)
    assert execute(storage, "SELECT count(*) FROM trial_heartbeats") == 1


def test_the_trial_of_a_dead_worker_runs_again_as_often_as_allowed(any_url: str) -> None:
    storage = make_storage(any_url, max_retry=2)
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
    point = None
    for _ in range(3):
        trial = study.ask()
        value = trial.suggest_float("importance/stem", 0.0, 1.0)
        point = value if point is None else point
        assert value == point, "a retried trial keeps its parameters"
        storage.record_heartbeat(trial._trial_id)
        execute(storage, "UPDATE trial_heartbeats SET heartbeat = :then", then=LONG_AGO)
        optuna.storages.fail_stale_trials(study)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 3


def test_without_retries_the_trial_of_a_dead_worker_only_fails(tmp_path: Path) -> None:
    storage = make_storage(tmp_path / "study.db", max_retry=0)
    study = optuna.create_study(storage=storage)
    storage.record_heartbeat(study.ask()._trial_id)
    execute(storage, "UPDATE trial_heartbeats SET heartbeat = :then", then=LONG_AGO)
    optuna.storages.fail_stale_trials(study)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL]


@pytest.mark.parametrize(("seconds", "state"), [(590, "RUNNING"), (610, "FAIL")])
def test_a_worker_counts_as_dead_after_ten_minutes_of_silence(
    seconds: int, state: str, tmp_path: Path
) -> None:
    storage = make_storage(tmp_path / "study.db", max_retry=0)
    study = optuna.create_study(storage=storage)
    storage.record_heartbeat(study.ask()._trial_id)
    execute(
        storage, f"UPDATE trial_heartbeats SET heartbeat = datetime('now', '-{seconds} seconds')"
    )
    optuna.storages.fail_stale_trials(study)
    assert study.trials[0].state.name == state


def test_a_failed_heartbeat_is_logged_and_the_next_one_recorded(
    any_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    storage = make_storage(any_url)
    trial_id = optuna.create_study(storage=storage).ask()._trial_id
    execute(storage, "ALTER TABLE trial_heartbeats RENAME TO away")
    storage.record_heartbeat(trial_id)
    assert "heartbeat was not recorded" in caplog.text
    execute(storage, "ALTER TABLE away RENAME TO trial_heartbeats")
    storage.record_heartbeat(trial_id)
    assert execute(storage, "SELECT count(*) FROM trial_heartbeats") == 1


def test_heartbeats_can_be_switched_off(tmp_path: Path) -> None:
    storage = make_storage(tmp_path / "study.db", heartbeat_interval=None)
    optimize(storage, n_trials=1)
    assert execute(storage, "SELECT count(*) FROM trial_heartbeats") == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"heartbeat_interval": 0}, ValueError, "`heartbeat_interval` must be at least 1"),
        ({"heartbeat_interval": 1.5}, TypeError, "`heartbeat_interval` must be an integer"),
        ({"heartbeat_interval": True}, TypeError, "`heartbeat_interval` must be an integer"),
        ({"grace_period": 60}, ValueError, "`grace_period` must be at least 120, but got 60"),
        (
            {"heartbeat_interval": None, "grace_period": 600},
            ValueError,
            "`grace_period` must be None without a `heartbeat_interval`",
        ),
        ({"max_retry": -1}, ValueError, "`max_retry` must be at least 0, but got -1"),
        ({"max_retry": None}, TypeError, "`max_retry` must be an integer"),
    ],
)
def test_bad_heartbeat_arguments_are_named(
    arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        make_storage(tmp_path / "study.db", **arguments)
    assert not list(tmp_path.iterdir())


# Errors


@pytest.mark.parametrize(
    ("modules", "url", "extra"),
    [
        (["psycopg", "psycopg2"], "postgresql://user@host/db", "postgresql"),
        (["psycopg2"], "postgresql+psycopg2://user@host/db", "postgresql"),
        (["pymysql", "MySQLdb"], "mysql://user@host/db", "mariadb"),
        (["pymysql", "MySQLdb"], "mariadb://user@host/db", "mariadb"),
    ],
)
def test_a_missing_driver_is_reported_with_the_command_that_installs_it(
    modules: list[str], url: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'pip install "optuna-biotune\[{extra}\]"'):
        make_storage(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "is empty"),
        ("postgresql://user:port", "cannot be read"),
        ("://host/db", "cannot be read"),
        ("user:word@host/db", "without `://`"),
        ("postgresql://user:w@rd@host/db", "`@` more than once"),
        ("redis://localhost:6379/0", "got 'redis'"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
    ],
)
def test_a_malformed_url_is_rejected(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"`url`.*{message}"):
        make_storage(url)


def test_a_url_of_another_type_is_rejected() -> None:
    with pytest.raises(TypeError, match="`url` must be a string, a path or a URL, but got int"):
        make_storage(3)  # type: ignore[arg-type]


def test_a_missing_directory_is_named_and_not_created(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/runs, which does not exist"):
        make_storage(tmp_path / "runs" / "study.db")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_database_is_rejected_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database, and longer than the header of one would have to be\n" * 20)
    before = file.read_bytes()
    with pytest.raises(ConnectionError, match=r"notes.txt.*file is not a database"):
        make_storage(file)
    assert file.read_bytes() == before


def test_a_read_only_file_is_rejected(tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    optimize(make_storage(file), n_trials=1)
    # Opened read-only by URL: file permissions do not hold root back, who may run this test.
    with pytest.raises(PermissionError, match=r"study.db .*readonly"):
        make_storage(f"sqlite:///file:{file}?mode=ro&uri=true")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc, where nobody may write")
def test_a_read_only_directory_is_rejected() -> None:
    with pytest.raises(PermissionError, match=r"biotune.db .*unable to open"):
        make_storage("/proc/biotune.db")


@pytest.mark.parametrize("scheme", ["postgresql", "mariadb"])
def test_an_unreachable_server_is_named(scheme: str, closed_port: int) -> None:
    with pytest.raises(ConnectionError, match=rf"user@127.0.0.1:{closed_port}/db.*server running"):
        make_storage(f"{scheme}://user@127.0.0.1:{closed_port}/db")


# Passwords


def assert_no_secret(*texts: str) -> None:
    for shown in texts:
        for secret in [SECRET, ENCODED_SECRET, quote(SECRET), "s3cr3t"]:
            assert secret not in shown


def rejected_with_secret(url: str) -> tuple[str, str]:
    """Open a storage that cannot be opened; return its whole traceback and the exceptions."""
    try:
        make_storage(url)
    except Exception as error:
        shown = "".join(traceback.format_exception(error))
        return shown, f"{error} {error!r} {error.args!r}"
    raise AssertionError("the URL was accepted")


@pytest.mark.parametrize("scheme", ["postgresql", "mariadb", "mysql+pymysql"])
def test_an_unreachable_server_does_not_show_the_password(
    scheme: str, closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown = rejected_with_secret(
        f"{scheme}://user:{ENCODED_SECRET}@127.0.0.1:{closed_port}/db?connect_timeout=2"
    )
    assert_no_secret(*shown, caplog.text)
    assert f"user:***@127.0.0.1:{closed_port}/db" in shown[0]


@pytest.mark.services
@pytest.mark.parametrize("server", ["postgresql", "mariadb"])
def test_a_refused_login_does_not_show_the_password(
    server: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = make_url(request.getfixturevalue(f"{server}_url"))
    refused = url.set(username="nobody_of_this_name", password=SECRET)
    shown = rejected_with_secret(refused.render_as_string(hide_password=False))
    assert_no_secret(*shown, caplog.text)
    assert "nobody_of_this_name" in shown[0]


@pytest.mark.services
def test_a_password_in_the_query_is_not_shown(mariadb_url: str) -> None:
    url = make_url(mariadb_url).set(username="nobody_of_this_name", password=None)
    refused = url.update_query_dict({"password": SECRET})
    assert_no_secret(*rejected_with_secret(refused.render_as_string(hide_password=False)))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:s3cr3t",
        "postgresql://user:wo@s3cr3t@host/db",
        "postgresql://user:wo@s3cr3t:rd@host/db",
        "postgresql:/user:s3cr3t@host/db",
        "user:s3cr3t@host/db",
        f"nodatabase://user:{ENCODED_SECRET}@host/db",
        "postgresql+nodriver://user:s3cr3t@host/db",
    ],
)
def test_a_malformed_url_does_not_show_the_password(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert_no_secret(*rejected_with_secret(url), caplog.text)


@pytest.mark.services
def test_a_password_of_special_characters_opens_a_storage_that_does_not_show_it(
    mariadb_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    admin = make_storage(mariadb_url)
    user = f"biotune_{uuid.uuid4().hex[:12]}"
    execute(admin, f"CREATE USER {user} IDENTIFIED BY :password", password=SECRET)
    try:
        url = make_url(mariadb_url)
        execute(admin, f"GRANT ALL ON {url.database}.* TO {user}")
        caplog.set_level(logging.DEBUG)
        login = f"{user}:{ENCODED_SECRET}@{url.host}:{url.port}/{url.database}"
        storage = make_storage(f"mariadb://{login}")
        assert len(optimize(pickle.loads(pickle.dumps(storage)), n_trials=1).trials) == 1
        # Records of sqlalchemy.engine show that logging was on.
        logging.getLogger("sqlalchemy.engine").setLevel(logging.DEBUG)
        execute(storage, "SELECT 1")
        assert_no_secret(caplog.text, repr(storage), repr(storage.engine), str(storage))
        execute(storage, "ALTER TABLE trial_heartbeats RENAME TO away")
        storage.record_heartbeat(1)
        assert "heartbeat was not recorded" in caplog.text
        assert_no_secret(caplog.text)
    finally:
        logging.getLogger("sqlalchemy.engine").setLevel(logging.NOTSET)
        execute(admin, f"DROP USER {user}")


@pytest.mark.services
def test_a_copy_that_cannot_connect_any_more_does_not_show_the_password(
    mariadb_url: str,
) -> None:
    admin = make_storage(mariadb_url)
    user = f"biotune_{uuid.uuid4().hex[:12]}"
    url = make_url(mariadb_url)
    execute(admin, f"CREATE USER {user} IDENTIFIED BY :password", password=SECRET)
    try:
        execute(admin, f"GRANT ALL ON {url.database}.* TO {user}")
        login = f"{user}:{ENCODED_SECRET}@{url.host}:{url.port}/{url.database}"
        pickled = pickle.dumps(make_storage(f"mariadb://{login}"))
    finally:
        execute(admin, f"DROP USER {user}")
    with pytest.raises(Exception, match="Access denied") as failure:
        pickle.loads(pickled)
    assert_no_secret("".join(traceback.format_exception(failure.value)))
