from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from optuna_biotune import BioTuneSampler, FineTuningPlan, suggest_plan
from optuna_biotune.tags import TAG_KEY, Tag, generation_of

BLOCKS = ("stem", "layer1", "layer2", "layer3", "fc")
SPACE: dict[str, BaseDistribution] = {
    **{f"importance/{name}": FloatDistribution(0.0, 1.0) for name in BLOCKS},
    "freeze_threshold": FloatDistribution(0.0, 1.0),
}
BEST = {"stem": 0.0, "layer1": 0.0, "layer2": 0.3, "layer3": 1.0, "fc": 4.0}


def accuracy(plan: FineTuningPlan) -> float:
    """Score a plan in (0, 1); 1.0 for BEST."""
    gaps = [
        abs(np.log10(max(plan.multipliers[name], 0.03)) - np.log10(max(best, 0.03)))
        for name, best in BEST.items()
    ]
    return float(1.0 - np.mean(gaps) / 3.0)


def objective(trial: optuna.Trial) -> float:
    return accuracy(suggest_plan(trial, BLOCKS))


def tag_of(trial: FrozenTrial) -> Tag:
    tag = Tag.of(trial)
    assert tag is not None, f"trial {trial.number} has no tag"
    return tag


def roles_by_generation(trials: Sequence[FrozenTrial]) -> dict[int, Counter[str]]:
    roles: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for trial in trials:
        if trial.state != TrialState.FAIL:
            tag = tag_of(trial)
            roles[tag.generation][tag.role] += 1
    return dict(roles)


def new_study(sampler: BioTuneSampler | None = None, **options: Any) -> optuna.Study:
    return optuna.create_study(
        direction="maximize", sampler=sampler or BioTuneSampler.paper(seed=0), **options
    )


def test_trials_are_counted_with_the_first_generation() -> None:
    sampler = BioTuneSampler.paper()
    assert [sampler.n_trials_for(generations=g) for g in (1, 2, 10)] == [10, 23, 127]
    with pytest.raises(ValueError, match="`generations`"):
        sampler.n_trials_for(0)


def test_generations_have_the_papers_places() -> None:
    sampler = BioTuneSampler.paper(seed=0)
    study = new_study(sampler)
    study.optimize(objective, n_trials=sampler.n_trials_for(4))
    roles = roles_by_generation(study.trials)
    assert roles[0] == {"initial": 10}
    for generation in (1, 2, 3):
        halves = roles[generation]["elite_plus"], roles[generation]["elite_minus"]
        assert halves == (3, 3)
        assert roles[generation]["offspring"] + roles[generation]["fresh"] == 7
    numbers = [tag_of(trial).generation for trial in study.trials]
    assert numbers == sorted(numbers)


def test_the_evolution_finds_better_plans_than_random_search() -> None:
    def best(sampler: optuna.samplers.BaseSampler) -> float:
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(objective, n_trials=127)
        return study.best_value

    evolved = [best(BioTuneSampler.paper(seed=seed)) for seed in range(5)]
    random = [best(optuna.samplers.RandomSampler(seed=seed)) for seed in range(5)]
    assert np.mean(evolved) > np.mean(random)


@pytest.mark.parametrize("search_space", [None, SPACE])
def test_every_proposal_selects_a_block(search_space: dict[str, BaseDistribution] | None) -> None:
    for seed in range(40):
        study = new_study(BioTuneSampler.paper(seed=seed, search_space=search_space))
        study.optimize(objective, n_trials=30)
        assert all(FineTuningPlan.from_trial(trial).trainable for trial in study.trials)


def test_a_given_search_space_makes_the_first_trial_relative() -> None:
    sampler = BioTuneSampler.paper(seed=0, search_space=SPACE)
    trial = new_study(sampler).ask()
    trial.suggest_float("importance/fc", 0.0, 1.0)
    assert trial.relative_params is not None and trial.relative_params.keys() == SPACE.keys()


