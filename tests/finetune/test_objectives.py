from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import optuna
import pytest
from optuna.trial import FixedTrial, TrialState

from optuna_biotune import BioTuneSampler, FineTuningObjective, FineTuningPlan
from tests.finetune.conftest import BLOCKS

MakeObjective = Callable[..., FineTuningObjective]
Direction = Literal["minimize", "maximize"]

PARAMS = FineTuningPlan({"stem": 0.0, "body": 1.0, "head": 3.0}).to_params()
ALL_FROZEN = FineTuningPlan(dict.fromkeys(BLOCKS, 0.0)).to_params()
ACCURACY_AND_SIZE = ("balanced_accuracy", "trainable_params")


def test_a_search_weighs_accuracy_against_trained_parameters(make_objective: MakeObjective) -> None:
    sampler = BioTuneSampler(population_size=4, elite_size=1, seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    objective = make_objective(objectives=ACCURACY_AND_SIZE, epochs=4, seeds=(0,))
    study.optimize(objective, n_trials=sampler.n_trials_for(generations=3))
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 14
    for trial in study.trials:
        assert trial.values[1] == trial.user_attrs["trainable_params"]
    # More than one trade-off between the two remains.
    front = {tuple(trial.values) for trial in study.best_trials}
    assert len({size for _, size in front}) > 1
    assert max(accuracy for accuracy, _ in front) > 0.5


def test_the_metric_and_the_seconds_are_those_of_the_trial(make_objective: MakeObjective) -> None:
    objective = make_objective(objectives=("accuracy", "seconds", "trainable_params"))
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    study.enqueue_trial(PARAMS)
    study.optimize(objective, n_trials=1)
    accuracy, seconds, size = study.trials[0].values
    assert accuracy == make_objective(metric="accuracy")(FixedTrial(PARAMS))
    assert seconds == study.trials[0].user_attrs["seconds"] > 0
    assert size == study.trials[0].user_attrs["trainable_params"]
    plan = objective.refit(study.best_trials[0]).plan
    assert plan.multipliers == pytest.approx({"stem": 0.0, "body": 1.0, "head": 3.0})


def test_a_plan_that_trains_nothing_is_worst_by_metric_and_costs_nothing(
    make_objective: MakeObjective,
) -> None:
    objective = make_objective(objectives=ACCURACY_AND_SIZE)
    assert objective(FixedTrial(ALL_FROZEN)) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("objectives", "directions"),
    [
        (ACCURACY_AND_SIZE, ["maximize"]),
        (ACCURACY_AND_SIZE, ["minimize", "minimize"]),
        (ACCURACY_AND_SIZE, ["maximize", "maximize"]),
        (ACCURACY_AND_SIZE, ["maximize", "minimize", "minimize"]),
        (("accuracy",), ["maximize", "minimize"]),
    ],
)
def test_a_study_of_other_directions_is_refused_before_training(
    make_objective: MakeObjective, objectives: tuple[str, ...], directions: list[Direction]
) -> None:
    study = optuna.create_study(directions=directions)
    with pytest.raises(ValueError, match=r"but its directions are \["):
        study.optimize(make_objective(objectives=objectives), n_trials=1)
    assert study.trials[0].params == {}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"objectives": "accuracy"}, TypeError, r"sequence of names, but got 'accuracy'"),
        ({"objectives": ()}, ValueError, r"must begin with a metric, one of accuracy,"),
        ({"objectives": ("seconds", "accuracy")}, ValueError, r"must begin with a metric"),
        ({"objectives": ("accuracy", "macro_f1")}, ValueError, r"each of trainable_params, sec"),
        ({"objectives": ("accuracy", "seconds", "seconds")}, ValueError, r"seconds once"),
        (
            {"objectives": ("accuracy", "seconds"), "metric": "macro_f1"},
            ValueError,
            r"`metric` is 'macro_f1', but `objectives` begins with 'accuracy'",
        ),
    ],
)
def test_objectives_that_make_no_sense_are_refused(
    make_objective: MakeObjective, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_objective(**arguments)
