"""Search constants for a number of trained epochs; train the chosen ones, and test them once."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any
from unittest.mock import patch

import optuna
from optuna.trial import TrialState

from methods.method import WEIGHT_DECAYS, Constants, Method
from methods.problem import Problem
from methods.training import NetworkTraining, train_together
from optuna_biotune import evolution
from optuna_biotune.finetune.objective import NonFiniteLossError
from optuna_biotune.finetune.splits import stratified_folds
from optuna_biotune.tags import generation_of

WORST = 0.0
"""Value of constants that train nothing, or with which a loss is not finite."""

_CONSTANTS = "constants"


@dataclass(frozen=True)
class Tuned:
    """What a search came to.

    Attributes:
        constants: The constants that it chose.
        value: Their validation value in the search; None without a search.
        epochs: Epochs that were trained, of one network on all training images.
        seconds: How long it took.
        trials: Number of trials.
        pruned: How many of them were pruned.
    """

    constants: Mapping[str, Any]
    value: float | None = None
    epochs: float = 0.0
    seconds: float = 0.0
    trials: int = 0
    pruned: int = 0


class TuningObjective:
    """Trains the constants that a trial suggests, and counts the epochs.

    Args:
        method: The method.
        problem: The network and the data.
        seeds: One network a seed.
        tuned: Whether all constants are suggested; else a plan alone.

    Attributes:
        epochs: Epochs trained so far, of one network on all training images: an epoch of two
            networks counts double, one on half of the images half.
    """

    def __init__(
        self, method: Method, problem: Problem, seeds: Sequence[int], *, tuned: bool
    ) -> None:
        self._method, self._problem, self._seeds, self._tuned = method, problem, seeds, tuned
        self._folds = stratified_folds(problem.data.labels, problem.whole, method.search.folds)
        self.epochs = 0.0

    def __call__(self, trial: optuna.Trial) -> float:
        """Return the mean over the networks of the best validation value.

        Raises:
            optuna.TrialPruned: If the pruner says so.
        """
        problem = self._problem
        constants = self._method.suggest_constants(
            trial, problem.block_names, problem.settings.lr, tuned=self._tuned
        )
        trial.set_user_attr(_CONSTANTS, constants)
        stages = self._method.stages(problem.block_names, constants, problem.settings.epochs)
        if not any(stage.plan.trainable for stage in stages):
            return WORST
        fold = self._folds[generation_of(trial) % len(self._folds)]
        trainings = [
            NetworkTraining(self._method, constants, seed, problem) for seed in self._seeds
        ]
        value = WORST
        try:
            for epoch, value in enumerate(train_together(trainings, fold)):
                trial.report(value, epoch)
                if not all(one.stopped for one in trainings) and trial.should_prune():
                    raise optuna.TrialPruned
        except NonFiniteLossError:
            return WORST
        finally:
            share = len(fold.train) / len(problem.whole.train)
            self.epochs += share * sum(training.epoch for training in trainings)
        for training in trainings:
            training.check_frozen()
        return value


def tune(
    method: Method,
    problem: Problem,
    *,
    budget: float,
    seeds: Sequence[int],
    sampler_seed: int,
    tuned: bool = True,
) -> Tuned:
    """Search a method's constants until a number of epochs has been trained.

    The last trial is not cut short. Of a method that does not search a plan, the first trial has
    the default constants.

    Args:
        method: The method.
        problem: The network and the data.
        budget: Epochs, of one network on all training images, after which no trial begins.
        seeds: One network a seed in each trial.
        sampler_seed: Seed of the sampler.
        tuned: Whether all constants are searched; else a plan alone.
    """
    search = method.search
    start = time.perf_counter()
    objective = TuningObjective(method, problem, seeds, tuned=tuned)
    study = optuna.create_study(
        direction="maximize", sampler=search.sampler(sampler_seed), pruner=search.pruner()
    )
    if not method.searches_plans:
        study.enqueue_trial(_searchable(method.default_constants(problem.settings.lr)))
    with ExitStack() as stack:
        for name, operator in search.operators.items():
            stack.enter_context(patch.object(evolution, name, operator))
        # Plans that train nothing cost no epochs: so many of them in a row end the search.
        for _ in range(max(1, math.ceil(budget))):
            study.optimize(objective, n_trials=1)
            if objective.epochs >= budget:
                break
    chosen = search.recommend(study)
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    return Tuned(
        constants=chosen.user_attrs[_CONSTANTS],
        value=chosen.value,
        epochs=objective.epochs,
        seconds=time.perf_counter() - start,
        trials=len(study.trials),
        pruned=len(pruned),
    )


def _searchable(constants: Mapping[str, Any]) -> dict[str, Any]:
    """Return constants within the ranges that are searched: a weight decay of 0 is not."""
    return {**constants, "weight_decay": max(constants["weight_decay"], WEIGHT_DECAYS[0])}


@dataclass
class Tested:
    """Final trainings with new seeds.

    Attributes:
        seeds: The seeds.
        test: Balanced accuracy on the test images of each, with the weights of its best epoch.
        validation: Balanced accuracy on the validation images in that epoch.
        best_epochs: That epoch, from 1; 0 if none was validated.
        epochs: Epochs that were trained, over all seeds.
        seconds: How long they took, tests included.
        trainable_parameters: How many numbers train, at most at a time.
    """

    seeds: list[int]
    test: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best_epochs: list[int] = field(default_factory=list)
    epochs: int = 0
    seconds: float = 0.0
    trainable_parameters: int = 0


def train_and_test(
    method: Method, constants: Constants, problem: Problem, seeds: Sequence[int]
) -> Tested:
    """Train constants with each seed on the training images, and test each network once.

    The epoch is chosen on the validation images. A network whose loss is not finite trains no
    further.

    Args:
        method: The method.
        constants: Its constants.
        problem: The network and the data.
        seeds: The seeds, none of which a search has used.
    """
    start = time.perf_counter()
    tested = Tested(list(seeds))
    for seed in seeds:
        training = _trained(method, constants, problem, seed)
        tested.test.append(training.test())
        tested.validation.append(max(training.best_value, WORST))
        tested.best_epochs.append(training.best_epoch)
        tested.epochs += training.epoch
        tested.trainable_parameters = training.trainable_parameters
    tested.seconds = time.perf_counter() - start
    return tested


def _trained(method: Method, constants: Constants, problem: Problem, seed: int) -> NetworkTraining:
    """Train one network to its end."""
    training = NetworkTraining(method, constants, seed, problem, keeps_best=True)
    try:
        for _ in train_together([training], problem.whole):
            pass
    except NonFiniteLossError:
        return training
    training.check_frozen()
    return training


def run_method(
    method: Method,
    problem: Problem,
    *,
    tuned: bool,
    budget: float,
    search_seeds: Sequence[int],
    final_seeds: Sequence[int],
    sampler_seed: int,
) -> dict[str, Any]:
    """Tune a method if asked to, train it with new seeds and test it.

    Args:
        method: The method.
        problem: The network and the data.
        tuned: Whether its constants are searched; else they are the defaults, but for a plan.
        budget: Epochs of the search.
        search_seeds: Seeds of the search's networks.
        final_seeds: Seeds of the networks that are tested.
        sampler_seed: Seed of the sampler.

    Returns:
        :class:`Tuned` as ``tuning`` and :class:`Tested` as ``final``, ready for JSON.
    """
    found = (
        tune(
            method,
            problem,
            budget=budget,
            seeds=search_seeds,
            sampler_seed=sampler_seed,
            tuned=tuned,
        )
        if tuned or method.searches_plans
        else Tuned(method.default_constants(problem.settings.lr))
    )
    tested = train_and_test(method, found.constants, problem, final_seeds)
    return {"tuning": asdict(found), "final": asdict(tested)}
