"""Studies of fine-tuning plans that take no training: the value is a formula with some noise."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import optuna
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection

from optuna_biotune import BioTuneSampler, FineTuningPlan, suggest_plan
from optuna_biotune.tags import generation_of

PARAMETERS = {
    "stem": 9_536,
    "layer1": 215_808,
    "layer2": 1_219_584,
    "layer3": 7_098_368,
    "layer4": 14_964_736,
    "fc": 20_490,
}
BLOCKS = tuple(PARAMETERS)
LR = 1e-3
N_EPOCHS = 4


def accuracy(plan: FineTuningPlan, seed: int) -> float:
    """Deep blocks should be trained, and faster than the first ones."""
    noise = random.Random(seed).gauss(0.0, 0.01)
    last = max(1, len(plan.names) - 1)
    loss = 0.0
    for block, rate in enumerate(plan.multipliers.values()):
        depth = block / last
        if rate == 0.0:
            loss += 0.1 * depth
        else:
            loss += 0.05 * (math.log10(rate) - (1.4 * depth - 0.8)) ** 2
    return 0.9 - loss + noise


class SyntheticObjective:
    """Writes the attributes that ``FineTuningObjective`` writes, and trains nothing.

    Returns the accuracy, or with ``minimise`` the error; with ``has_cost`` the number of trained
    parameters beside it. With one value it reports to the study's pruner.
    """

    def __init__(
        self,
        blocks: Sequence[str] = BLOCKS,
        *,
        minimise: bool = False,
        has_cost: bool = False,
    ) -> None:
        self._blocks = tuple(blocks)
        self._minimise = minimise
        self._has_cost = has_cost

    def __call__(self, trial: optuna.Trial) -> float | tuple[float, float]:
        plan = suggest_plan(trial, self._blocks)
        for name, rate in plan.learning_rates(LR).items():
            trial.set_user_attr(f"lr/{name}", rate)
        n_parameters = sum(PARAMETERS.get(name, 1_000_000) for name in plan.trainable)
        trial.set_user_attr("mask", plan.mask)
        trial.set_user_attr("generation", generation_of(trial))
        trial.set_user_attr("trainable_params", n_parameters)
        trial.set_user_attr("seconds", round(20.0 + n_parameters / 1e6, 3))
        trial.set_user_attr("best_epoch", 3.0)
        trial.set_user_attr("val_std", 0.01)
        value = accuracy(plan, trial.number)
        if self._has_cost:
            return value, float(n_parameters)
        for epoch in range(N_EPOCHS):
            so_far = value * (1.0 - 0.5 ** (epoch + 1))
            trial.report(1.0 - so_far if self._minimise else so_far, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned()
        return 1.0 - value if self._minimise else value


def synthetic_study(
    n_trials: int,
    *,
    blocks: Sequence[str] = BLOCKS,
    minimise: bool = False,
    has_cost: bool = False,
    prunes: bool = False,
    has_baselines: bool = False,
    sampler: BaseSampler | None = None,
) -> optuna.Study:
    """Run a study of plans."""
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if prunes:
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1)
    first = StudyDirection.MINIMIZE if minimise else StudyDirection.MAXIMIZE
    study = optuna.create_study(
        directions=[first, StudyDirection.MINIMIZE] if has_cost else [first],
        sampler=sampler if sampler is not None else BioTuneSampler(seed=0),
        pruner=pruner,
    )
    if has_baselines:
        study.enqueue_trial(FineTuningPlan.full(blocks).to_params())
        study.enqueue_trial(FineTuningPlan.linear_probe(blocks).to_params())
    objective = SyntheticObjective(blocks, minimise=minimise, has_cost=has_cost)
    study.optimize(objective, n_trials=n_trials)
    return study


def large_study(n_trials: int) -> optuna.Study:
    """Return a study of many trials in generations of ten, each with two parents, unevolved."""
    rng = random.Random(0)
    names = [f"importance/blocks.{block}" for block in range(12)] + ["freeze_threshold"]
    unit = optuna.distributions.FloatDistribution(0.0, 1.0)
    trials = []
    for number in range(n_trials):
        generation = number // 10
        parents = [] if generation == 0 else rng.sample(range(10 * generation), 2)
        role = "offspring" if parents else "initial"
        tag = {"generation": generation, "role": role, "parents": parents, "trial": number}
        params = {name: rng.random() for name in names}
        params["freeze_threshold"] *= 0.5
        trials.append(
            optuna.trial.create_trial(
                value=rng.random(),
                params=params,
                distributions=dict.fromkeys(names, unit),
                user_attrs={"trainable_params": rng.randrange(10**7), "seconds": rng.random()},
                system_attrs={"biotune": tag},
            )
        )
    study = optuna.create_study(direction="maximize", sampler=BioTuneSampler(seed=0))
    study.add_trials(trials)
    return study
