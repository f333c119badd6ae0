from __future__ import annotations

import math

import numpy as np
import optuna
import pytest

from optuna_biotune import FineTuningPlan, visualization
from optuna_biotune.visualization._block_effect import block_effects
from optuna_biotune.visualization._trials import planned_trials
from tests.synthetic_study import synthetic_study
from tests.visualization.plots import planned, trace


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
