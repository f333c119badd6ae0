"""URLs of databases: reading them, choosing a driver, and showing them without passwords."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url

# Per database: (SQLAlchemy driver, importable module), the preferred one first.
DRIVERS = {
    "postgresql": (("psycopg", "psycopg"), ("psycopg2", "psycopg2")),
    "mysql": (("pymysql", "pymysql"), ("mysqldb", "MySQLdb")),
}
_EXTRAS = {"postgresql": "postgresql", "mysql": "mariadb"}
# Optuna has no code for SQLAlchemy's name "mariadb", and runs MariaDB under "mysql".
_SYNONYMS = {"mariadb": "mysql", "postgres": "postgresql"}

_URL_FORM = (
    "a SQLite file or a URL `dialect://user:password@host:port/database` in which special "
    "characters of the user name and the password are percent-encoded (`@` as `%40`)"
)


def parse_url(url: str | os.PathLike[str] | URL) -> URL:
    """Return the URL of a SQLite file or a database.

    No error shows what was given: a part of it, at any place, may be a password.
    """
    if isinstance(url, URL):
        return url
    if isinstance(url, os.PathLike):
        return _sqlite_url(Path(url))
    if not isinstance(url, str):
        raise TypeError(f"`url` must be a string, a path or a URL, but got {type(url).__name__}.")
    if not url.strip():
        raise ValueError(f"`url` must be {_URL_FORM}, but it is empty.")
    if "://" not in url:
        if ":" in url.partition("@")[0] and "@" in url:
            raise ValueError(f"`url` must be {_URL_FORM}, but got a string without `://`.")
        return _sqlite_url(Path(url))
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise ValueError(f"`url` must be {_URL_FORM}, but it cannot be read.") from None
    if parsed.get_backend_name() != "sqlite" and url.count("@") > 1:
        raise ValueError(f"`url` must be {_URL_FORM}, but it contains `@` more than once.")
    return parsed


def _sqlite_url(path: Path) -> URL:
    """Return the URL of a SQLite file."""
    return URL.create("sqlite", database=str(path))


def with_driver(url: URL) -> URL:
    """Put the names of Optuna's database and of an installed driver into the URL."""
    backend, _, driver = url.drivername.partition("+")
    backend = _SYNONYMS.get(backend, backend)
    if not driver and backend in DRIVERS:
        installed = [name for name, module in DRIVERS[backend] if find_spec(module)]
        if not installed:
            raise ImportError(_missing_driver(url))
        driver = installed[0]
    return url.set(drivername=f"{backend}+{driver}" if driver else backend)


def check_driver(url: URL) -> None:
    """Raise an error if SQLAlchemy does not know the database, or its driver is missing."""
    try:
        url.get_dialect().import_dbapi()
    except exc.NoSuchModuleError:
        raise ValueError(
            "`url` must name a database that SQLAlchemy knows (sqlite, postgresql, mysql, "
            f"mariadb, ...), but got {url.drivername!r}."
        ) from None
    except ImportError:
        raise ImportError(_missing_driver(url)) from None


def _missing_driver(url: URL) -> str:
    """Say how to install the driver of a URL."""
    backend = url.get_backend_name()
    message = f"`url` needs a Python driver for {url.drivername!r}, which is not installed"
    extra = _EXTRAS.get(_SYNONYMS.get(backend, backend))
    if extra is None:
        return f"{message}."
    return (
        f'{message}: pip install "optuna-biotune[{extra}]" brings one, and a URL that names no '
        f"driver (`{backend}://...`) takes it."
    )


def shown(url: URL) -> str:
    """Return the URL for a message: without the query, which may hold passwords, too."""
    return url.set(query={}).render_as_string(hide_password=True)
