"""The warning that several processes write to one SQLite file."""

from __future__ import annotations

import logging
import os
from datetime import datetime

from optuna.storages import RDBStorage
from sqlalchemy import func, select

from optuna_biotune import _compat
from optuna_biotune.database_url import shown

_logger = logging.getLogger(__name__)

# Storages opened twice in a process are no reason to warn: the process is what counts.
_started: set[tuple[int, str, int]] = set()


class SharingWatch:
    """Warns once, in a process whose SQLite file another process writes to at the same time.

    That is seen by a trial that has shown signs of life since this process began to look, and that
    this process has not started. Other databases are meant to be shared: it is silent.

    Args:
        storage: The storage, with heartbeats.
    """

    def __init__(self, storage: RDBStorage) -> None:
        self._storage = storage
        self._url = storage.engine.url
        self._silent = self._url.get_backend_name() != "sqlite"
        self._began: datetime | None = None

    def started(self, trial_id: int) -> None:
        """Take note of a trial that this process starts."""
        if not self._silent:
            _started.add(self._key(trial_id))

    def look(self, study_id: int) -> None:
        """Warn if a trial of a study runs in another process."""
        if self._silent:
            return
        if self._began is None:
            self._began = self._now()
        with _compat.rdb_session(self._storage) as session:
            alive = _compat.running_trials_alive_since(session, study_id, self._began)
        if all(self._key(trial_id) in _started for trial_id in alive):
            return
        self._silent = True
        _logger.warning(
            "Another process works on the studies of %s, too. In a SQLite file one process writes "
            "while the others wait: for more than a few, or on several machines, take PostgreSQL "
            "or MariaDB by a URL such as postgresql://user:password@host/database. On a network "
            "file system the file may break.",
            shown(self._url),
        )

    def _key(self, trial_id: int) -> tuple[int, str, int]:
        return os.getpid(), str(self._url), trial_id

    def _now(self) -> datetime:
        """Return the database's time, which heartbeats are stamped with."""
        with self._storage.engine.connect() as connection:
            now: datetime = connection.execute(select(func.now())).scalar_one()
        return now