def test_without_a_search_space_the_second_trial_is_relative() -> None:
    study = new_study()
    study.optimize(objective, n_trials=1)
    trial = study.ask()
    trial.suggest_float("importance/fc", 0.0, 1.0)
    assert trial.relative_params is not None and trial.relative_params.keys() == SPACE.keys()


def test_minimising_one_minus_the_value_gives_the_same_trials() -> None:
    up = new_study()
    up.optimize(objective, n_trials=60)
    down = optuna.create_study(direction="minimize", sampler=BioTuneSampler.paper(seed=0))
    down.optimize(lambda trial: 1.0 - objective(trial), n_trials=60)
    assert [t.params for t in up.trials] == [t.params for t in down.trials]


def test_failed_and_nan_trials_count_as_never_been() -> None:
    def sometimes_failing(trial: optuna.Trial) -> float:
        value = objective(trial)
        if trial.number % 5 == 1:
            return float("nan")
        if trial.number % 5 == 2:
            raise RuntimeError("the machine is on fire")
        return value

    study = new_study()
    study.optimize(sometimes_failing, n_trials=60, catch=RuntimeError)
    roles = roles_by_generation(study.trials)
    assert roles[0].total() == 10
    assert all(roles[g].total() == 13 for g in range(1, max(roles)))


def test_an_elites_step_that_always_fails_does_not_stop_the_study() -> None:
    def failing_halves(trial: optuna.Trial) -> float:
        value = objective(trial)
        attrs = trial.study.trials[trial.number].system_attrs
        return float("nan") if attrs[TAG_KEY]["role"].startswith("elite") else value

    study = new_study()
    study.optimize(failing_halves, n_trials=80)
    assert max(roles_by_generation(study.trials)) >= 3


def test_pruned_trials_fill_generations_and_rank_behind_complete_ones() -> None:
    def prunable(trial: optuna.Trial) -> float:
        value = objective(trial)
        trial.report(value + 10.0, step=1)
        if trial.number % 2:
            raise optuna.TrialPruned
        return value

    study = new_study()
    study.optimize(prunable, n_trials=36)
    assert [r.total() for r in roles_by_generation(study.trials).values()] == [10, 13, 13]
    elites = {tag_of(t).parents[0] for t in study.trials if tag_of(t).role == "elite_plus"}
    assert all(study.trials[number].state == TrialState.COMPLETE for number in elites)


def test_a_study_in_which_all_is_pruned_still_evolves() -> None:
    def always_pruned(trial: optuna.Trial) -> float:
        trial.report(objective(trial), step=0)
        raise optuna.TrialPruned

    study = new_study(BioTuneSampler.paper(seed=0, search_space=SPACE))
    study.optimize(always_pruned, n_trials=36)
    assert [r.total() for r in roles_by_generation(study.trials).values()] == [10, 13, 13]


def test_an_enqueued_plan_is_adopted_and_becomes_a_parent() -> None:
    study = new_study()
    study.enqueue_trial(FineTuningPlan(BEST).to_params())
    study.optimize(objective, n_trials=23)
    assert tag_of(study.trials[0]) == Tag(0, "adopted")
    assert roles_by_generation(study.trials)[0] == {"adopted": 1, "initial": 9}
    assert tag_of(study.trials[10]) == Tag(1, "elite_plus", (0,))


def test_a_plan_enqueued_in_mid_evolution_joins_it() -> None:
    study = new_study()
    study.optimize(objective, n_trials=40)
    study.enqueue_trial(FineTuningPlan(BEST).to_params())
    study.optimize(objective, n_trials=20)
    assert study.best_trial.number == 40
    assert any(40 in tag_of(trial).parents for trial in study.trials[41:])


def test_a_partly_fixed_enqueued_trial_keeps_what_was_fixed() -> None:
    study = new_study(BioTuneSampler.paper(seed=0, search_space=SPACE))
    study.enqueue_trial({"importance/fc": 0.125})
    study.optimize(objective, n_trials=12)
    assert study.trials[0].params["importance/fc"] == 0.125
    assert tag_of(study.trials[0]).role == "initial"


