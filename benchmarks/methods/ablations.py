"""BioTune with a part left out or changed.

What concerns the training varies BioTune with its defaults, what concerns the operators of the
evolution varies that of the paper: the default has none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import optuna
import torch
from optuna.samplers import BaseSampler

from methods.method import LEARNING_RATES, Constants, Groups, Method
from methods.plans import BIOTUNE, BIOTUNE_PAPER, suggest_genes
from optuna_biotune import BioTuneSampler, suggest_plan
from optuna_biotune.evolution import FloatArray
from optuna_biotune.genotype import IMPORTANCE_PREFIX

# Momentum at Adam's learning rates would hardly move: its steps are those of the gradient.
_RATE_OF_MOMENTUM = 10.0

# The paper draws a momentum of the genes, and gives it no weight.
_MEMORY = 0.5


def _all_selected(trial: optuna.Trial, names: Sequence[str]) -> dict[str, Any]:
    importance = {
        name: trial.suggest_float(f"{IMPORTANCE_PREFIX}{name}", 0.0, 1.0) for name in names
    }
    return {"multipliers": {name: 10 ** (2 * (v - 0.5)) for name, v in importance.items()}}


def _freezing_only(trial: optuna.Trial, names: Sequence[str]) -> dict[str, Any]:
    plan = suggest_plan(trial, names)
    return {"multipliers": {name: float(rate > 0) for name, rate in plan.multipliers.items()}}


def _rate_too(trial: optuna.Trial, names: Sequence[str]) -> dict[str, Any]:
    lr = trial.suggest_float("lr", *LEARNING_RATES, log=True)
    return {**suggest_genes(trial, names), "lr": lr}


def _momentum(groups: Groups, constants: Constants) -> torch.optim.Optimizer:
    scaled = [{**group, "lr": _RATE_OF_MOMENTUM * group["lr"]} for group in groups]
    return torch.optim.SGD(
        scaled,
        lr=_RATE_OF_MOMENTUM * constants["lr"],
        momentum=0.9,
        weight_decay=constants["weight_decay"],
    )


def _population(seed: int, size: int) -> BaseSampler:
    return BioTuneSampler.paper(seed=seed, population_size=size)


def _remembering(seed: int) -> BaseSampler:
    return BioTuneSampler.paper(seed=seed, momentum=_MEMORY)


def _no_pair(*arguments: Any) -> None:
    """Take the place of ``elite_pair``: no elite has a step to exploit."""


def _stay(
    rng: np.random.Generator, genes: FloatArray, parents_mean: FloatArray, prototype: FloatArray
) -> FloatArray:
    """Take the place of ``adopt``: an offspring adopts nothing."""
    return genes


def _varied(base: Method, name: str, **changes: Any) -> Method:
    return replace(base, name=f"{base.name}: {name}", **changes)


def _searched(base: Method, name: str, **changes: Any) -> Method:
    return _varied(base, name, search=replace(base.search, **changes))


VARIANTS: tuple[Method, ...] = (
    BIOTUNE,
    _varied(BIOTUNE, "no freezing", suggest=_all_selected),
    _varied(BIOTUNE, "freezing only", suggest=_freezing_only),
    _varied(BIOTUNE, "base learning rate searched too", suggest=_rate_too),
    _varied(BIOTUNE, "momentum for Adam", optimizer=_momentum),
    _searched(BIOTUNE, "one seed", seeds=1),
    _searched(BIOTUNE, "three seeds", seeds=3),
    # A generation of the default is one of the paper's size, so that folds change as often.
    _searched(BIOTUNE, "5 folds", folds=5),
    BIOTUNE_PAPER,
    _searched(BIOTUNE_PAPER, "no elite exploitation", operators={"elite_pair": _no_pair}),
    _searched(BIOTUNE_PAPER, "no adoption", operators={"adopt": _stay}),
    _searched(BIOTUNE_PAPER, "momentum of the genes", sampler=_remembering),
    _searched(BIOTUNE_PAPER, "5 folds", folds=5),
    _searched(BIOTUNE_PAPER, "population 5", sampler=partial(_population, size=5)),
    _searched(BIOTUNE_PAPER, "population 20", sampler=partial(_population, size=20)),
)
"""The variants, each base before what it is compared with."""


def base_of(name: str) -> str:
    """Return the name of what a variant is compared with; BioTune's is itself.

    Args:
        name: Name of a variant. That of the paper's evolution is compared with BioTune.
    """
    base, colon, _ = name.partition(":")
    return base if colon else BIOTUNE.name
