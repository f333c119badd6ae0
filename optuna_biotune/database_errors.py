"""Errors of databases: which of them pass when one waits, and what to say about the others."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from optuna.exceptions import StorageInternalError
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Engine, ExceptionContext

# PostgreSQL: SQLSTATE codes, https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRESQL_AWAY = ("08", "57P01", "57P02", "57P03", "57P05")
_POSTGRESQL_BUSY = ("40001", "40P01", "53300", "55P03")
# What the server answers a login while it starts or stops; the driver gives no code with it.
_POSTGRESQL_AWAY_WORDS = (
    "the database system is",
    "terminating connection",
    "not yet accepting connections",
    "too many clients",
    "too many connections",
    "remaining connection slots",
)

# MariaDB and MySQL: https://mariadb.com/docs/server/reference/error-codes
_MARIADB_AWAY = {
    1053,  # server shutdown in progress
    1152,  # aborted connection
    *range(1158, 1162),  # network errors
    1184,  # aborted connection
    1927,  # connection was killed
    2002,  # cannot connect through the socket
    2003,  # cannot connect
    2006,  # server has gone away
    2013,  # connection lost during a query
    2014,  # commands out of order, after a connection was lost
    2055,  # connection lost
    4031,  # disconnected by the server
}
_MARIADB_BUSY = {
    1020,  # record has changed since it was read
    1040,  # too many connections
    1047,  # Galera node not ready
    1205,  # lock wait timeout
    1213,  # deadlock
}


class Outage(Exception):
    """The database is away: the same operation may succeed later."""


class Busy(Outage):
    """The database is there, but others were in the way: the same may succeed soon."""


class Refusal(Exception):
    """The database does not do what was asked, however often one asks."""


def translate_errors(engine: Engine) -> None:
    """Let an engine raise :class:`Outage` or :class:`Refusal` for the driver's errors.

    Optuna answers a connection that broke while it created a trial by creating another one, and
    calls any other error "invalid data in the commit". It does not touch these two.
    """
    event.listen(engine, "handle_error", _translate)


def _translate(context: ExceptionContext) -> Exception | None:
    if getattr(context, "is_pre_ping", False):
        return None  # SQLAlchemy connects again
    error = context.original_exception
    if not isinstance(error, Exception):
        return None  # Ctrl-C, after which SQLAlchemy gives the connection up as if it were broken
    if context.is_disconnect or is_away(error):
        context.is_disconnect = True
        return Outage(error)
    if is_busy(error):
        return Busy(error)
    if isinstance(context.sqlalchemy_exception, exc.IntegrityError):
        return None  # Optuna takes it for another worker's success
    if (context.statement or "").startswith("SELECT"):
        return None  # Optuna asks in another way if a query had too many parameters
    return Refusal(error) if isinstance(error, _driver_errors(context)) else None


def _driver_errors(context: ExceptionContext) -> type[Exception]:
    errors: type[Exception] = context.dialect.loaded_dbapi.Error
    return errors


def is_away(error: BaseException) -> bool:
    """Tell whether a driver's error says that the connection or the server is gone for now."""
    message = str(error)
    sqlstate = _sqlstate(error)
    if sqlstate is not None:
        return sqlstate.startswith(_POSTGRESQL_AWAY)
    if type(error).__module__.startswith("psycopg") and type(error).__name__ == "OperationalError":
        # Without a code this is about the connection: either nobody answered, or a server that
        # turned the login down said FATAL.
        return "FATAL" not in message or any(word in message for word in _POSTGRESQL_AWAY_WORDS)
    return _mariadb_code(error) in _MARIADB_AWAY


def is_busy(error: BaseException) -> bool:
    """Tell whether a driver's error says that others were in the way."""
    sqlstate = _sqlstate(error)
    if sqlstate is not None:
        return sqlstate in _POSTGRESQL_BUSY
    if type(error).__module__ == "sqlite3":
        return "is locked" in str(error) or "locking protocol" in str(error)
    return _mariadb_code(error) in _MARIADB_BUSY


def _sqlstate(error: BaseException) -> str | None:
    # psycopg and psycopg2 have different names for it.
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return code if isinstance(code, str) else None


def _mariadb_code(error: BaseException) -> Any:
    if not type(error).__module__.startswith(("pymysql", "MySQLdb")):
        return None
    return error.args[0] if error.args else None


def is_passing(error: BaseException) -> bool:
    """Tell whether an operation of a translated engine failed because of an outage.

    A pool of connections that are all in use for long is one, too: they wait for the database.
    """
    return isinstance(error, Outage) or isinstance(_cause(error), exc.TimeoutError)


def _cause(error: BaseException) -> BaseException:
    if isinstance(error, (StorageInternalError, Outage, Refusal)):
        return error.__cause__ or (error.args[0] if error.args else error)
    return error


def driver_message(error: BaseException, url: URL) -> str:
    """Return the driver's message in one line, or only its type if it might show a password."""
    cause = _cause(error)
    origin = cause.orig if isinstance(cause, exc.DBAPIError) and cause.orig else cause
    if type(origin).__module__.startswith("pymysql") and len(origin.args) == 2:
        origin_text = str(origin.args[1])
    else:
        origin_text = str(origin)
    message = " ".join(origin_text.split()).rstrip(".") or type(origin).__name__
    secrets = [] if url.password is None else [str(url.password)]
    for key, values in url.normalized_query.items():
        secrets += values if "pass" in key.lower() else ()
    if any(secret and (secret in message or quote(secret) in message) for secret in secrets):
        return type(origin).__name__
    return message


def advice(reason: str, backend: str) -> str:
    """Say what to do about an error that does not pass, given the driver's message."""
    if "disk is full" in reason or "No space left" in reason or "disk full" in reason.lower():
        return "Free space on its disk, then resume the study."
    if backend == "sqlite" and ("readonly" in reason or "unable to open" in reason):
        return "Make the file and its directory writable, then resume the study."
    return "Repair it, then resume the study."
