"""Methods that search the plan: BioTune, the evolution of its paper, and TPE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.pruners import BasePruner, MedianPruner
from optuna.samplers import BaseSampler

from methods.method import Constants, Method, Search, Stage, tpe, whole_training
from optuna_biotune import BioTuneSampler, FineTuningPlan, best_trial, suggest_plan

_BIOTUNE = (
    "Davila, Colan, Hasegawa, Bio-Inspired Fine-Tuning for Selective Transfer Learning in Image "
    "Classification, IEEE Access 13, 2025"
)


def plan_stages(names: Sequence[str], constants: Constants, epochs: int) -> tuple[Stage, ...]:
    """Return the one stage of a plan that is among the constants, as ``multipliers``."""
    return whole_training(FineTuningPlan(constants["multipliers"]), epochs)


def suggest_genes(trial: optuna.Trial, names: Sequence[str]) -> dict[str, Any]:
    """Suggest a plan by importances and a threshold."""
    return {"multipliers": dict(suggest_plan(trial, names).multipliers)}


def _suggest_flags(trial: optuna.Trial, names: Sequence[str]) -> dict[str, Any]:
    """Suggest a plan by a flag and a multiplier for each block, as one would write it."""
    multipliers = {}
    for name in names:
        frozen = trial.suggest_categorical(f"freeze/{name}", [True, False])
        rate = 0.0 if frozen else trial.suggest_float(f"multiplier/{name}", 0.1, 10.0, log=True)
        multipliers[name] = rate
    return {"multipliers": multipliers}


def evolved(seed: int) -> BaseSampler:
    """Return BioTune's sampler with its defaults."""
    return BioTuneSampler(seed=seed)


def evolved_as_in_the_paper(seed: int) -> BaseSampler:
    """Return BioTune's sampler as the paper has it."""
    return BioTuneSampler.paper(seed=seed)


def _median() -> BasePruner:
    return MedianPruner(n_startup_trials=10, n_warmup_steps=3)


BIOTUNE = Method(
    name="BioTune",
    citation=f"{_BIOTUNE}; prescreened and recommended by all trials, as optuna-biotune does",
    stages=plan_stages,
    suggest=suggest_genes,
    searches_plans=True,
    search=Search(sampler=evolved, recommend=best_trial),
)

BIOTUNE_PAPER = Method(
    name="BioTune, paper",
    citation=_BIOTUNE,
    stages=plan_stages,
    suggest=suggest_genes,
    searches_plans=True,
    search=Search(sampler=evolved_as_in_the_paper),
)

TPE_PLANS = Method(
    name="TPE",
    citation="Bergstra, Bardenet, Bengio, Kegl, Algorithms for Hyper-Parameter Optimization, "
    "NeurIPS 2011; over a freezing flag and a learning-rate multiplier for each block",
    stages=plan_stages,
    suggest=_suggest_flags,
    searches_plans=True,
    search=Search(sampler=tpe, pruner=_median),
)
