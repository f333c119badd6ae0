from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import optuna
import plotly.graph_objects as go
import pytest
from optuna.trial import TrialState

from optuna_biotune import BioTuneSampler, FineTuningPlan, best_plan, visualization
from optuna_biotune.tags import Role, Tag
from optuna_biotune.visualization._block_effect import block_effects
from optuna_biotune.visualization._trials import planned_trials
from tests.synthetic_study import BLOCKS, SyntheticObjective, large_study, synthetic_study

Plot = Callable[..., go.Figure]

# Every plot, and those that show a value, which several objectives need a target for.
PLOTS: list[Plot] = [getattr(visualization, name) for name in visualization.__all__]
PLOTS_OF_A_VALUE: list[Plot] = [
    visualization.plot_accuracy_cost,
    visualization.plot_block_effect,
    visualization.plot_evolution,
    visualization.plot_lineage,
]


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(scope="module")
def study() -> optuna.Study:
    """Four generations of the paper's evolution, maximised, with enqueued and pruned trials."""
    return synthetic_study(
        49, prunes=True, has_baselines=True, sampler=BioTuneSampler.paper(seed=0)
    )


@pytest.fixture(scope="module")
def minimised() -> optuna.Study:
    return synthetic_study(23, minimise=True)


@pytest.fixture(scope="module")
def front() -> optuna.Study:
    """Two objectives: accuracy, and trained parameters."""
    return synthetic_study(36, has_cost=True, has_baselines=True)


@pytest.fixture(scope="module")
def large() -> optuna.Study:
    return large_study(1000)


def first_value(trial: optuna.trial.FrozenTrial) -> float:
    return float(trial.values[0])


def trace(figure: go.Figure, name: str) -> Any:
    (found,) = [one for one in figure.data if one.name == name]
    return found


