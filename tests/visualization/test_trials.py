"""Which studies and trials can be plotted."""

from __future__ import annotations

import math

import optuna
import pytest

from optuna_biotune import FineTuningPlan, visualization
from optuna_biotune.visualization._trials import planned_trials
from tests.synthetic_study import BLOCKS, SyntheticObjective, synthetic_study
from tests.visualization.plots import PLOTS, PLOTS_OF_A_VALUE, Plot, planned, trace


@pytest.mark.parametrize("plot", PLOTS)
def test_what_is_no_study_is_refused_by_name(plot: Plot) -> None:
    with pytest.raises(TypeError, match="`study` must be an Optuna study, but got 'flowers'"):
        plot("flowers")


@pytest.mark.parametrize("plot", PLOTS)
def test_a_study_without_finished_trials_says_that_there_is_nothing_to_plot_yet(
    plot: Plot,
) -> None:
    study = optuna.create_study(study_name="flowers")
    study.ask()
    with pytest.raises(ValueError, match="'flowers' has no complete or pruned trial"):
        plot(study)


@pytest.mark.parametrize("plot", PLOTS)
def test_a_study_of_something_else_says_which_parameters_are_missing(plot: Plot) -> None:
    study = optuna.create_study()
    study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=3)
    with pytest.raises(ValueError, match="no trial has parameters `importance/<block>` and"):
        plot(study)


@pytest.mark.parametrize("plot", PLOTS_OF_A_VALUE)
def test_several_objectives_need_a_target(plot: Plot, front: optuna.Study) -> None:
    with pytest.raises(ValueError, match="`target` must be given, because `study` has 2"):
        plot(front)


@pytest.mark.parametrize("plot", PLOTS_OF_A_VALUE)
def test_a_target_that_is_no_function_is_refused(plot: Plot, study: optuna.Study) -> None:
    with pytest.raises(TypeError, match="`target` must be a function of a trial, but got 'value'"):
        plot(study, target="value")


def test_an_unknown_cost_is_refused_with_those_that_there_are(study: optuna.Study) -> None:
    with pytest.raises(ValueError, match=r"is 'euros'\. There are: best_epoch, generation, lr/fc"):
        visualization.plot_accuracy_cost(study, cost="euros")


def test_columns_are_trials_or_generations(study: optuna.Study) -> None:
    with pytest.raises(ValueError, match='`by` must be "trial" or "generation", but got \'block\''):
        visualization.plot_plans(study, by="block")  # type: ignore[arg-type]


def test_effects_need_three_complete_trials() -> None:
    with pytest.raises(ValueError, match=r"2 complete trials .* need at least 3"):
        visualization.plot_block_effect(synthetic_study(2))


def test_the_best_plan_needs_a_complete_trial() -> None:
    def always_pruned(trial: optuna.Trial) -> float:
        SyntheticObjective()(trial)
        raise optuna.TrialPruned()

    study = optuna.create_study()
    study.optimize(always_pruned, n_trials=2)
    with pytest.raises(ValueError, match="no complete trial with a plan"):
        visualization.plot_best_plan(study)
    assert visualization.plot_plans(study).data


def test_failed_running_and_other_blocks_trials_are_left_out() -> None:
    study = synthetic_study(5)

    def failing(trial: optuna.Trial) -> float:
        SyntheticObjective()(trial)
        return math.nan

    study.optimize(failing, n_trials=1)
    study.optimize(SyntheticObjective(("stem", "head")), n_trials=2)
    study.ask()
    assert [one.number for one in planned_trials(study)] == [0, 1, 2, 3, 4]


def test_blocks_stand_in_the_order_in_which_they_were_suggested() -> None:
    names = ("stem", "zebra", "ape", "head")
    shown = planned_trials(synthetic_study(15, blocks=names))
    assert {one.plan.names for one in shown} == {names}


def test_trials_of_another_sampler_and_enqueued_ones_belong_to_the_first_generation() -> None:
    study = synthetic_study(8, sampler=optuna.samplers.TPESampler(seed=0), has_baselines=True)
    figure = visualization.plot_lineage(study)
    assert len(trace(figure, "not from BioTune").x) == 8
    assert not [one for one in figure.data if one.name == "ancestors of the best"]
    for plot in PLOTS:
        assert plot(study).data


def test_infinite_values_are_left_out_of_statistics() -> None:
    plans = [FineTuningPlan.full(BLOCKS), FineTuningPlan.linear_probe(BLOCKS)] * 2
    study = planned(plans, [0.4, 0.6, math.inf, 0.8])
    (mean,) = trace(visualization.plot_evolution(study), "mean").y
    assert mean == pytest.approx(0.6)


@pytest.mark.parametrize("plot", PLOTS)
def test_a_study_is_read_only(plot: Plot, study: optuna.Study) -> None:
    before = (study.user_attrs, study._storage.get_study_system_attrs(study._study_id))
    trials = study.get_trials()
    plot(study)
    assert (study.user_attrs, study._storage.get_study_system_attrs(study._study_id)) == before
    assert study.get_trials() == trials
