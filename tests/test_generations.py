from __future__ import annotations

import random
from collections.abc import Sequence

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optuna_biotune.generations import EvolutionHistory, EvolutionState
from optuna_biotune.tags import TAG_KEY, Role, Tag


def trial(
    number: int,
    value: float | None = None,
    *,
    tag: Tag | None = None,
    state: TrialState = TrialState.COMPLETE,
    reports: dict[int, float] | None = None,
) -> FrozenTrial:
    made = optuna.create_trial(
        state=state,
        value=value,
        intermediate_values=reports,
        system_attrs={} if tag is None else {TAG_KEY: tag.to_attr(number)},
    )
    made.number = number
    return made


def history(
    trials: Sequence[FrozenTrial], *, population_size: int = 4, elite_size: int = 1
) -> EvolutionHistory:
    made = EvolutionHistory(
        population_size=population_size, elite_size=elite_size, directions=[StudyDirection.MINIMIZE]
    )
    made.update(trials)
    return made


def first_generation(values: Sequence[float]) -> list[FrozenTrial]:
    return [trial(i, value, tag=Tag(0, "initial")) for i, value in enumerate(values)]


def population(state: EvolutionState) -> list[int]:
    return [one.number for one in state.population]


def member(
    number: int, value: float, role: Role, *parents: int, generation: int = 1
) -> FrozenTrial:
    return trial(number, value, tag=Tag(generation, role, parents))


def test_the_first_generation_stays_open_until_its_places_have_finished() -> None:
    trials = first_generation([0.4, 0.3, 0.2])
    assert history(trials).state() == EvolutionState(0)
    trials.append(trial(3, state=TrialState.FAIL, tag=Tag(0, "initial")))
    assert history(trials).state() == EvolutionState(0)
    trials.append(trial(4, 0.1, tag=Tag(0, "initial")))
    state = history(trials).state()
    assert (state.generation, population(state)) == (1, [4, 2, 1, 0])


def test_in_the_first_population_nothing_mutates() -> None:
    state = history(first_generation([0.4, 0.3, 0.2, 0.1])).state()
    assert [one.extinction for one in state.population] == [0.0] * 4


def test_ties_are_broken_by_trial_number() -> None:
    assert population(history(first_generation([0.5] * 4)).state()) == [0, 1, 2, 3]


def test_pruned_trials_take_their_places_and_rank_last() -> None:
    trials = first_generation([0.4, 0.3, 0.2])
    trials.append(trial(3, state=TrialState.PRUNED, reports={0: 0.0}, tag=Tag(0, "initial")))
    state = history(trials).state()
    assert (state.generation, population(state)) == (1, [2, 1, 0, 3])


def test_trials_without_a_tag_belong_to_the_first_generation() -> None:
    trials = [trial(i, 0.1 * i) for i in range(6)]
    state = history(trials).state()
    assert (state.generation, population(state)) == (1, [0, 1, 2, 3])


def test_each_elite_has_two_halves_until_they_are_taken() -> None:
    trials = first_generation([0.1, 0.2, 0.3, 0.4])
    assert [role for _, role in history(trials).state().open_halves] == [
        "elite_plus",
        "elite_minus",
    ]
    trials.append(trial(4, state=TrialState.RUNNING, tag=Tag(1, "elite_plus", (0,))))
    assert [role for _, role in history(trials).state().open_halves] == ["elite_minus"]


def test_a_half_whose_trial_failed_is_given_out_once_more() -> None:
    trials = first_generation([0.1, 0.2, 0.3, 0.4])
    for number, roles in ((4, ["elite_plus", "elite_minus"]), (5, ["elite_minus"])):
        trials.append(trial(number, state=TrialState.FAIL, tag=Tag(1, "elite_plus", (0,))))
        assert [role for _, role in history(trials).state().open_halves] == roles


def test_the_better_half_takes_the_elites_place_if_it_beats_the_elite() -> None:
    trials = first_generation([0.1, 0.2, 0.3, 0.4])
    trials.append(member(4, 0.15, "elite_plus", 0))
    assert population(history(trials).state()) == [0, 1, 2, 3]
    trials.append(member(5, 0.05, "elite_minus", 0))
    assert population(history(trials).state()) == [5, 1, 2, 3]


def test_a_half_that_only_equals_the_elite_does_not_replace_it() -> None:
    trials = first_generation([0.1, 0.2, 0.3, 0.4])
    trials.append(member(4, 0.1, "elite_plus", 0))
    assert population(history(trials).state()) == [0, 1, 2, 3]


