"""Studies whose plots are looked at."""

from __future__ import annotations

from collections.abc import Iterator

import optuna
import pytest

from optuna_biotune import BioTuneSampler
from tests.synthetic_study import large_study, synthetic_study


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(scope="module")
def study() -> optuna.Study:
    """Four generations of the paper's evolution, maximised, with enqueued and pruned trials."""
    return synthetic_study(
        49, prunes=True, has_baselines=True, sampler=BioTuneSampler.paper(seed=0)
    )


@pytest.fixture(scope="module")
def minimised() -> optuna.Study:
    return synthetic_study(23, minimise=True)


@pytest.fixture(scope="module")
def front() -> optuna.Study:
    """Two objectives: accuracy, and trained parameters."""
    return synthetic_study(36, has_cost=True, has_baselines=True)


@pytest.fixture(scope="module")
def large() -> optuna.Study:
    return large_study(1000)
