"""What a way to fine-tune is: what trains when, and which constants are chosen how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import optuna
import torch
from optuna.pruners import BasePruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial
from torch import Tensor

from optuna_biotune import BlockPartition, FineTuningPlan

Constants = Mapping[str, Any]
"""What a training needs to know, by name: ``lr``, ``weight_decay`` and the method's own."""

Groups = list[dict[str, Any]]
"""Parameter groups of an optimizer, one for each trained block, the input side first."""

LEARNING_RATES = (1e-4, 1e-1)
"""Range of the base learning rates that are searched, on a logarithmic scale."""

WEIGHT_DECAYS = (1e-6, 1e-2)
"""Range of the weight decays that are searched, on a logarithmic scale."""

# As in `pruner_study.py`, which recommends it.
_WARM_UP_EPOCHS = 3


@dataclass(frozen=True)
class Stage:
    """What trains for some epochs.

    Attributes:
        plan: The blocks that train, and the multiples of the base learning rate.
        epochs: For how many epochs, at least 1.
        restart: Whether a new optimizer and a cosine schedule of its own begin with this stage.
            Otherwise both go on, over all stages up to the next restart; the last of these stages
            trains every block that the earlier ones do, at the same rates.
    """

    plan: FineTuningPlan
    epochs: int
    restart: bool = False


class StepHook(Protocol):
    """Sees every step of a training."""

    def begin_epoch(self) -> None:
        """Take note that an epoch begins."""
        ...

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Look at gradients and change the step, after the backward pass."""
        ...

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Undo what was changed for one step."""
        ...


def adam(groups: Groups, constants: Constants) -> torch.optim.Optimizer:
    """Return Adam over parameter groups that carry their learning rates.

    Args:
        groups: The groups.
        constants: With ``lr`` and ``weight_decay``, the factor of an L2 penalty.
    """
    return torch.optim.Adam(
        groups, lr=constants["lr"], weight_decay=constants["weight_decay"], fused=True
    )


def tpe(seed: int) -> BaseSampler:
    """Return the tree-structured Parzen estimator with the defaults of many versions of Optuna."""
    return TPESampler(seed=seed, multivariate=False, constant_liar=False)


def successive_halving() -> BasePruner:
    """Return the pruner that ``pruner_study.py`` recommends."""
    return SuccessiveHalvingPruner(min_resource=_WARM_UP_EPOCHS, reduction_factor=2)


def of_best_value(study: optuna.Study) -> FrozenTrial:
    """Return the trial of the best value."""
    return study.best_trial


@dataclass(frozen=True)
class Search:
    """How constants are searched for.

    Attributes:
        sampler: Builds the sampler from a seed.
        pruner: Builds the pruner.
        recommend: Chooses the trial whose constants are taken in the end.
        seeds: Networks a trial; None for as many as the comparison has.
        folds: Parts that training and validation data are cut into; generation g of an evolution
            trains and validates on part g mod ``folds``.
        operators: Functions of ``optuna_biotune.evolution`` that others take the place of.
    """

    sampler: Callable[[int], BaseSampler] = tpe
    pruner: Callable[[], BasePruner] = successive_halving
    recommend: Callable[[optuna.Study], FrozenTrial] = of_best_value
    seeds: int | None = None
    folds: int = 1
    operators: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


def suggest_nothing(trial: optuna.Trial, names: Sequence[str]) -> dict[str, Any]:
    """Suggest no constants of the method's own."""
    return {}


@dataclass(frozen=True)
class Method:
    """A way to fine-tune.

    Attributes:
        name: Its name in tables.
        citation: Where it was published.
        stages: Given the names of the blocks, the constants and the number of epochs, what trains
            when.
        defaults: Its constants as published: its own, and those of ``lr`` and ``weight_decay``
            that are not those of the comparison.
        suggest: Suggests its own constants, given a trial and the names of the blocks.
        searches_plans: Whether these constants are a plan, which has no default: it is always
            searched, at the base learning rate of the comparison.
        search: How constants are searched for.
        optimizer: Builds the optimizer from parameter groups and constants.
        adapt: Changes a new pre-trained network, and returns the blocks of the changed one.
        groups: Changes the parameter groups, given the blocks of the network and the constants.
        penalty: Given a new pre-trained network's blocks and the constants, returns a function
            whose value is added to the loss of each step.
        hook: Returns what sees every step.
    """

    name: str
    citation: str
    stages: Callable[[Sequence[str], Constants, int], tuple[Stage, ...]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    suggest: Callable[[optuna.Trial, Sequence[str]], dict[str, Any]] = suggest_nothing
    searches_plans: bool = False
    search: Search = field(default_factory=Search)
    optimizer: Callable[[Groups, Constants], torch.optim.Optimizer] = adam
    adapt: Callable[[BlockPartition, Constants], BlockPartition] | None = None
    groups: Callable[[Groups, BlockPartition, Constants], Groups] | None = None
    penalty: Callable[[BlockPartition, Constants], Callable[[], Tensor]] | None = None
    hook: Callable[[], StepHook] | None = None

    def default_constants(self, lr: float) -> dict[str, Any]:
        """Return the constants of a training without any tuning.

        Args:
            lr: Base learning rate of the comparison.
        """
        return {"lr": lr, "weight_decay": 0.0, **self.defaults}

    def suggest_constants(
        self, trial: optuna.Trial, names: Sequence[str], lr: float, *, tuned: bool
    ) -> dict[str, Any]:
        """Suggest all constants of a training.

        Args:
            trial: The trial.
            names: Names of the blocks, the input side first.
            lr: Base learning rate of the comparison, around which plans are searched.
            tuned: Whether weight decay and, without a plan, base learning rate are suggested, too.
        """
        constants = self.default_constants(lr)
        if tuned and not self.searches_plans:
            constants["lr"] = trial.suggest_float("lr", *LEARNING_RATES, log=True)
        if tuned:
            constants["weight_decay"] = trial.suggest_float(
                "weight_decay", *WEIGHT_DECAYS, log=True
            )
        return {**constants, **self.suggest(trial, names)}


def whole_training(plan: FineTuningPlan, epochs: int) -> tuple[Stage, ...]:
    """Return the one stage of a plan that trains in all epochs."""
    return (Stage(plan, epochs),)
