from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState

from optuna_biotune import visualization
from tests.visualization.plots import trace, trials_in


@pytest.mark.parametrize("name", ["study", "minimised"])
@pytest.mark.parametrize("cost", ["trainable_params", "seconds"])
def test_the_front_is_what_no_trial_beats(
    name: str, cost: str, request: pytest.FixtureRequest
) -> None:
    study: optuna.Study = request.getfixturevalue(name)
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
    points = {
        (float(trial.user_attrs[cost]), trial.values[0])
        for trial in trials_in(study, TrialState.COMPLETE)
    }
    unbeaten = {
        (x, y)
        for x, y in points
        if not any(a <= x and sign * b <= sign * y and (a, b) != (x, y) for a, b in points)
    }
    line = trace(visualization.plot_accuracy_cost(study, cost=cost), "Pareto front")
    assert set(zip(line.x, line.y, strict=True)) == unbeaten


def test_baselines_stand_out_in_the_plot_of_costs(study: optuna.Study) -> None:
    figure = visualization.plot_accuracy_cost(study)
    for number, name in ((0, "full fine-tuning"), (1, "linear probe")):
        assert study.trials[number].value in trace(figure, name).y
    assert figure.layout.xaxis.type == "log"


def test_the_baselines_that_the_sampler_tries_by_itself_stand_out(minimised: optuna.Study) -> None:
    figure = visualization.plot_accuracy_cost(minimised)
    for number, name in enumerate(("full fine-tuning", "linear probe", "last two blocks")):
        assert minimised.trials[number].value in trace(figure, name).y
