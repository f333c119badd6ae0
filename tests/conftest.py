"""Options and fixtures for tests that need more than a CPU: a server, a GPU, a browser, time."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest
from sqlalchemy import create_engine, exc
from sqlalchemy.engine import make_url

POSTGRESQL_URL = os.environ.get("BIOTUNE_POSTGRESQL_URL", "postgresql://root@127.0.0.1:5432/test")
MARIADB_URL = os.environ.get("BIOTUNE_MARIADB_URL", "mariadb://root@127.0.0.1:3306/test")
REDIS_URL = os.environ.get("BIOTUNE_REDIS_URL", "redis://127.0.0.1:6379/15")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run the tests marked slow, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wants_slow = config.getoption("--run-slow") or "slow" in config.getoption("-m")
    for item in items:
        reason = None
        if item.get_closest_marker("slow") and not wants_slow:
            reason = "slow: run it with --run-slow or -m slow"
        elif item.get_closest_marker("cuda") and not _has_cuda():
            reason = "no CUDA device"
        elif item.get_closest_marker("browser") and not any(map(shutil.which, BROWSERS)):
            reason = f"no browser: none of {', '.join(BROWSERS)} is on the PATH"
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


def _has_cuda() -> bool:
    # Torch is imported only where a test asks for a GPU: the sampler's tests run without it.
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def _service_is_missing(reason: str) -> NoReturn:
    if os.environ.get("BIOTUNE_REQUIRE_SERVICES") == "1":
        pytest.fail(f"BIOTUNE_REQUIRE_SERVICES=1, but {reason}", pytrace=False)
    pytest.skip(reason)


@contextmanager
def _new_database(server_url: str, drivername: str) -> Iterator[str]:
    """Create a database of a unique name and give its URL without the driver's name."""
    server = make_url(server_url)
    shown = server.render_as_string(hide_password=True)
    try:
        engine = create_engine(
            server.set(drivername=drivername),
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": 3},
        )
    except ImportError as error:
        _service_is_missing(f"the driver of {shown} is not installed: {error}")
    name = f"biotune_test_{uuid.uuid4().hex[:12]}"
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
    except exc.OperationalError as error:
        _service_is_missing(f"no server answers at {shown}: {error.orig}")
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        # PostgreSQL refuses to drop a database that a storage is still connected to.
        force = " WITH (FORCE)" if drivername.startswith("postgresql") else ""
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name}{force}")
        engine.dispose()


@pytest.fixture
def postgresql_url() -> Iterator[str]:
    """URL of an empty PostgreSQL database that is dropped after the test."""
    with _new_database(POSTGRESQL_URL, "postgresql+psycopg") as url:
        yield url


@pytest.fixture
def mariadb_url() -> Iterator[str]:
    """URL of an empty MariaDB database that is dropped after the test."""
    with _new_database(MARIADB_URL, "mysql+pymysql") as url:
        yield url


@pytest.fixture
def redis_url() -> Iterator[str]:
    """URL of a Redis database that is emptied before and after the test."""
    redis = pytest.importorskip("redis")
    client = redis.Redis.from_url(REDIS_URL)
    try:
        client.flushdb()
    except redis.exceptions.ConnectionError as error:
        _service_is_missing(f"no server answers at {REDIS_URL}: {error}")
    yield REDIS_URL
    client.flushdb()
