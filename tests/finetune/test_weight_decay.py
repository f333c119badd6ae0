"""A weight decay that is given, and one that the search chooses beside the plan."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
import torch
from optuna.distributions import FloatDistribution
from optuna.pruners import NopPruner
from optuna.trial import FixedTrial

from optuna_biotune import BioTuneSampler, FineTuningObjective, FineTuningPlan
from tests.finetune.conftest import BLOCKS

MakeObjective = Callable[..., FineTuningObjective]

FULL = FineTuningPlan.full(list(BLOCKS))


def squared_norm(objective: FineTuningObjective, given: FineTuningPlan | FixedTrial) -> float:
    weights = torch.nn.utils.parameters_to_vector(objective.refit(given).model.parameters())
    return float((weights.detach() ** 2).sum())


def test_it_keeps_the_weights_small(make_objective: MakeObjective) -> None:
    free, decayed = (
        squared_norm(make_objective(weight_decay=decay, seeds=(0,)), FULL) for decay in (0.0, 0.5)
    )
    assert decayed < 0.7 * free


def test_it_leaves_frozen_blocks_alone(make_objective: MakeObjective) -> None:
    objective = make_objective(weight_decay=0.5, seeds=(0,))
    given = objective._settings.template.model.state_dict()
    trained = objective.refit(FineTuningPlan.last_blocks(list(BLOCKS), 1)).model.state_dict()
    same = {name: torch.equal(given[name], trained[name]) for name in given}
    assert [name for name, equal in same.items() if not equal] == ["head.1.weight", "head.1.bias"]


def test_a_range_is_searched_beside_the_plan(make_objective: MakeObjective) -> None:
    study = optuna.create_study(
        direction="maximize", sampler=BioTuneSampler(seed=0), pruner=NopPruner()
    )
    objective = make_objective(weight_decay=(1e-6, 1e-2), seeds=(0,), epochs=1)
    study.optimize(objective, n_trials=12)
    distributions = {trial.distributions["weight_decay"] for trial in study.trials}
    assert distributions == {FloatDistribution(1e-6, 1e-2, log=True)}
    assert len({trial.params["weight_decay"] for trial in study.trials}) > 8


def test_a_refit_takes_that_of_the_trial(make_objective: MakeObjective) -> None:
    searching = make_objective(weight_decay=(1e-6, 1.0), seeds=(0,))
    fixed = make_objective(weight_decay=0.5, seeds=(0,))
    searched_trial = FixedTrial({**FULL.to_params(), "weight_decay": 0.5})
    fixed_trial = FixedTrial(FULL.to_params())
    assert searching(searched_trial) == fixed(fixed_trial)
    assert squared_norm(searching, searched_trial) == squared_norm(fixed, fixed_trial)
    assert searching.refit(searched_trial).weight_decay == 0.5


def test_a_plan_or_a_trial_without_one_cannot_be_refitted_if_it_is_searched(
    make_objective: MakeObjective,
) -> None:
    searching = make_objective(weight_decay=(1e-6, 1.0), seeds=(0,))
    elsewhere = FixedTrial(FULL.to_params())
    make_objective()(elsewhere)
    for given in (FULL, elsewhere):
        with pytest.raises(ValueError, match="must be a trial with the parameter `weight_decay`"):
            searching.refit(given)
