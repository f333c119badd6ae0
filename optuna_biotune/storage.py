"""Storages that many workers share, with settings fit for trials of minutes to hours.

:func:`make_storage` is ``optuna.storages.RDBStorage`` with the engine settings of each database,
with heartbeats, and with errors that say what to do and never show a password.
"""

from __future__ import annotations

import os
import random
import time
import warnings
from pathlib import Path
from typing import Any

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import exc
from sqlalchemy.engine import URL

from optuna_biotune.database_errors import Outage, Refusal, driver_message
from optuna_biotune.database_url import DRIVERS, check_driver, parse_url, shown, with_driver
from optuna_biotune.shared_storage import SharedStorage

__all__ = ["make_storage"]

_SQLITE_TIMEOUT = 60  # seconds that a writer waits for the file's lock
_CONNECT_TIMEOUT = 10  # seconds
_SILENCE = 120  # seconds without a sign of life after which a connection counts as cut
_POOL_RECYCLE = 1800  # seconds; below the idle limits of servers and firewalls
_GRACE_INTERVALS = 10
_TABLE_CREATION_ATTEMPTS = 10


def make_storage(
    url: str | os.PathLike[str] | URL,
    *,
    heartbeat_interval: int | None = 60,
    grace_period: int | None = None,
    max_retry: int = 3,
) -> RDBStorage:
    """Open a storage for studies that are resumed or shared by several workers.

    Creates the tables if the database has none; several workers may do so at the same moment.

    Heartbeats: while ``study.optimize`` runs a trial, its worker writes one row to the database
    every ``heartbeat_interval`` seconds. A trial whose last heartbeat is older than
    ``grace_period`` seconds, by the database's clock, counts as dead: the next worker that asks
    for a trial fails it and enqueues it again. A worker that was only slow then cannot store its
    result, so keep the grace period well above any pause that a living worker can make (a
    suspended machine). With ``study.ask`` and ``study.tell`` there are no heartbeats.

    Faults: while the database is away (stopped, restarting, its connections cut), every operation
    waits for it and is repeated, for up to 5 minutes, and nothing is stored twice; after that it
    ends in one ``optuna.exceptions.StorageInternalError``. What waiting does not mend (a full
    disk, a read-only file, a login refused) ends so at once. The study can then be resumed by
    running it again. No trial counts as dead until a grace period after an outage. Killing a
    worker at any moment leaves at most its running trial, which the next heartbeats find dead; a
    trial that only ``study.ask`` has started stays RUNNING.

    SQLite: good for one machine. Threads and a few processes may share the file, which one of
    them at a time writes while the others wait for up to 60 seconds. Take PostgreSQL or MariaDB
    for more than a handful of processes or for several machines: file locks are unreliable on
    many network file systems (NFS, Lustre). The file keeps SQLite's rollback journal, because the
    faster write-ahead log needs memory that all processes share, and corrupts the file when
    machines share it over a network.

    PostgreSQL and MariaDB: connections are tested before use and renewed after 30 minutes, so
    that a trial may be longer than the server's idle limit; each process keeps up to 2 open and
    uses up to 10 at once; connecting gives up after 10 seconds unless the URL says otherwise.

    The storage can be pickled and copied, for process pools: each copy opens its own connections.
    Do not use one storage on both sides of a fork. Like any ``RDBStorage``, a storage and its
    pickle hold the URL with its password in clear.

    Args:
        url: A SQLite file (``"biotune.db"``, a path, or ``"sqlite:///biotune.db"``; it is created
            if missing, its directory is not), or the SQLAlchemy URL of a database that exists. A
            URL without a driver takes an installed one: psycopg or psycopg2 for
            ``postgresql://``, PyMySQL or mysqlclient for ``mysql://`` and ``mariadb://``.
        heartbeat_interval: Seconds between two heartbeats of a running trial, at least 1. None
            switches heartbeats off: trials of dead workers then stay in state RUNNING.
        grace_period: Seconds without a heartbeat after which a trial is dead, at least twice the
            interval. None: ten times the interval, 10 minutes by default.
        max_retry: How often the trial of a dead worker is enqueued again, at least 0. It is
            bounded because the trial itself may be what kills its workers.

    Returns:
        The storage, for ``optuna.create_study(storage=...)``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``url`` is malformed, names an unknown database or SQLite in memory, or a
            number is out of range.
        ImportError: If the database's driver is not installed.
        FileNotFoundError: If the directory of the SQLite file does not exist.
        PermissionError: If the SQLite file cannot be written.
        ConnectionError: If the database cannot be reached or used for another reason.
    """
    heartbeat = _heartbeat_arguments(heartbeat_interval, grace_period, max_retry)
    target = with_driver(parse_url(url))
    check_driver(target)
    if target.get_backend_name() == "sqlite":
        _check_directory(target)
    storage = _open(target, heartbeat)
    if target.get_backend_name() == "sqlite":
        _check_writable(storage, target)
    return storage


