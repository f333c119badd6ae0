"""The recommended plan, and knowing when to stop."""

from __future__ import annotations

import logging
import math

import numpy as np
import optuna
import pytest

from optuna_biotune import (
    BioTuneSampler,
    FineTuningPlan,
    StopOnPlateau,
    best_plan,
    best_trial,
    suggest_plan,
)
from optuna_biotune.recommendation import recommend

BLOCKS = ("a", "b", "c", "d")


def worth(plan: FineTuningPlan) -> float:
    best = {"a": 0.0, "b": 0.5, "c": 1.0, "d": 4.0}
    total = 0.0
    for name, given in plan.multipliers.items():
        if (given == 0.0) != (best[name] == 0.0):
            total += 0.05
        elif given > 0.0:
            total += 0.05 * math.log10(given / best[name]) ** 2
    return 0.9 - total


def noisy_study(seed: int, noise: float, n_trials: int, **options: object) -> optuna.Study:
    rng = np.random.default_rng(seed)
    study = optuna.create_study(direction="maximize", sampler=BioTuneSampler(seed=seed))
    study.optimize(
        lambda trial: worth(suggest_plan(trial, BLOCKS)) + noise * rng.standard_normal(),
        n_trials=n_trials,
        **options,  # type: ignore[arg-type]
    )
    return study


def test_the_recommended_plan_is_worth_more_than_the_luckiest() -> None:
    gains = []
    for seed in range(8):
        study = noisy_study(seed, 0.05, 40)
        gains.append(worth(best_plan(study)) - worth(FineTuningPlan.from_trial(study.best_trial)))
    assert np.mean(gains) > 0.005


def test_without_noise_it_is_the_best_trial_or_as_good() -> None:
    study = noisy_study(0, 0.0, 30)
    assert best_trial(study).value == pytest.approx(study.best_value, abs=2e-3)


def test_the_value_and_the_noise_are_estimated() -> None:
    study = noisy_study(1, 0.03, 50)
    found = recommend(study)
    assert found is not None
    assert found.value == pytest.approx(worth(FineTuningPlan.from_trial(found.trial)), abs=0.03)
    assert 0.015 < found.noise < 0.06
    assert found.regret >= 0.0


def test_minimising_gives_the_same_as_maximising() -> None:
    up = noisy_study(2, 0.02, 20)
    down = optuna.create_study(direction="minimize")
    for trial in up.trials:
        down.add_trial(
            optuna.trial.create_trial(
                params=trial.params, distributions=trial.distributions, value=-(trial.value or 0.0)
            )
        )
    assert best_trial(down).number == best_trial(up).number


def test_studies_of_other_samplers_have_a_recommended_plan() -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(lambda trial: worth(suggest_plan(trial, BLOCKS)), n_trials=15)
    assert BioTuneSampler.best_plan(study) == FineTuningPlan.from_trial(best_trial(study))


def test_the_study_is_not_changed() -> None:
    study = noisy_study(0, 0.01, 10)
    before = [(t.params, t.system_attrs, t.user_attrs) for t in study.trials]
    trial = best_trial(study)
    trial.set_user_attr("mine", 1)
    assert [(t.params, t.system_attrs, t.user_attrs) for t in study.trials] == before


def test_a_study_of_two_networks_has_a_recommended_trial() -> None:
    study = noisy_study(0, 0.01, 6)
    study.optimize(_of_two, n_trials=6)
    assert best_trial(study) in study.trials


def _of_two(trial: optuna.Trial) -> float:
    return 0.1 * len(suggest_plan(trial, ("x", "y")).trainable)


def test_few_trials_recommend_the_best_value() -> None:
    study = noisy_study(0, 0.01, 2)
    assert best_trial(study).number == study.best_trial.number
    assert recommend(study) is None


def test_without_a_complete_trial_there_is_none() -> None:
    with pytest.raises(ValueError, match="no complete trial"):
        best_trial(optuna.create_study())


def test_several_objectives_have_no_best_plan() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    with pytest.raises(ValueError, match="several objectives"):
        best_plan(study)


def test_a_search_stops_on_the_plateau_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="optuna_biotune"):
        study = noisy_study(0, 0.05, 127, callbacks=[StopOnPlateau()])
    n_trials = len(study.trials)
    assert 20 <= n_trials < 100
    assert f"Stopped after trial {n_trials - 1}" in caplog.text
    # The best plan is worth 0.9. One standard deviation of the noise is expected to be left.
    assert worth(best_plan(study)) > 0.9 - 2 * 0.05


def test_a_search_does_not_stop_while_there_is_more_to_gain() -> None:
    # Hardly any noise, so even small gains are seen.
    study = noisy_study(0, 0.0005, 30, callbacks=[StopOnPlateau()])
    assert len(study.trials) == 30


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"min_trials": 2}, "min_trials"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"patience": 0}, "pat"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}"):
        StopOnPlateau(**arguments)  # type: ignore[arg-type]
