from __future__ import annotations

from typing import Any, get_args

import optuna
from optuna.trial import TrialState

from optuna_biotune import visualization
from optuna_biotune.tags import Role
from optuna_biotune.visualization._trials import planned_trials
from tests.synthetic_study import synthetic_study
from tests.visualization.plots import trace


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