def _heartbeat_arguments(
    heartbeat_interval: int | None, grace_period: int | None, max_retry: int
) -> dict[str, Any]:
    """Check the heartbeat arguments and fill in the default."""
    _check_integer("max_retry", max_retry, 0)
    if heartbeat_interval is None:
        if grace_period is not None:
            raise ValueError(
                f"`grace_period` must be None without a `heartbeat_interval`, but got "
                f"{grace_period!r}."
            )
        return {"max_retry": max_retry}
    _check_integer("heartbeat_interval", heartbeat_interval, 1)
    if grace_period is None:
        grace_period = _GRACE_INTERVALS * heartbeat_interval
    _check_integer("grace_period", grace_period, 2 * heartbeat_interval)
    return {
        "heartbeat_interval": heartbeat_interval,
        "grace_period": grace_period,
        "max_retry": max_retry,
    }


def _check_integer(name: str, value: object, least: int) -> None:
    """Raise an error unless the value is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an integer, but got {value!r}.")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}, but got {value}.")


def _check_directory(url: URL) -> None:
    """Raise an error if a SQLite database has no file or no directory to hold one."""
    database = url.database
    if not database or database == ":memory:":
        raise ValueError(
            "`url` must name a file, but got a SQLite database in memory, which neither threads "
            "nor processes can share: create the study without a storage instead."
        )
    directory = Path(database).absolute().parent
    if not database.startswith("file:") and not directory.is_dir():
        raise FileNotFoundError(
            f"`url` is a SQLite file in the directory {directory}, which does not exist: "
            "create it first."
        )


def _engine_arguments(url: URL) -> dict[str, Any]:
    """Return the arguments of ``sqlalchemy.create_engine`` for a database."""
    if url.get_backend_name() == "sqlite":
        timeout = {} if "timeout" in url.query else {"timeout": _SQLITE_TIMEOUT}
        return {"connect_args": timeout}
    pool = {
        "pool_pre_ping": True,
        "pool_recycle": _POOL_RECYCLE,
        "pool_size": 2,
        "max_overflow": 8,
    }
    if url.get_driver_name() not in {name for drivers in DRIVERS.values() for name, _ in drivers}:
        return pool
    defaults = {"connect_timeout": _CONNECT_TIMEOUT, **_silence_arguments(url)}
    given = {name: value for name, value in defaults.items() if name not in url.query}
    return {**pool, "connect_args": given}


def _silence_arguments(url: URL) -> dict[str, int]:
    """Return the driver's arguments that end a connection whose other side went silent."""
    if url.get_backend_name() == "mysql":
        return {"read_timeout": _SILENCE, "write_timeout": _SILENCE}
    return {
        "keepalives_idle": _SILENCE // 2,
        "keepalives_interval": _SILENCE // 8,
        "keepalives_count": 4,
        "tcp_user_timeout": 1000 * _SILENCE,  # milliseconds
    }


def _open(url: URL, heartbeat: dict[str, Any]) -> RDBStorage:
    """Open the storage; if another worker creates the tables just now, try again."""
    # RDBStorage formats its URL: a brace in a file name is not a field.
    text = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    attempt = 1
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return SharedStorage(text, _engine_arguments(url), **heartbeat)
        except (StorageInternalError, exc.SQLAlchemyError) as error:
            if attempt == _TABLE_CREATION_ATTEMPTS or not _is_creation_race(error):
                raise _connection_error(error, url) from None
        attempt += 1
        time.sleep(random.uniform(0.1, 0.5))


def _is_creation_race(error: BaseException) -> bool:
    """Tell whether the tables could not be created because another worker created them."""
    cause = error if isinstance(error, exc.SQLAlchemyError) else error.__cause__
    return isinstance(cause, (exc.IntegrityError, exc.ProgrammingError)) or (
        isinstance(cause, exc.DBAPIError) and "already exists" in str(cause.orig)
    )


def _check_writable(storage: RDBStorage, url: URL) -> None:
    """Raise an error unless SQLite can write its file: reading alone opens it."""
    try:
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("UPDATE studies SET study_name = study_name WHERE 0")
            connection.rollback()
    except (Outage, Refusal, exc.SQLAlchemyError) as error:
        raise _connection_error(error, url) from None


def _connection_error(error: BaseException, url: URL) -> OSError:
    """Describe a failure of the database without any part of the password."""
    reason = driver_message(error, url)
    message = f"`url`: cannot use the database {shown(url)} ({reason})."
    if url.get_backend_name() != "sqlite":
        return ConnectionError(f"{message} Is the server running, and the URL right?")
    if "readonly" in reason or "unable to open" in reason:
        return PermissionError(f"{message} Is the file writable, and its directory, too?")
    return ConnectionError(message)
