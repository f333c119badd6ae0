"""Several objectives and constraints."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna._hypervolume import compute_hypervolume
from optuna.samplers import BaseSampler, NSGAIISampler

from optuna_biotune import BioTuneSampler, FineTuningPlan, suggest_plan

BLOCKS = ("stem", "layer1", "layer2", "fc")
PARAMETERS = {"stem": 1.0, "layer1": 4.0, "layer2": 16.0, "fc": 2.0}
N_SEEDS = 10


def zdt(kind: int, n_variables: int) -> Callable[[optuna.Trial], tuple[float, float]]:
    """Return ZDT1 (convex front) or ZDT2 (concave front); Zitzler, Deb, Thiele, 2000."""

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        x = [trial.suggest_float(f"x{i:02d}", 0.0, 1.0) for i in range(n_variables)]
        g = 1.0 + 9.0 * sum(x[1:]) / (n_variables - 1)
        ratio = x[0] / g
        return x[0], g * (1.0 - (ratio**0.5 if kind == 1 else ratio**2))

    return objective


def hypervolume(study: optuna.Study, reference: tuple[float, float]) -> float:
    values = np.asarray([trial.values for trial in study.trials])
    inside = values[np.all(values < reference, axis=1)]
    return float(compute_hypervolume(inside, np.asarray(reference)))


@pytest.mark.parametrize("n_variables", [8, pytest.param(15, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [1, 2])
def test_the_hypervolume_is_at_least_that_of_nsga_ii(kind: int, n_variables: int) -> None:
    def mean(sampler: Callable[[int], BaseSampler]) -> float:
        volumes = []
        for seed in range(N_SEEDS):
            study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler(seed))
            study.optimize(zdt(kind, n_variables), n_trials=200)
            volumes.append(hypervolume(study, (1.1, 11.0)))
        return float(np.mean(volumes))

    assert mean(lambda seed: BioTuneSampler.paper(seed=seed)) >= mean(
        lambda seed: NSGAIISampler(seed=seed)
    )


def set_constraint(trial: optuna.Trial, value: float) -> None:
    """Set a constraint as the installed Optuna does: by a key from 5.0 on, in a list before."""
    if hasattr(trial, "set_constraint"):
        trial.set_constraint("parameters", value)
    else:
        trial.storage.set_trial_system_attr(trial._trial_id, "constraints", [value])


def tuned_parameters(plan: FineTuningPlan) -> float:
    return sum(PARAMETERS[name] for name in plan.trainable)


def accuracy(plan: FineTuningPlan) -> float:
    """Score a plan in (0, 1): each block is best tuned at its base rate, and more so the larger."""
    gains = [
        np.log1p(PARAMETERS[name]) * np.exp(-abs(np.log10(plan.multipliers[name])))
        for name in plan.trainable
    ]
    return float(sum(gains) / sum(np.log1p(list(PARAMETERS.values()))))


def test_constraints_drive_the_search_into_the_feasible_region() -> None:
    def objective(trial: optuna.Trial) -> float:
        plan = suggest_plan(trial, BLOCKS)
        set_constraint(trial, tuned_parameters(plan) - 7.0)
        return accuracy(plan)

    def is_feasible(trial: optuna.trial.FrozenTrial) -> bool:
        return tuned_parameters(FineTuningPlan.from_trial(trial)) <= 7.0

    for seed in range(5):
        study = optuna.create_study(direction="maximize", sampler=BioTuneSampler.paper(seed=seed))
        study.optimize(objective, n_trials=75)
        first, last = study.trials[:10], study.trials[-26:]
        assert sum(map(is_feasible, last)) / 26 > sum(map(is_feasible, first)) / 10
        best = [max(t.values[0] for t in part if is_feasible(t)) for part in (first, last)]
        assert best[1] > best[0]


def test_a_study_of_accuracy_against_parameters_covers_its_front_as_well_as_nsga_ii() -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        plan = suggest_plan(trial, BLOCKS)
        return 1.0 - accuracy(plan), tuned_parameters(plan) / sum(PARAMETERS.values())

    def mean(sampler: Callable[[int], BaseSampler]) -> float:
        volumes = []
        for seed in range(N_SEEDS):
            study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler(seed))
            study.optimize(objective, n_trials=127)
            volumes.append(hypervolume(study, (1.0, 1.1)))
        return float(np.mean(volumes))

    assert mean(lambda seed: BioTuneSampler.paper(seed=seed)) >= mean(
        lambda seed: NSGAIISampler(seed=seed)
    )


def test_evolving_towards_two_objectives_is_reproducible() -> None:
    def params(seed: int) -> list[dict[str, float]]:
        study = optuna.create_study(
            directions=["minimize"] * 2, sampler=BioTuneSampler.paper(seed=seed)
        )
        study.optimize(zdt(1, 5), n_trials=60)
        return [trial.params for trial in study.trials]

    assert params(0) == params(0) != params(1)
