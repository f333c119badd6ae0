from __future__ import annotations

from typing import Any

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from optuna_biotune import FineTuningPlan
from optuna_biotune.baselines import baselines, next_baseline

NAMES = ("stem", "body", "neck", "head")
PLANS = baselines(NAMES)
OTHER = FineTuningPlan({"stem": 0.0, "body": 2.0, "neck": 0.0, "head": 0.5})


def study_of(*trials: tuple[TrialState, FineTuningPlan | None]) -> list[FrozenTrial]:
    """Make trials, the first with number 0; those without a plan have no parameters yet."""
    made = []
    for number, (state, plan) in enumerate(trials):
        params: dict[str, Any] = {} if plan is None else plan.to_params()
        trial = create_trial(
            state=state,
            value=0.5 if state == TrialState.COMPLETE else None,
            params=params,
            distributions=dict.fromkeys(params, FloatDistribution(0.0, 1.0)),
        )
        trial.number = number
        made.append(trial)
    return made


def test_they_are_the_usual_plans_and_full_fine_tuning_at_other_rates() -> None:
    assert PLANS[:3] == (
        FineTuningPlan.full(NAMES),
        FineTuningPlan.linear_probe(NAMES),
        FineTuningPlan.last_blocks(NAMES, 2),
    )
    rates = [set(plan.multipliers.values()) for plan in PLANS[3:]]
    assert [len(rate) for rate in rates] == [1, 1]
    assert [rate.pop() for rate in rates] == pytest.approx([3.162, 0.316], abs=1e-3)


@pytest.mark.parametrize(("n_blocks", "n_plans"), [(0, 0), (1, 3), (2, 4), (3, 5)])
def test_each_is_tried_once_however_few_the_blocks(n_blocks: int, n_plans: int) -> None:
    plans = baselines(NAMES[:n_blocks])
    assert len(plans) == n_plans == len(set(plans))


def test_one_worker_tries_them_in_their_order() -> None:
    done: list[tuple[TrialState, FineTuningPlan | None]] = []
    for plan in PLANS:
        assert next_baseline(NAMES, study_of(*done), len(done)) == plan
        done.append((TrialState.PRUNED if len(done) == 1 else TrialState.COMPLETE, plan))
    assert next_baseline(NAMES, study_of(*done), len(done)) is None


def test_workers_that_begin_together_take_different_ones() -> None:
    trials = study_of(*[(TrialState.RUNNING, None)] * 6)
    taken = [next_baseline(NAMES, trials, number) for number in range(6)]
    assert taken == [*PLANS, None]


def test_parameters_that_are_only_half_written_count_as_none_yet() -> None:
    trials = study_of((TrialState.RUNNING, PLANS[0]), *[(TrialState.COMPLETE, OTHER)] * 4)
    del trials[0].params["freeze_threshold"]
    assert next_baseline(NAMES, trials, 5) is None


def test_those_that_others_did_not_take_have_another_turn() -> None:
    # Workers that began together before anything was known of the search space.
    trials = study_of((TrialState.RUNNING, PLANS[0]), *[(TrialState.RUNNING, OTHER)] * 4)
    assert [next_baseline(NAMES, trials, number) for number in range(5, 10)] == [None, *PLANS[1:]]


def test_one_that_was_enqueued_is_not_tried_again() -> None:
    trials = study_of((TrialState.COMPLETE, PLANS[1]), (TrialState.COMPLETE, PLANS[0]))
    turns = [next_baseline(NAMES, trials, number) for number in range(2, 7)]
    assert turns == [*PLANS[2:], None, None]


def test_one_that_failed_has_one_more_turn() -> None:
    once = study_of((TrialState.FAIL, PLANS[0]))
    assert next_baseline(NAMES, once, 5) == PLANS[0]
    twice = study_of((TrialState.FAIL, PLANS[0]), (TrialState.FAIL, PLANS[0]))
    assert next_baseline(NAMES, twice, 5) is None
