from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optuna_biotune.ranking import Merit, crowding_distances, front_numbers, merit, ranking

MINIMIZE, MAXIMIZE = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE


def trial(
    *values: float,
    state: TrialState = TrialState.COMPLETE,
    reports: dict[int, float] | None = None,
    constraints: Sequence[float] | None = None,
) -> FrozenTrial:
    return optuna.create_trial(
        state=state,
        values=values or None,
        intermediate_values=reports,
        system_attrs={} if constraints is None else {"constraints": list(constraints)},
    )


def order(trials: Sequence[FrozenTrial], *directions: StudyDirection) -> list[int]:
    return ranking([merit(one, directions) for one in trials])


def test_complete_trials_rank_before_pruned_ones_and_those_by_step_then_value() -> None:
    pruned = TrialState.PRUNED
    trials = [
        trial(9.0),
        trial(state=pruned, reports={0: 0.1, 3: 0.5}),
        trial(state=pruned),
        trial(-1.0),
        trial(state=pruned, reports={1: 0.0}),
        trial(state=pruned, reports={3: 0.2}),
        trial(state=pruned, reports={3: float("nan")}),
    ]
    assert order(trials, MINIMIZE) == [3, 0, 5, 1, 6, 4, 2]
    assert order(trials, MAXIMIZE) == [0, 3, 1, 5, 6, 4, 2]


def test_feasible_trials_rank_before_infeasible_ones_and_those_by_violation() -> None:
    trials = [
        trial(0.1, constraints=[0.5, 0.6]),
        trial(0.2, constraints=[1.0, -9.0]),
        trial(0.9, constraints=[0.0, -1.0]),
        trial(0.8),
    ]
    assert order(trials, MINIMIZE) == [3, 2, 1, 0]


def test_constraints_with_keys_are_read_as_those_of_the_list() -> None:
    keyed = optuna.create_trial(value=0.0, system_attrs={"constraints:memory": 2.5})
    assert merit(keyed, [MINIMIZE]).violation == 2.5


def test_infinite_values_rank_at_the_ends() -> None:
    assert order([trial(math.inf), trial(0.0), trial(-math.inf)], MINIMIZE) == [2, 1, 0]


def test_ties_keep_their_order() -> None:
    assert order([trial(0.5)] * 4, MAXIMIZE) == [0, 1, 2, 3]


def test_with_several_objectives_the_front_decides_then_the_crowding() -> None:
    trials = [
        trial(0.5, 0.5),
        trial(0.0, 1.0),
        trial(1.0, 0.0),
        trial(0.45, 0.52),
        trial(0.6, 0.6),
    ]
    assert order(trials, MINIMIZE, MINIMIZE) == [1, 2, 0, 3, 4]


def test_directions_may_differ() -> None:
    trials = [trial(0.5, 5.0), trial(0.9, 1.0)]
    assert order(trials, MAXIMIZE, MINIMIZE)[0] == 1


def test_one_merit_beats_another_only_if_strictly_better() -> None:
    assert merit(trial(0.1), [MINIMIZE]).beats(merit(trial(0.2), [MINIMIZE]))
    assert not merit(trial(0.1), [MINIMIZE]).beats(merit(trial(0.1), [MINIMIZE]))
    both = [MINIMIZE, MINIMIZE]
    assert merit(trial(0.1, 0.2), both).beats(merit(trial(0.1, 0.3), both))
    assert not merit(trial(0.1, 0.4), both).beats(merit(trial(0.2, 0.3), both))
    infeasible = merit(trial(0.0, 0.0, constraints=[1.0]), both)
    assert merit(trial(9.0, 9.0), both).beats(infeasible)


losses = st.integers(1, 3).flatmap(
    lambda k: st.lists(
        st.lists(st.integers(0, 5).map(float), min_size=k, max_size=k), min_size=1, max_size=20
    )
)


@given(losses)
def test_each_front_is_what_no_row_left_dominates(rows: list[list[float]]) -> None:
    fronts = front_numbers(np.asarray(rows))
    merits = [Merit(0.0, 0, 0.0, tuple(row)) for row in rows]
    for i, mine in enumerate(merits):
        above = [fronts[j] for j, other in enumerate(merits) if other.beats(mine)]
        assert fronts[i] == max(above, default=-1) + 1


@given(losses)
def test_a_ranking_is_a_permutation_that_dominance_agrees_with(rows: list[list[float]]) -> None:
    merits = [Merit(0.0, 0, 0.0, tuple(row)) for row in rows]
    ranks = ranking(merits)
    assert sorted(ranks) == list(range(len(rows)))
    for better, worse in pairwise(ranks):
        assert not merits[worse].beats(merits[better])


def test_crowding_is_infinite_at_the_ends_and_grows_with_the_gaps() -> None:
    front = np.array([[0.0, 1.0], [0.1, 0.9], [0.5, 0.4], [1.0, 0.0]])
    distances = crowding_distances(front)
    assert distances[0] == distances[3] == np.inf
    assert distances[1] == pytest.approx(0.5 + 0.6)
    assert distances[2] == pytest.approx(0.9 + 0.9)


def test_crowding_of_equal_rows_is_finite_or_infinite_but_never_nan() -> None:
    assert not np.isnan(crowding_distances(np.full((4, 2), 0.5))).any()


@pytest.mark.filterwarnings("error")
def test_infinite_losses_leave_the_other_objectives_to_decide() -> None:
    front = np.array([[0.0, np.inf], [0.5, np.inf], [1.0, np.inf]])
    assert not np.isnan(crowding_distances(front)).any()
