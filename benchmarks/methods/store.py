"""The SQLite file of all finished cells, which workers share.

A worker claims a cell by writing its row in one transaction. The claim of a process that no longer
runs is void, so a run that was killed goes on with the same command. All workers run on one
machine.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil

_SECONDS_TO_WAIT = 60.0
_SECONDS_OF_CLOCK = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS cells (
    key TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('running', 'finished', 'failed')),
    pid INTEGER NOT NULL,
    process_start REAL NOT NULL,
    record TEXT
)
"""


class CellStore:
    """The cells of a results file.

    Args:
        path: The SQLite file; made if there is none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._transaction() as connection:
            connection.execute(_SCHEMA)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the file's write lock inside the block, and commit at its end."""
        # Transactions are begun here, not by the module.
        connection = sqlite3.connect(self._path, timeout=_SECONDS_TO_WAIT, isolation_level=None)
        with closing(connection):
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def claim(self, keys: Iterable[str]) -> str | None:
        """Claim the first cell that is neither finished, failed, nor run by a living process.

        Args:
            keys: Keys of the cells, in order.

        Returns:
            Its key; None if there is none left.
        """
        pid, start = _identity(psutil.Process())
        with self._transaction() as connection:
            rows = connection.execute("SELECT key, state, pid, process_start FROM cells")
            taken = {key for key, state, *owner in rows if state != "running" or _lives(*owner)}
            for key in keys:
                if key not in taken:
                    connection.execute(
                        "INSERT OR REPLACE INTO cells VALUES (?, 'running', ?, ?, NULL)",
                        (key, pid, start),
                    )
                    return key
        return None

    def finish(self, key: str, record: Mapping[str, Any]) -> None:
        """Store what a claimed cell came to."""
        self._end(key, "finished", record)

    def fail(self, key: str, record: Mapping[str, Any]) -> None:
        """Store why a claimed cell could not be run."""
        self._end(key, "failed", record)

    def _end(self, key: str, state: str, record: Mapping[str, Any]) -> None:
        with self._transaction() as connection:
            connection.execute(
                "UPDATE cells SET state = ?, record = ? WHERE key = ?",
                (state, json.dumps(record), key),
            )

    def forget_failed(self, keys: Iterable[str]) -> None:
        """Let cells that failed be claimed once more."""
        with self._transaction() as connection:
            connection.executemany(
                "DELETE FROM cells WHERE key = ? AND state = 'failed'", [(key,) for key in keys]
            )

    def records(self, keys: Iterable[str], state: str = "finished") -> list[dict[str, Any]]:
        """Return what cells came to, in the order of their keys.

        Args:
            keys: Keys of the cells; those in another state are left out.
            state: ``"finished"`` or ``"failed"``.
        """
        with self._transaction() as connection:
            found = dict(
                connection.execute("SELECT key, record FROM cells WHERE state = ?", (state,))
            )
        return [json.loads(found[key]) for key in keys if key in found]


def _identity(process: psutil.Process) -> tuple[int, float]:
    """Return what tells a process from all others of this machine: numbers are used again."""
    return process.pid, process.create_time()


def _lives(pid: int, start: float) -> bool:
    """Tell whether a process still runs."""
    try:
        process = psutil.Process(pid)
        # The time is computed from the clock, which may have been set since.
        same = abs(process.create_time() - start) < _SECONDS_OF_CLOCK
        return same and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
