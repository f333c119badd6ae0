from __future__ import annotations

import math

import optuna
import pytest
from optuna.trial import TrialState

from optuna_biotune import FineTuningPlan, visualization
from optuna_biotune.tags import Tag
from tests.synthetic_study import BLOCKS, large_study
from tests.visualization.plots import first_value, trace, trials_in


def test_each_column_is_a_trials_plan_and_frozen_cells_are_apart(study: optuna.Study) -> None:
    figure = visualization.plot_plans(study)
    frozen, rates = (one for one in figure.data if one.type == "heatmap")
    trials = trials_in(study, TrialState.COMPLETE, TrialState.PRUNED)
    assert rates.y == BLOCKS
    for column, trial in enumerate(trials):
        for row, name in enumerate(BLOCKS):
            rate = FineTuningPlan.from_trial(trial).multipliers[name]
            cell, grey = rates.z[row][column], frozen.z[row][column]
            assert (grey is not None) == (rate == 0.0) == (cell is None)
            if rate > 0.0:
                assert cell == pytest.approx(math.log10(rate), abs=1e-3)
    crosses = trace(figure, "frozen")
    assert len(crosses.x) == sum(cell is not None for row in frozen.z for cell in row) > 0


def test_complete_and_pruned_values_are_told_apart(study: optuna.Study) -> None:
    figure = visualization.plot_plans(study)
    complete = [trial.values[0] for trial in trials_in(study, TrialState.COMPLETE)]
    pruned = trials_in(study, TrialState.PRUNED)
    assert sorted(trace(figure, "complete").y) == sorted(complete)
    assert sorted(trace(figure, "pruned").y) == sorted(
        trial.intermediate_values[max(trial.intermediate_values)] for trial in pruned
    )


def test_columns_are_ordered_by_generation_whatever_the_order_of_the_trials() -> None:
    study = large_study(30)
    shuffled = optuna.create_study(direction="maximize")
    trials = study.get_trials()
    for number, trial in enumerate(reversed(trials)):
        trial.system_attrs["biotune"]["trial"] = number
        shuffled.add_trial(trial)
    figure = visualization.plot_plans(shuffled)
    numbers = figure.data[1].text[0]
    assert list(numbers) == [*range(20, 30), *range(10, 20), *range(10)]
    assert len(figure.layout.shapes) == 2


def test_a_generations_column_is_its_best_trial(minimised: optuna.Study) -> None:
    figure = visualization.plot_plans(minimised, by="generation")
    best: dict[int, optuna.trial.FrozenTrial] = {}
    for trial in minimised.get_trials():
        tag = Tag.of(trial)
        assert tag is not None
        best[tag.generation] = min(
            trial, best.get(tag.generation, trial), key=lambda one: one.values[0]
        )
    assert list(figure.data[1].text[0]) == [trial.number for trial in best.values()]


def test_several_objectives_without_a_target_show_plans_only(front: optuna.Study) -> None:
    assert {one.type for one in visualization.plot_plans(front).data} == {"heatmap", "scatter"}
    with_values = visualization.plot_plans(front, target=first_value, target_name="Accuracy")
    assert len(trace(with_values, "complete").y) == 36
    assert with_values.layout.yaxis.title.text == "Accuracy"
