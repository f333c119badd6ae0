"""Waiting for a database that is away for a while: restarted, cut off, or busy."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy import exc
from sqlalchemy.engine import URL

from optuna_biotune.database_errors import Busy, Refusal, advice, driver_message, is_passing
from optuna_biotune.database_url import shown

_logger = logging.getLogger(__name__)

LONGEST_OUTAGE = 300.0
"""Seconds that an operation waits for the database before it gives up."""

_FIRST_PAUSE = 0.1  # seconds
_LONGEST_PAUSE = 5.0

T = TypeVar("T")


class Patience:
    """Repeats operations on a database until it answers, for all threads of a process.

    Logs one line when the database goes away and one when it is back. Once an outage has outlasted
    :data:`LONGEST_OUTAGE`, operations are tried once only, until one of them succeeds.

    Args:
        url: The database, for messages.
    """

    def __init__(self, url: URL) -> None:
        self._url = url
        self._away_since: float | None = None
        self._last_failure: float | None = None
        self._lock = threading.Lock()

    def call(self, operation: Callable[[bool], T]) -> T:
        """Return the result of an operation, which is repeated while the database is away.

        Args:
            operation: Called with False at first and with True when repeated: the attempt before
                may have changed the database although its answer was lost.

        Raises:
            StorageInternalError: If the operation fails for good, or the outage lasts too long.
        """
        began = time.monotonic()
        pause = _FIRST_PAUSE
        repeated = False
        while True:
            try:
                result = operation(repeated)
            except Exception as error:
                if not _is_database_error(error):
                    raise
                if not is_passing(error):
                    raise self._refused(error) from None
                if self._note_failure(error, began) > LONGEST_OUTAGE:
                    raise self._given_up(error) from None
            else:
                self._note_success()
                return result
            # Many workers must not all come back in the same instant.
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)
            repeated = True

    def seconds_since_failure(self) -> float:
        """Return how long ago an operation failed because the database was away."""
        last = self._last_failure
        return float("inf") if last is None else time.monotonic() - last

    def _note_failure(self, error: BaseException, began: float) -> float:
        """Return for how many seconds the database has been away, or the operation failing."""
        if isinstance(error, Busy):
            _logger.info("Trying again (%s).", driver_message(error, self._url))
            return time.monotonic() - began
        with self._lock:
            self._last_failure = time.monotonic()
            if self._away_since is None:
                self._away_since = self._last_failure
                _logger.warning(
                    "The database %s is away (%s); waiting for it, for up to %.0f seconds.",
                    shown(self._url),
                    driver_message(error, self._url),
                    LONGEST_OUTAGE,
                )
            return self._last_failure - min(self._away_since, began)

    def _note_success(self) -> None:
        if self._away_since is None:
            return
        with self._lock:
            if self._away_since is not None:
                seconds = time.monotonic() - self._away_since
                self._away_since = None
                _logger.warning(
                    "The database %s is back after %.1f seconds.", shown(self._url), seconds
                )

    def _refused(self, error: BaseException) -> StorageInternalError:
        reason = driver_message(error, self._url)
        return StorageInternalError(
            f"The database {shown(self._url)} cannot be used any more ({reason}). "
            f"{advice(reason, self._url.get_backend_name())}"
        )

    def _given_up(self, error: BaseException) -> StorageInternalError:
        state = "been busy" if isinstance(error, Busy) else "been away"
        return StorageInternalError(
            f"The database {shown(self._url)} has {state} for more than {LONGEST_OUTAGE:.0f} "
            f"seconds ({driver_message(error, self._url)}). Once it answers, resume the study."
        )


def _is_database_error(error: Exception) -> bool:
    if isinstance(error, (exc.SQLAlchemyError, Refusal)) or is_passing(error):
        return True
    # An operation inside this one that gave up has said all there is to say.
    return isinstance(error, StorageInternalError) and error.__cause__ is not None