def test_parents_that_are_worse_than_their_child_leave_the_pool() -> None:
    trials = first_generation([0.1, 0.2, 0.3, 0.4])
    trials.append(member(4, 0.25, "offspring", 1, 2))
    state = history(trials).state()
    assert population(state) == [0, 1, 2, 3]
    assert [one.number for one in state.pool] == [0, 1, 3]


def test_the_next_population_is_the_elites_and_the_offspring() -> None:
    trials = first_generation([0.1, 0.2, 0.3, 0.4])
    trials += [member(4, 0.5, "elite_plus", 0), member(5, 0.6, "elite_minus", 0)]
    trials += [member(6 + i, 0.7 - 0.1 * i, "offspring", 1, 2) for i in range(3)]
    state = history(trials).state()
    assert (state.generation, population(state)) == (2, [0, 8, 7, 6])
    phi = [0.1, 0.5, 0.6, 0.7]
    expected = [(p + phi[0] * (i / 3 - 1)) / phi[-1] for i, p in enumerate(phi)]
    assert [one.extinction for one in state.population] == pytest.approx(expected)


def test_extra_offspring_of_parallel_workers_compete_for_the_places() -> None:
    trials = first_generation([0.1, 0.2, 0.3, 0.4])
    trials += [member(4 + i, 0.9 - 0.1 * i, "offspring", 1, 2) for i in range(6)]
    state = history(trials).state()
    assert (state.generation, population(state)) == (2, [0, 9, 8, 7])


def test_a_late_result_of_a_closed_generation_is_selected_as_though_on_time() -> None:
    trials = first_generation([0.1, 0.2, 0.3, 0.4])
    late = trial(4, state=TrialState.RUNNING, tag=Tag(1, "elite_plus", (0,)))
    trials.append(late)
    trials += [member(5 + i, 0.5 + 0.1 * i, "offspring", 1, 2) for i in range(5)]
    trials += [member(10, 0.9, "offspring", 0, 5, generation=2)]
    watching = history(trials)
    assert (watching.state().generation, population(watching.state())) == (2, [0, 5, 6, 7])
    trials[4] = member(4, 0.05, "elite_plus", 0)
    watching.update(trials)
    assert (watching.state().generation, population(watching.state())) == (2, [4, 5, 6, 7])


def test_a_late_result_can_bring_back_an_enqueued_trial_as_elite() -> None:
    trials = first_generation([0.1, 0.2, 0.3, 0.4])
    trials += [member(4 + i, 0.5, "offspring", 1, 2) for i in range(5)]
    assert population(history(trials).state())[0] == 0
    trials.append(trial(9, 0.01))
    assert population(history(trials).state())[0] == 9


def test_the_state_survives_a_larger_population_on_resuming() -> None:
    trials = first_generation([0.1, 0.2, 0.3, 0.4])
    trials += [member(4 + i, 0.5, "offspring", 1, 2) for i in range(5)]
    state = history(trials, population_size=8, elite_size=2).state()
    assert state.generation == 1, "a generation that later trials have left does not reopen"


roles: list[Role] = ["initial", "elite_plus", "elite_minus", "offspring", "fresh", "adopted"]


@st.composite
def finishing_orders(draw: st.DrawFn) -> tuple[list[FrozenTrial], list[int]]:
    trials = []
    for number in range(draw(st.integers(1, 40))):
        parents = (
            tuple(draw(st.lists(st.integers(0, number - 1), min_size=2, max_size=2)))
            if number
            else ()
        )
        # A worker that proposes for generation g has read more than g trials.
        generation = draw(st.integers(0, min(3, number)))
        tag = Tag(generation, draw(st.sampled_from(roles)), parents)
        finished = draw(st.sampled_from([TrialState.COMPLETE] * 3 + [TrialState.FAIL]))
        value = draw(st.floats(0, 1)) if finished == TrialState.COMPLETE else None
        trials.append(trial(number, value, tag=tag, state=finished))
    return trials, draw(st.permutations(range(len(trials))))


@settings(max_examples=60)
@given(finishing_orders())
def test_reading_as_trials_finish_gives_the_state_of_reading_all_at_once(
    case: tuple[list[FrozenTrial], list[int]],
) -> None:
    final, order = case
    current = [trial(t.number, state=TrialState.RUNNING, tag=Tag.of(t)) for t in final]
    watching = history([])
    for number in order:
        current[number] = final[number]
        # Some workers look only now and then.
        if random.Random(number).random() < 0.5:
            watching.update(current[: max(order[: order.index(number) + 1]) + 1])
            watching.state()
    watching.update(final)
    assert watching.state() == history(final).state()