def trials_in(study: optuna.Study, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(states=states)


def planned(params: list[FineTuningPlan], values: list[float]) -> optuna.Study:
    """Return a study of these plans with these values."""
    study = optuna.create_study(direction="maximize")
    for plan, value in zip(params, values, strict=True):
        study.add_trial(
            optuna.trial.create_trial(
                value=value,
                params=plan.to_params(),
                distributions={
                    name: optuna.distributions.FloatDistribution(0.0, 1.0)
                    for name in plan.to_params()
                },
            )
        )
    return study


# What cannot be plotted


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


# Which trials are plotted


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


# Plans


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


# Evolution


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


# Effects of blocks


def linear_study(n_trials: int) -> optuna.Study:
    """Return a study whose values add up: freezing b costs 0.3, a gains 0.2 a decade of rate."""
    rng = np.random.default_rng(0)
    plans, values = [], []
    for _ in range(n_trials):
        a = float(10 ** rng.uniform(-0.9, 1.0))
        b = float(10 ** rng.uniform(-0.9, 1.0)) * float(rng.random() < 0.5)
        plans.append(FineTuningPlan({"a": a, "b": b}))
        values.append(0.5 + 0.2 * math.log10(a) - 0.3 * (b == 0.0) + rng.normal(0, 0.02))
    return planned(plans, values)


@pytest.mark.parametrize("n_trials", [20, 200])
def test_known_effects_are_found_within_their_intervals(n_trials: int) -> None:
    trials = planned_trials(linear_study(n_trials))
    effects = block_effects(trials, [one.trial.values[0] for one in trials])
    for effect, truth in (
        (effects["b"].freezing, -0.3),
        (effects["b"].faster, 0.0),
        (effects["a"].faster, 0.2),
    ):
        assert effect is not None
        assert abs(effect.change - truth) <= effect.error
        assert effect.error < 1.0 / math.sqrt(n_trials)


def test_few_trials_leave_effects_uncertain() -> None:
    trials = planned_trials(synthetic_study(8))
    effects = block_effects(trials, [one.trial.values[0] for one in trials])
    spread = float(np.std([one.trial.values[0] for one in trials]))
    errors = [effect.freezing.error for effect in effects.values() if effect.freezing is not None]
    assert min(errors) > 0.3 * spread


def test_a_block_that_was_never_frozen_is_named_so() -> None:
    figure = visualization.plot_block_effect(linear_study(20))
    (note,) = figure.layout.annotations
    assert (note.text, note.x) == ("never<br>frozen", 0)
    frozen = trace(figure, "frozen, not trained at the base rate")
    assert [block for block, _, _ in frozen.customdata] == ["b"]


def test_values_that_are_all_equal_have_no_effects() -> None:
    trials = planned_trials(synthetic_study(12))
    effects = block_effects(trials, [0.5] * len(trials))
    changes = [one.change for e in effects.values() for one in (e.freezing, e.faster) if one]
    assert changes == pytest.approx([0.0] * len(changes))


# The best plan


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


# Value and cost


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


# Lineage


def lines(one: Any) -> set[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the line segments of a trace."""
    points = list(zip(one.x, one.y, strict=True))
    return {(points[i], points[i + 1]) for i in range(0, len(points), 3)}


def test_every_parent_has_a_line_to_its_child(study: optuna.Study) -> None:
    figure = visualization.plot_lineage(study)
    drawn = lines(trace(figure, "parent to child")) | lines(trace(figure, "ancestors of the best"))
    trials = {one.number: one for one in planned_trials(study)}

    def height(number: int) -> float:
        trial = trials[number].trial
        if trial.state == TrialState.COMPLETE:
            return float(trial.values[0])
        return trial.intermediate_values[max(trial.intermediate_values)]

    related = {
        (height(parent), height(child.number))
        for child in trials.values()
        for parent in child.tag.parents
        if parent in trials
    }
    assert {(start[1], end[1]) for start, end in drawn} == related
    assert all(start[0] < end[0] for start, end in drawn)


def test_ancestors_of_the_best_are_its_parents_theirs_and_so_on(study: optuna.Study) -> None:
    trials = {one.number: one for one in planned_trials(study)}
    ancestors: set[int] = set()
    generation = {study.best_trial.number}
    while generation:
        ancestors |= generation
        generation = {p for number in generation for p in trials[number].tag.parents} - ancestors
    figure = visualization.plot_lineage(study)
    assert f"has {len(ancestors) - 1} ancestors" in figure.layout.title.text
    family = trace(figure, "ancestors of the best")
    n_lines = sum(len(trials[number].tag.parents) for number in ancestors)
    assert len(family.x) == 3 * n_lines


def test_trials_of_every_role_are_shown() -> None:
    n_parents = {"offspring": 2, "mutant": 1, "elite_plus": 1, "elite_minus": 1}
    study = synthetic_study(3)
    template = study.trials[0]
    for role in get_args(Role):
        number = len(study.trials)
        parents = list(range(n_parents.get(role, 0)))
        tag = {"generation": 1, "role": role, "parents": parents, "trial": number}
        template.system_attrs = {"biotune": tag}
        study.add_trial(template)
    assert [one.tag.role for one in planned_trials(study)[3:]] == list(get_args(Role))
    markers = [one for one in visualization.plot_lineage(study).data if one.mode == "markers"]
    best = 1
    assert sum(len(one.x) for one in markers) == len(study.trials) + best


def test_of_many_trials_only_the_ancestors_have_lines(large: optuna.Study) -> None:
    names = {one.name for one in visualization.plot_lineage(large).data}
    assert "ancestors of the best" in names and "parent to child" not in names


# How it looks


def test_hover_text_has_number_generation_origin_and_plan(study: optuna.Study) -> None:
    child = next(
        one for one in planned_trials(study) if one.tag.role == "offspring" and one.is_complete
    )
    first, second = child.tag.parents
    text = child.describe()
    assert f"trial {child.number}, generation {child.generation}" in text
    assert f"offspring of {first} and {second}" in text
    for name, rate in child.plan.multipliers.items():
        assert (f"{name} {rate:.2g}" if rate else f"{name} frozen") in text
    assert text in trace(visualization.plot_lineage(study), "offspring").customdata


@pytest.mark.parametrize("plot", PLOTS)
def test_titles_axes_and_height_are_set(plot: Plot, study: optuna.Study) -> None:
    layout = plot(study).layout
    assert layout.height == 450
    assert layout.title.text.startswith("<b>")
    assert layout.template.layout.to_plotly_json() == {}
    axes = layout.to_plotly_json()
    for letter in "xy":
        titles = [axes[name].get("title", {}) for name in axes if name.startswith(f"{letter}axis")]
        assert any("text" in title for title in titles)


@pytest.mark.parametrize("plot", PLOTS)
def test_a_thousand_trials_are_plotted_within_seconds(plot: Plot, large: optuna.Study) -> None:
    assert plot(large).data


def test_plots_need_no_torch() -> None:
    code = "import sys, optuna_biotune\nprint(optuna_biotune.visualization.__all__)\n"
    code += "print('torch' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split()[-1] == "False"


@pytest.mark.browser
@pytest.mark.timeout(120)
def test_every_plot_of_every_study_is_drawn_by_a_browser(
    study: optuna.Study,
    minimised: optuna.Study,
    front: optuna.Study,
    large: optuna.Study,
    tmp_path: Path,
) -> None:
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    import plotly.io as pio
    from PIL import Image

    single = synthetic_study(1, sampler=BioTuneSampler(seed=0))
    figures = {
        f"{name}_{plot.__name__}": plot(of, **({} if name != "front" else {"target": first_value}))
        for name, of in {"study": study, "minimised": minimised, "front": front}.items()
        for plot in PLOTS
        if name != "front" or plot is not visualization.plot_best_plan
    }
    figures |= {f"large_{plot.__name__}": plot(large) for plot in PLOTS}
    figures["front_plot_best_plan"] = visualization.plot_best_plan(front)
    figures["study_generations"] = visualization.plot_plans(study, by="generation")
    figures["single_plot_evolution"] = visualization.plot_evolution(single)
    figures["single_plot_plans"] = visualization.plot_plans(single)
    paths = [tmp_path / f"{name}.png" for name in figures]
    pio.write_images(list(figures.values()), paths, width=900, height=450)
    for path in paths:
        picture = Image.open(path).convert("RGB")
        assert picture.size == (900, 450)
        colors = picture.getcolors(maxcolors=900 * 450)
        assert colors is not None and len(colors) > 100, f"{path.name} is nearly empty"
