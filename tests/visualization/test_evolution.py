from __future__ import annotations

import itertools

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from optuna_biotune import FineTuningPlan, visualization
from optuna_biotune.tags import Tag
from optuna_biotune.visualization._trials import planned_trials
from tests.synthetic_study import BLOCKS, synthetic_study
from tests.visualization.plots import planned, trace, trials_in


def test_mean_and_spread_are_those_of_a_generations_complete_trials(study: optuna.Study) -> None:
    figure = visualization.plot_evolution(study)
    values: dict[int, list[float]] = {}
    for trial in trials_in(study, TrialState.COMPLETE):
        tag = Tag.of(trial)
        values.setdefault(0 if tag is None else tag.generation, []).append(trial.values[0])
    mean = trace(figure, "mean")
    assert mean.x == tuple(values)
    assert mean.y == pytest.approx([np.mean(found) for found in values.values()])
    upper = trace(figure, "spread").y[: len(values)]
    assert upper == pytest.approx([np.mean(v) + np.std(v) for v in values.values()])


@pytest.mark.parametrize("name", ["study", "minimised"])
def test_the_best_so_far_never_gets_worse_and_ends_with_the_best(
    name: str, request: pytest.FixtureRequest
) -> None:
    study: optuna.Study = request.getfixturevalue(name)
    best = trace(visualization.plot_evolution(study), "best so far").y
    sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
    assert all(sign * later >= sign * earlier for earlier, later in itertools.pairwise(best))
    assert best[-1] == study.best_value


def test_diversity_is_the_mean_deviation_of_the_genes_and_none_of_equal_plans(
    study: optuna.Study,
) -> None:
    shown = trace(visualization.plot_evolution(study), "diversity").y
    first = [one for one in planned_trials(study) if one.generation == 0]
    genes = np.asarray([sorted(one.trial.params.items()) for one in first])[:, :, 1]
    assert shown[0] == pytest.approx(genes.astype(float).std(axis=0).mean(), abs=1e-4)
    equal = planned([FineTuningPlan.full(BLOCKS)] * 3, [0.1, 0.2, 0.3])
    assert trace(visualization.plot_evolution(equal), "diversity").y == (0.0,)


def test_a_target_that_is_an_objective_has_its_direction(front: optuna.Study) -> None:
    def n_parameters(trial: optuna.trial.FrozenTrial) -> float:
        return float(trial.values[1])

    figure = visualization.plot_evolution(front, target=n_parameters, target_name="Parameters")
    least = min(trial.values[1] for trial in front.get_trials())
    assert trace(figure, "best so far").y[-1] == least
    assert figure.layout.yaxis.title.text == "Parameters (lower is better)"


def test_of_a_target_that_is_no_objective_nothing_is_the_best(study: optuna.Study) -> None:
    def seconds(trial: optuna.trial.FrozenTrial) -> float:
        return float(trial.user_attrs["seconds"])

    figure = visualization.plot_evolution(study, target=seconds, target_name="Seconds")
    assert "best so far" not in {one.name for one in figure.data}
    assert figure.layout.yaxis.title.text == "Seconds"
    lineage = visualization.plot_lineage(study, target=seconds)
    assert "best" not in {one.name for one in lineage.data}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_axes_carry_the_studys_own_name_of_the_metric() -> None:
    study = synthetic_study(4)
    study.set_metric_names(["balanced accuracy"])
    figure = visualization.plot_evolution(study)
    assert figure.layout.yaxis.title.text == "balanced accuracy (higher is better)"