def test_trials_of_another_sampler_are_adopted() -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=20)
    study.sampler = BioTuneSampler.paper(seed=0)
    study.optimize(objective, n_trials=13)
    assert {tag_of(t).generation for t in study.trials[20:]} == {1}
    best = sorted(study.trials[:20], key=lambda t: -t.values[0])[:3]
    elites = {tag_of(t).parents[0] for t in study.trials[20:] if tag_of(t).role == "elite_plus"}
    assert elites == {t.number for t in best}


def test_added_trials_are_adopted() -> None:
    study = new_study()
    for value in range(10):
        params = {name: 0.05 * value + 0.3 for name in SPACE}
        params["freeze_threshold"] = 0.1
        study.add_trial(optuna.create_trial(params=params, distributions=SPACE, value=0.01 * value))
    study.optimize(objective, n_trials=1)
    assert tag_of(study.trials[10]) == Tag(1, "elite_plus", (9,))


def test_further_parameters_evolve_beside_the_plan() -> None:
    def with_more(trial: optuna.Trial) -> float:
        value = objective(trial)
        decay = trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True)
        batch = trial.suggest_int("batch_size", 8, 128, log=True)
        optimizer = trial.suggest_categorical("optimizer", ["adam", "sgd", "lion"])
        distance = abs(np.log10(decay) + 3.0) / 3.0 + abs(np.log2(batch) - 5.0) / 2.0
        return float(value - 0.1 * distance - 0.3 * (optimizer != "lion"))

    study = new_study()
    study.optimize(with_more, n_trials=127)
    late = study.trials[-26:]
    assert sum(t.params["optimizer"] == "lion" for t in late) >= 20
    early_gap = np.mean([abs(np.log10(t.params["weight_decay"]) + 3) for t in study.trials[:10]])
    late_gap = np.mean([abs(np.log10(t.params["weight_decay"]) + 3) for t in late])
    assert late_gap < early_gap
    for trial in study.trials:
        parents = tag_of(trial).parents
        if parents:
            inherited = {study.trials[p].params["optimizer"] for p in parents}
            assert trial.params["optimizer"] in inherited


def test_conditional_spaces_evolve_what_all_trials_share() -> None:
    def conditional(trial: optuna.Trial) -> float:
        value = objective(trial)
        if trial.suggest_categorical("optimizer", ["adam", "sgd"]) == "sgd":
            return value - 0.1 * trial.suggest_float("momentum", 0.0, 1.0)
        return value - 0.1 * trial.suggest_float("beta", 0.0, 1.0)

    study = new_study()
    study.optimize(conditional, n_trials=60)
    assert all(t.state == TrialState.COMPLETE for t in study.trials)
    assert tag_of(study.trials[-1]).generation == 4


