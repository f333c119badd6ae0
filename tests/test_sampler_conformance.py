"""Optuna's own conformance suites, and ports of its tests for samplers with a seed."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import Trial

from optuna_biotune import BioTuneSampler


class TestConformance(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: BioTuneSampler(population_size=4, elite_size=2)


class TestConformanceOfThePapersEvolution(
    BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase
):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: BioTuneSampler.paper(population_size=4, elite_size=2)


def mixed_objective(trial: Trial) -> float:
    a = trial.suggest_float("a", 1, 9)
    b = trial.suggest_float("b", 1, 9, log=True)
    c = trial.suggest_float("c", 1, 9, step=1)
    d = trial.suggest_int("d", 1, 9)
    e = trial.suggest_int("e", 1, 9, log=True)
    f = trial.suggest_int("f", 1, 9, step=2)
    g = trial.suggest_categorical("g", list(range(1, 10)))
    return a + b + c + d + e + f + g


def constant_objective(trial: Trial) -> float:
    mixed_objective(trial)
    return 0.0


def proposals(
    sampler: BaseSampler, objective: Callable[[Trial], float], n_trials: int = 30
) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=n_trials)
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("objective", [mixed_objective, constant_objective])
def test_equal_seeds_give_equal_trials_and_other_seeds_give_others(
    objective: Callable[[Trial], float],
) -> None:
    first = proposals(BioTuneSampler(seed=1), objective)
    assert first == proposals(BioTuneSampler(seed=1), objective)
    assert first != proposals(BioTuneSampler(seed=2), objective)


def test_reseeding_changes_the_proposals() -> None:
    reseeded = BioTuneSampler(seed=1)
    reseeded.reseed_rng()
    assert proposals(BioTuneSampler(seed=1), mixed_objective) != proposals(
        reseeded, mixed_objective
    )


def test_samplers_without_a_seed_differ() -> None:
    assert proposals(BioTuneSampler(), mixed_objective) != proposals(
        BioTuneSampler(), mixed_objective
    )


def _optimize_in_child(queue: multiprocessing.Queue[Any]) -> None:
    queue.put((hash("differs by process"), proposals(BioTuneSampler(seed=1), constant_objective)))


def test_equal_seeds_give_equal_trials_in_spawned_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    context = multiprocessing.get_context("spawn")
    results = []
    for _ in range(2):
        queue: multiprocessing.Queue[Any] = context.Queue()
        process = context.Process(target=_optimize_in_child, args=(queue,))
        process.start()
        results.append(queue.get(timeout=120))
        process.join()
    (hash_1, trials_1), (hash_2, trials_2) = results
    assert hash_1 != hash_2, "the processes hash strings alike, so this test shows nothing"
    assert trials_1 == trials_2 == proposals(BioTuneSampler(seed=1), constant_objective)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copied_sampler_goes_on_like_the_original(
    duplicate: Callable[[BaseSampler], BaseSampler],
) -> None:
    original = BioTuneSampler(seed=3)
    study = optuna.create_study(sampler=original)
    study.optimize(mixed_objective, n_trials=20)
    twin = copy.deepcopy(study)
    twin.sampler = duplicate(original)
    study.optimize(mixed_objective, n_trials=20)
    twin.optimize(mixed_objective, n_trials=20)
    assert [t.params for t in study.trials] == [t.params for t in twin.trials]
