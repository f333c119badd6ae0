"""Temporary databases for the benchmarks, and what they ran on."""

from __future__ import annotations

import os
import platform
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

STORAGES = ("memory", "sqlite", "postgresql")
POSTGRESQL_URL = os.environ.get("BIOTUNE_POSTGRESQL_URL", "postgresql://root@127.0.0.1:5432/test")


@contextmanager
def temporary_database(kind: str, postgresql: str) -> Iterator[str | None]:
    """Give the URL of an empty database, and remove the database afterwards.

    Args:
        kind: One of :data:`STORAGES`.
        postgresql: URL of a database on the PostgreSQL server, whose user may create others.

    Yields:
        The URL; None for studies in memory.
    """
    if kind == "memory":
        yield None
    elif kind == "sqlite":
        with tempfile.TemporaryDirectory() as directory:
            yield f"sqlite:///{Path(directory) / 'benchmark.db'}"
    else:
        with _postgresql_database(postgresql) as url:
            yield url


@contextmanager
def _postgresql_database(server: str) -> Iterator[str]:
    url = make_url(server)
    engine = create_engine(url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    name = f"biotune_benchmark_{uuid.uuid4().hex[:12]}"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        engine.dispose()


def environment() -> dict[str, Any]:
    """Describe the machine and the versions of what decides the figures."""
    names = ("optuna", "cmaes", "numpy", "sqlalchemy", "psycopg")
    return {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            # Other processes' load at the start; figures of one run compare, absolute ones do not.
            "load_average": round(os.getloadavg()[0], 1),
        },
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in names},
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