def test_partly_fixed_samplers_work() -> None:
    study = new_study()
    study.optimize(objective, n_trials=12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.sampler = optuna.samplers.PartialFixedSampler(
            {"importance/stem": 0.0, "freeze_threshold": 0.3}, study.sampler
        )
    study.optimize(objective, n_trials=40)
    for trial in study.trials[12:]:
        assert trial.params["importance/stem"] == 0.0
        assert trial.params["freeze_threshold"] == 0.3
    assert tag_of(study.trials[-1]).generation == 4


def test_hyperbands_brackets_share_one_evolution() -> None:
    def reporting(trial: optuna.Trial) -> float:
        value = objective(trial)
        for step in range(9):
            trial.report(value * (step + 1) / 9, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    study = new_study(pruner=optuna.pruners.HyperbandPruner(min_resource=1, max_resource=9))
    study.optimize(reporting, n_trials=62)
    assert {t.state for t in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    roles = roles_by_generation(study.trials)
    assert [roles[g].total() for g in range(5)] == [10, 13, 13, 13, 13]


def test_no_two_trials_train_alike() -> None:
    study = new_study(BioTuneSampler.paper(seed=2))
    study.optimize(objective, n_trials=300)
    plans = Counter(FineTuningPlan.from_trial(trial) for trial in study.trials)
    assert max(plans.values()) == 1


def test_a_space_of_few_values_may_repeat_itself() -> None:
    study = optuna.create_study(sampler=BioTuneSampler.paper(seed=0))
    study.optimize(lambda trial: trial.suggest_int("x", 0, 2), n_trials=40)
    assert len(study.trials) == 40


def test_momentum_changes_offspring_and_keeps_them_in_range() -> None:
    plain, moved = new_study(), new_study(BioTuneSampler.paper(seed=0, momentum=0.5))
    for study in (plain, moved):
        study.optimize(objective, n_trials=80)
    assert [t.params for t in plain.trials[:16]] == [t.params for t in moved.trials[:16]]
    assert plain.trials[-1].params != moved.trials[-1].params
    assert all(FineTuningPlan.from_trial(trial).trainable for trial in moved.trials)


def test_several_studies_can_share_one_sampler() -> None:
    sampler = BioTuneSampler.paper(seed=0)
    studies = [new_study(sampler), new_study(sampler)]
    for _ in range(30):
        for study in studies:
            study.optimize(objective, n_trials=1)
    assert [t.params for t in studies[0].trials] == [t.params for t in studies[1].trials]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"elite_size": 0}, "`elite_size` must be at least 1, but got 0"),
        ({"population_size": 3}, r"`population_size` must be greater than `elite_size` \(3\)"),
        ({"elite_step": 0.0}, r"`elite_step` must lie in \(0, 1\]"),
        ({"elite_step": float("nan")}, r"`elite_step` must lie in \(0, 1\]"),
        ({"momentum": 1.0}, r"`momentum` must lie in \[0, 1\)"),
        ({"seed": -1}, "`seed` must not be negative"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BioTuneSampler(**arguments)


def test_a_search_space_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="but got list"):
        BioTuneSampler(search_space=["importance/fc"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"'importance/fc' has \(0, 1\)"):
        BioTuneSampler(search_space={"importance/fc": (0, 1)})  # type: ignore[dict-item]


def test_the_objective_can_ask_for_its_generation() -> None:
    seen = []

    def asking(trial: optuna.Trial) -> float:
        value = objective(trial)
        seen.append(generation_of(trial))
        return value

    study = new_study()
    study.optimize(asking, n_trials=30)
    assert seen == [tag_of(trial).generation for trial in study.trials]


_HALF_OF_A_STUDY = """
import sys
import optuna
from optuna_biotune import BioTuneSampler
from tests.test_sampler import objective

study = optuna.create_study(
    direction="maximize", sampler=BioTuneSampler.paper(seed=7), storage=sys.argv[1],
    study_name="resumed", load_if_exists=True,
)
study.optimize(objective, n_trials=25)
"""


def test_resuming_in_a_new_process_gives_the_trials_of_one_go(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/resumed.db"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", _HALF_OF_A_STUDY, url], check=True)
    resumed = optuna.load_study(study_name="resumed", storage=url)
    whole = new_study(BioTuneSampler.paper(seed=7), storage=f"sqlite:///{tmp_path}/whole.db")
    whole.optimize(objective, n_trials=50)
    assert [t.params for t in resumed.trials] == [t.params for t in whole.trials]
    assert [tag_of(t) for t in resumed.trials] == [tag_of(t) for t in whole.trials]
    assert len(resumed.trials) == 50


def test_a_new_sampler_at_every_trial_gives_the_same_trials() -> None:
    kept, renewed = new_study(), new_study()
    kept.optimize(objective, n_trials=50)
    for _ in range(50):
        renewed.sampler = BioTuneSampler.paper(seed=0)
        renewed.optimize(objective, n_trials=1)
    assert [t.params for t in kept.trials] == [t.params for t in renewed.trials]


def test_threads_share_a_sampler_without_losing_a_place() -> None:
    study = new_study(BioTuneSampler.paper(seed=0, search_space=SPACE))
    study.optimize(objective, n_trials=150, n_jobs=4)
    roles = roles_by_generation(study.trials)
    # While the last places of a generation run, at most three other threads add to it.
    assert all(13 <= roles[g].total() <= 16 for g in range(1, max(roles)))
    halves = Counter(tag_of(t) for t in study.trials if tag_of(t).role.startswith("elite"))
    assert max(halves.values()) == 1
    genotypes = Counter(tuple(sorted(trial.params.items())) for trial in study.trials)
    assert max(genotypes.values()) == 1


def test_a_slow_trial_may_descend_from_trials_of_higher_numbers() -> None:
    study = new_study(BioTuneSampler.paper(seed=0, search_space=SPACE))
    slow = study.ask()
    study.optimize(objective, n_trials=12)
    study.tell(slow, objective(slow))
    tag = tag_of(study.trials[0])
    assert (tag.generation, tag.is_half) == (1, True)
    study.optimize(objective, n_trials=10)
    assert roles_by_generation(study.trials)[1].total() == 13
    halves = Counter(tag_of(t) for t in study.trials if tag_of(t).is_half)
    assert max(halves.values()) == 1


def test_halves_given_to_two_workers_mirror_each_other() -> None:
    study = new_study(BioTuneSampler.paper(search_space=SPACE))
    study.optimize(objective, n_trials=10)
    halves = []
    for _ in range(6):
        # Workers in processes of their own have samplers of their own, without a seed.
        study.sampler = BioTuneSampler.paper(search_space=SPACE)
        trial = study.ask()
        suggest_plan(trial, BLOCKS)
        halves.append(study.trials[trial.number])
    for plus, minus in zip(halves[::2], halves[1::2], strict=True):
        assert (tag_of(plus).role, tag_of(minus).role) == ("elite_plus", "elite_minus")
        elite = study.trials[tag_of(plus).parents[0]]
        assert tag_of(minus).parents == (elite.number,)
        steps = [
            {k: v - elite.params[k] for k, v in half.params.items() if v != elite.params[k]}
            for half in (plus, minus)
        ]
        assert len(steps[0]) == 1 and steps[0].keys() == steps[1].keys()
        ((name, up),) = steps[0].items()
        inside = all(0.0 < half.params[name] < 1.0 for half in (plus, minus))
        assert up * steps[1][name] < 0.0
        assert not inside or up == pytest.approx(-steps[1][name])


def test_of_two_workers_that_take_a_half_at_once_one_leaves_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = new_study(BioTuneSampler.paper(seed=0, search_space=SPACE))
    study.optimize(objective, n_trials=10)
    both_have_read = threading.Barrier(2, timeout=30)
    original = BioTuneSampler._breeder

    def read_together(self: BioTuneSampler, *args: Any) -> Any:
        breeder = original(self, *args)
        both_have_read.wait()
        return breeder

    monkeypatch.setattr(BioTuneSampler, "_breeder", read_together)

    def work() -> None:
        own = optuna.load_study(
            study_name=study.study_name,
            storage=study._storage,
            sampler=BioTuneSampler.paper(seed=0, search_space=SPACE),
        )
        suggest_plan(own.ask(), BLOCKS)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    roles = Counter(tag_of(t).role for t in study.trials[10:])
    assert roles["elite_plus"] <= 1
    assert roles["offspring"] >= 1
    plans = [FineTuningPlan.from_trial(trial) for trial in study.trials[10:]]
    assert plans[0] != plans[1]


def test_a_trial_costs_one_write_and_the_study_none(monkeypatch: pytest.MonkeyPatch) -> None:
    study = new_study()
    writes: Counter[str] = Counter()

    def count(name: str) -> None:
        original: Callable[..., Any] = getattr(study._storage, name)

        def counted(*args: Any) -> Any:
            writes[name] += 1
            return original(*args)

        monkeypatch.setattr(study._storage, name, counted)

    for name in ("set_trial_system_attr", "set_study_system_attr", "set_study_user_attr"):
        count(name)
    study.optimize(objective, n_trials=40)
    assert writes == {"set_trial_system_attr": 40}
