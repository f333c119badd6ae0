from __future__ import annotations

import math

import optuna
import plotly.graph_objects as go
import pytest
from optuna.trial import TrialState

from optuna_biotune import FineTuningPlan, best_plan, visualization
from tests.synthetic_study import BLOCKS, SyntheticObjective, synthetic_study
from tests.visualization.plots import planned, trials_in


def test_a_trial_to_show_must_be_a_complete_one_of_one_objective(
    study: optuna.Study, front: optuna.Study
) -> None:
    (pruned, *_) = trials_in(study, TrialState.PRUNED)
    with pytest.raises(ValueError, match="`trial` must be a complete trial of `study`"):
        visualization.plot_best_plan(study, trial=pruned)
    with pytest.raises(ValueError, match="`trial` must not be given"):
        visualization.plot_best_plan(front, trial=front.trials[0])


def test_beside_trials_of_other_blocks_the_best_plan_is_that_of_the_best_value() -> None:
    study = synthetic_study(6)
    study.optimize(SyntheticObjective(("stem", "head")), n_trials=2)
    best = max(study.trials[:6], key=lambda trial: trial.values[0])
    title = visualization.plot_best_plan(study).layout.title.text
    assert f"Trial {best.number}: {best.value:.4g}" in title


@pytest.mark.parametrize("name", ["study", "minimised"])
def test_bars_are_the_rates_of_the_best_plan_or_of_a_chosen_trial(
    name: str, request: pytest.FixtureRequest
) -> None:
    study: optuna.Study = request.getfixturevalue(name)
    assert_bars_show(best_plan(study), visualization.plot_best_plan(study))
    chosen = study.trials[1]
    figure = visualization.plot_best_plan(study, trial=chosen)
    assert_bars_show(FineTuningPlan.from_trial(chosen), figure)
    assert f"Trial 1: {chosen.value:.4g}" in figure.layout.title.text


def assert_bars_show(plan: FineTuningPlan, figure: go.Figure) -> None:
    tuned, frozen = figure.data
    assert [BLOCKS[x] for x in tuned.x] == list(plan.trainable)
    assert [BLOCKS[x] for x in frozen.x] == list(plan.frozen)
    rates = [math.log10(plan.multipliers[name]) for name in plan.trainable]
    assert tuned.y == pytest.approx(rates, abs=1e-4)


def test_frozen_blocks_of_the_best_plan_are_hatched() -> None:
    study = planned([FineTuningPlan.full(BLOCKS), FineTuningPlan.linear_probe(BLOCKS)], [0.4, 0.8])
    _, frozen = visualization.plot_best_plan(study).data
    assert list(frozen.x) == [0, 1, 2, 3, 4]
    assert frozen.marker.pattern.shape == "/"


def test_the_best_plan_names_the_baselines_with_their_values(study: optuna.Study) -> None:
    title = visualization.plot_best_plan(study).layout.title.text
    assert f"full fine-tuning {study.trials[0].value:.4g}" in title
    assert f"linear probe {study.trials[1].value:.4g}" in title


def test_several_objectives_show_plans_of_the_front(front: optuna.Study) -> None:
    figure = visualization.plot_best_plan(front)
    numbers = [int(label.removeprefix("trial ").split(":")[0]) for label in figure.data[0].y]
    trials = front.get_trials()
    assert set(numbers) <= {trial.number for trial in front.best_trials}
    values = [trials[number].values[0] for number in numbers]
    assert values == sorted(values)
