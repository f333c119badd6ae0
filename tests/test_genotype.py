from __future__ import annotations

import json
import pickle

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_biotune import FineTuningPlan, suggest_plan
from optuna_biotune.genotype import learning_rate_multipliers, selected

unit = st.floats(0.0, 1.0)
names = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=8, unique=True)
multipliers = st.one_of(st.just(0.0), st.floats(0.1, 10.0))


def test_a_block_is_selected_only_above_the_threshold() -> None:
    assert selected(np.array([0.2, 0.5, 0.7]), 0.5).tolist() == [False, False, True]


def test_multipliers_span_a_tenth_to_ten_and_are_one_in_the_middle() -> None:
    weights = learning_rate_multipliers(np.array([0.01, 0.5, 1.0, 0.0]), 0.0)
    np.testing.assert_allclose(weights, [10 ** (2 * (0.01 - 0.5)), 1.0, 10.0, 0.0])


@given(st.lists(unit, min_size=1, max_size=12), unit)
def test_a_plan_freezes_exactly_the_blocks_at_or_below_the_threshold(
    importance: list[float], threshold: float
) -> None:
    blocks = [f"b{i}" for i in range(len(importance))]
    plan = FineTuningPlan.from_genes(blocks, importance, threshold)
    assert plan.names == tuple(blocks)
    for name, gene in zip(blocks, importance, strict=True):
        if gene <= threshold:
            assert plan.multipliers[name] == 0.0 and name in plan.frozen
        else:
            assert plan.multipliers[name] == pytest.approx(10 ** (2 * (gene - 0.5)))
            assert name in plan.trainable
    assert plan.mask.count("F") == len(plan.frozen)


@given(st.dictionaries(st.text(min_size=1), st.floats(0.0, 1e6), min_size=1))
def test_json_gives_an_equal_plan_back(values: dict[str, float]) -> None:
    plan = FineTuningPlan(values)
    again = FineTuningPlan.from_json(plan.to_json())
    assert again == plan
    assert again.names == plan.names
    assert hash(again) == hash(plan)


@given(names.flatmap(lambda n: st.fixed_dictionaries({name: multipliers for name in n})))
def test_parameters_express_the_plan_that_they_were_made_from(values: dict[str, float]) -> None:
    plan = FineTuningPlan(values)
    params = plan.to_params()
    trial = optuna.trial.FixedTrial(params)
    again = suggest_plan(trial, plan.names)
    assert again == FineTuningPlan.from_trial(trial)
    assert again.mask == plan.mask
    assert list(again.multipliers.values()) == pytest.approx(list(plan.multipliers.values()))


def test_an_enqueued_plan_comes_back_from_suggest_plan() -> None:
    plan = FineTuningPlan({"stem": 0.0, "layer1": 0.3, "fc": 5.0})
    study = optuna.create_study()
    study.enqueue_trial(plan.to_params())
    suggested = suggest_plan(study.ask(), plan.names)
    assert suggested.mask == "FTT"
    assert suggested.multipliers["fc"] == pytest.approx(5.0)


def test_suggest_plan_suggests_the_documented_parameters() -> None:
    trial = optuna.create_study().ask()
    plan = suggest_plan(trial, ["stem", "fc"])
    assert list(trial.params) == ["importance/stem", "importance/fc", "freeze_threshold"]
    assert all(
        distribution == optuna.distributions.FloatDistribution(0.0, 1.0)
        for distribution in trial.distributions.values()
    )
    assert FineTuningPlan.from_trial(trial) == plan


def test_baseline_plans() -> None:
    blocks = ["stem", "layer1", "fc"]
    assert FineTuningPlan.full(blocks).mask == "TTT"
    assert set(FineTuningPlan.full(blocks).multipliers.values()) == {1.0}
    probe = FineTuningPlan.linear_probe(blocks)
    assert (probe.frozen, probe.trainable) == (("stem", "layer1"), ("fc",))
    assert probe.multipliers["fc"] == 1.0


def test_learning_rates_are_absolute() -> None:
    plan = FineTuningPlan({"stem": 0.0, "fc": 2.0})
    assert plan.learning_rates(1e-3) == {"stem": 0.0, "fc": 2e-3}


def test_a_plan_cannot_be_changed() -> None:
    source = {"stem": 1.0}
    plan = FineTuningPlan(source)
    source["stem"] = 5.0
    assert plan.multipliers["stem"] == 1.0
    with pytest.raises(TypeError):
        plan.multipliers["stem"] = 2.0  # type: ignore[index]
    assert pickle.loads(pickle.dumps(plan)) == plan


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({}, ValueError, "at least one block name"),
        ({"stem": -0.1}, ValueError, r"'stem' has -0\.1"),
        ({"stem": float("nan")}, ValueError, "finite"),
        ({"stem": float("inf")}, ValueError, "finite"),
        ({"stem": "fast"}, TypeError, "'stem' has 'fast'"),
        ({"stem": True}, TypeError, "'stem' has True"),
        ({"": 1.0}, ValueError, "empty block name"),
        ({3: 1.0}, TypeError, "strings, but got 3"),
    ],
)
def test_plans_that_mean_nothing_are_refused(
    values: dict[str, float], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        FineTuningPlan(values)


@pytest.mark.parametrize(
    ("importance", "threshold", "message"),
    [
        ([0.5], 0.5, "each of the 2 blocks"),
        ([0.5, 1.1], 0.5, r"`importance` must lie in \[0, 1\]"),
        ([0.5, float("nan")], 0.5, r"`importance` must lie in \[0, 1\]"),
        ([0.5, 0.5], -0.1, r"`threshold` must lie in \[0, 1\]"),
    ],
)
def test_genes_out_of_range_are_refused(
    importance: list[float], threshold: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FineTuningPlan.from_genes(["a", "b"], importance, threshold)


def test_repeated_block_names_are_refused() -> None:
    with pytest.raises(ValueError, match="distinct, but fc occur"):
        FineTuningPlan.full(["stem", "fc", "fc"])
    with pytest.raises(TypeError, match="the string 'stem'"):
        FineTuningPlan.full("stem")


def test_the_least_multiplier_is_written_as_parameters() -> None:
    # What a sampler may propose: an importance so small that its multiplier rounds to 0.1.
    plan = FineTuningPlan.from_genes(["stem", "fc"], [1e-20, 0.5], 0.0)
    assert plan.multipliers["stem"] == 0.1
    trial = optuna.trial.FixedTrial(plan.to_params())
    assert suggest_plan(trial, ["stem", "fc"]) == plan


def test_a_multiplier_that_no_genotype_expresses_is_refused_as_parameters() -> None:
    for value in (0.09, 10.5):
        with pytest.raises(ValueError, match="'fc' has"):
            FineTuningPlan({"stem": 1.0, "fc": value}).to_params()


def test_a_trial_without_a_plan_is_refused() -> None:
    trial = optuna.create_study().ask({"x": optuna.distributions.FloatDistribution(0.0, 1.0)})
    with pytest.raises(ValueError, match=r"needs parameters .* but has \['x'\]"):
        FineTuningPlan.from_trial(trial)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "JSON object"),
        ('{"version": 1}', "JSON object"),
        (json.dumps({"version": 99, "multipliers": {"a": 1.0}}), "plan version 99"),
    ],
)
def test_text_that_is_not_a_plan_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FineTuningPlan.from_json(text)
