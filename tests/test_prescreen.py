"""The sampler's default: offspring prescreened by a surrogate over phenotypes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from optuna_biotune import BioTuneSampler, FineTuningPlan, suggest_plan
from optuna_biotune.baselines import baselines
from optuna_biotune.encoding import Encoding
from optuna_biotune.evidence import MOST_TRIALS, EvidenceReader
from optuna_biotune.tags import Tag

BLOCKS = ("stem", "layer1", "layer2", "layer3", "layer4", "fc")
SPACE = {
    name: FloatDistribution(0.0, 1.0)
    for name in [*(f"importance/{block}" for block in BLOCKS), "freeze_threshold"]
}
BEST = FineTuningPlan(dict(zip(BLOCKS, [0.0, 0.0, 0.3, 1.0, 3.0, 5.0], strict=True)))


def worth(plan: FineTuningPlan) -> float:
    """Score a plan by its distance from the best one."""
    total = 0.0
    for name, best in BEST.multipliers.items():
        given = plan.multipliers[name]
        if (given == 0.0) != (best == 0.0):
            total += 0.1
        elif best > 0.0:
            total += 0.1 * abs(math.log10(given / best))
    return 0.9 - total


def objective(trial: optuna.Trial) -> float:
    return worth(suggest_plan(trial, BLOCKS))


def new_study(sampler: BioTuneSampler | None = None, **options: Any) -> optuna.Study:
    return optuna.create_study(
        direction="maximize", sampler=sampler or BioTuneSampler(seed=0), **options
    )


def masks(study: optuna.Study) -> list[str]:
    return [FineTuningPlan.from_trial(trial).mask for trial in study.trials]


@pytest.mark.parametrize("search_space", [None, SPACE], ids=["learnt", "given"])
def test_a_search_begins_with_the_usual_ways_to_fine_tune(
    search_space: dict[str, FloatDistribution] | None,
) -> None:
    study = new_study(BioTuneSampler(seed=0, search_space=search_space))
    study.optimize(objective, n_trials=6)
    plans = [FineTuningPlan.from_trial(trial) for trial in study.trials]
    assert plans[0] == FineTuningPlan.full(BLOCKS)
    assert plans[1] == FineTuningPlan.linear_probe(BLOCKS)
    assert plans[2] == FineTuningPlan.last_blocks(BLOCKS, 2)
    for plan, multiplier in zip(plans[3:5], (10**0.5, 10**-0.5), strict=True):
        assert set(plan.multipliers) == set(BLOCKS)
        assert list(plan.multipliers.values()) == pytest.approx([multiplier] * len(BLOCKS))
    # The search space is not known in the first trial, unless it is given.
    tags = [Tag.of(trial) for trial in study.trials[1:]]
    assert [tag.role for tag in tags if tag is not None] == ["baseline"] * 4 + ["initial"]


def test_a_baseline_that_was_enqueued_is_not_trained_twice() -> None:
    study = new_study()
    study.enqueue_trial(FineTuningPlan.linear_probe(BLOCKS).to_params())
    study.optimize(objective, n_trials=6)
    assert masks(study).count("FFFFFT") == 1


@pytest.mark.parametrize("space", [SPACE, None], ids=["given", "learnt"])
def test_baselines_that_failed_are_tried_once_more(space: dict[str, Any] | None) -> None:
    study = new_study(BioTuneSampler(seed=0, search_space=space))

    def failing(trial: optuna.Trial) -> float:
        plan = suggest_plan(trial, BLOCKS)
        fails = plan == FineTuningPlan.full(BLOCKS) or trial.number == 3
        return math.nan if fails else worth(plan)

    study.optimize(failing, n_trials=9)
    plans = [FineTuningPlan.from_trial(trial) for trial in study.trials]
    full, *others = baselines(BLOCKS)
    assert [plans.count(plan) for plan in others] == [1, 1, 2, 1]
    assert plans.count(full) == 2


def test_each_baseline_has_its_own_further_parameters() -> None:
    study = new_study()

    def with_decay(trial: optuna.Trial) -> float:
        return worth(suggest_plan(trial, BLOCKS)) - trial.suggest_float("decay", 0.0, 0.1)

    study.optimize(with_decay, n_trials=5)
    assert len({trial.params["decay"] for trial in study.trials}) == 5


def test_joining_another_samplers_study_starts_no_baselines() -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=12)
    study.sampler = BioTuneSampler(seed=0)
    study.optimize(objective, n_trials=8)
    tags = [Tag.of(trial) for trial in study.trials[12:]]
    assert all(tag is not None and tag.role in ("offspring", "mutant", "fresh") for tag in tags)
    assert all(max(tag.parents, default=0) < 20 for tag in tags if tag is not None)


def test_the_search_is_far_ahead_of_the_papers_evolution() -> None:
    def best(sampler: BioTuneSampler) -> float:
        study = new_study(sampler)
        study.optimize(objective, n_trials=45)
        return study.best_value

    ours = [best(BioTuneSampler(seed=seed)) for seed in range(3)]
    papers = [best(BioTuneSampler.paper(seed=seed)) for seed in range(3)]
    assert statistics.fmean(ours) > statistics.fmean(papers) + 0.05
    assert min(ours) > 0.75


def test_offspring_name_the_trials_that_they_come_from() -> None:
    study = new_study()
    study.optimize(objective, n_trials=30)
    tags = {trial.number: Tag.of(trial) for trial in study.trials}
    for number, tag in tags.items():
        assert tag is not None
        assert all(parent < number for parent in tag.parents)
    roles = {tag.role for tag in tags.values() if tag is not None}
    assert {"baseline", "initial", "offspring", "mutant"} <= roles


def test_generations_have_the_places_that_n_trials_for_counts() -> None:
    sampler = BioTuneSampler(seed=0, population_size=5, elite_size=2)
    study = new_study(sampler)
    study.optimize(objective, n_trials=sampler.n_trials_for(3))
    generations = [tag.generation for trial in study.trials if (tag := Tag.of(trial))]
    assert generations == [0] * 5 + [1] * 7 + [2] * 7


def test_stopping_and_resuming_gives_the_trials_of_one_go(tmp_path: Any) -> None:
    whole = new_study(BioTuneSampler(seed=3))
    whole.optimize(objective, n_trials=24)
    url = f"sqlite:///{tmp_path}/parts.db"
    for _ in range(3):
        part = new_study(
            BioTuneSampler(seed=3), storage=url, study_name="parts", load_if_exists=True
        )
        part.optimize(objective, n_trials=8)
    assert [t.params for t in part.trials] == [t.params for t in whole.trials]


def test_trials_that_run_side_by_side_are_all_different() -> None:
    study = new_study()
    study.optimize(objective, n_trials=12)
    running = [study.ask() for _ in range(10)]
    for trial in running:
        suggest_plan(trial, BLOCKS)
    plans = {FineTuningPlan.from_trial(trial) for trial in study.get_trials(deepcopy=False)}
    assert len(plans) == 22


def test_running_trials_are_pending_evidence() -> None:
    study = new_study(BioTuneSampler(seed=0, search_space=SPACE))
    study.optimize(objective, n_trials=5)
    for _ in range(2):
        suggest_plan(study.ask(), BLOCKS)
    study.ask()  # has no parameters yet
    reader = EvidenceReader(study.directions, Encoding(SPACE), 0)
    evidence = reader.read(study.get_trials(deepcopy=False))
    assert len(evidence) == 5
    assert evidence.pending_genes.shape == (2, 7)


def finished(values: list[float], *, pruned: bool = False, worth: float = 0.0) -> FrozenTrial:
    return create_trial(
        params=BEST.to_params(),
        distributions=dict(SPACE),
        value=None if pruned else worth,
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        intermediate_values=dict(enumerate(values)),
    )


def test_a_pruned_trial_counts_with_what_it_would_have_come_to() -> None:
    study = new_study()
    study.add_trials(
        [
            finished([0.3, 0.4, 0.5], worth=0.5),
            finished([0.2, 0.4, 0.5], worth=0.6),
            finished([0.1, 0.3, 0.5], worth=0.7),
            finished([0.1, 0.2], pruned=True),
            finished([], pruned=True),
        ]
    )
    reader = EvidenceReader(study.directions, Encoding(SPACE), 0)
    losses = reader.read(study.get_trials(deepcopy=False)).losses[:, 0]
    # Beyond the second epoch the others gained 0.1, 0.2 and 0.4.
    np.testing.assert_allclose(losses, [-0.5, -0.6, -0.7, -0.4, -0.4])


def test_what_many_trials_say_is_that_of_the_best_and_the_latest() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    rng = np.random.default_rng(0)
    values = rng.random(MOST_TRIALS + 100).tolist()
    for value in values:
        study.add_trial(finished([], worth=value))
    reader = EvidenceReader(study.directions, Encoding(SPACE), 0)
    evidence = reader.read(study.get_trials(deepcopy=False))
    assert len(evidence) == MOST_TRIALS
    assert int(np.argmin(values)) in evidence.numbers
    latest = set(range(len(values) - MOST_TRIALS // 2, len(values)))
    assert latest <= set(evidence.numbers.tolist())
    older = [n for n in evidence.numbers.tolist() if n not in latest]
    left_out = set(range(len(values))) - set(evidence.numbers.tolist())
    assert max(values[n] for n in older) <= min(values[n] for n in left_out)


@pytest.mark.parametrize(
    "value",
    [lambda _: 0.5, lambda n: math.inf if n % 2 else 0.1, lambda n: -math.inf if n % 3 else 1e9],
    ids=["constant", "infinite", "minus infinite"],
)
def test_odd_values_do_not_stop_the_search(value: Callable[[int], float]) -> None:
    study = new_study()

    def odd(trial: optuna.Trial) -> float:
        suggest_plan(trial, BLOCKS)
        return value(trial.number)

    study.optimize(odd, n_trials=18)
    assert len({FineTuningPlan.from_trial(trial) for trial in study.trials}) == 18


def test_further_parameters_are_searched_beside_the_plan() -> None:
    study = new_study()

    def wider(trial: optuna.Trial) -> float:
        value = objective(trial)
        decay = trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True)
        optimizer = trial.suggest_categorical("optimizer", ["adam", "sgd", "adamw"])
        size = trial.suggest_int("batch_size", 8, 64, step=8)
        value -= 0.03 * abs(math.log10(decay / 1e-4)) + 0.2 * (optimizer != "adamw")
        return value - 0.002 * abs(size - 32)

    study.optimize(wider, n_trials=60)
    assert study.best_params["optimizer"] == "adamw"
    later = [trial.params["optimizer"] for trial in study.trials[30:]]
    assert later.count("adamw") > 20


def test_the_best_feasible_plan_is_found() -> None:
    def best_feasible(sampler: BioTuneSampler) -> float:
        study = new_study(sampler)
        best = 0.0
        for _ in range(45):
            trial = study.ask()
            plan = suggest_plan(trial, BLOCKS)
            # The best plan of all has learning rates of 9.3 in total.
            excess = sum(plan.multipliers.values()) - 4.0
            study._storage.set_trial_system_attr(trial._trial_id, "constraints", (excess,))
            study.tell(trial, worth(plan))
            if excess <= 0.0:
                best = max(best, worth(plan))
        return best

    ours = [best_feasible(BioTuneSampler(seed=seed)) for seed in range(3)]
    papers = [best_feasible(BioTuneSampler.paper(seed=seed)) for seed in range(3)]
    assert statistics.fmean(ours) > statistics.fmean(papers)


def test_several_objectives_spread_along_the_front() -> None:
    def zdt1(trial: optuna.Trial) -> tuple[float, float]:
        x = [trial.suggest_float(f"x{i}", 0.0, 1.0) for i in range(6)]
        g = 1.0 + 9.0 * sum(x[1:]) / 5
        return x[0], g * (1.0 - math.sqrt(x[0] / g))

    def volume(sampler: optuna.samplers.BaseSampler) -> float:
        study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
        study.optimize(zdt1, n_trials=50)
        front = sorted(tuple(trial.values) for trial in study.best_trials)
        total, height = 0.0, 4.0
        for first, second in front:
            if second < height:
                total += (1.1 - first) * (height - second) if first < 1.1 else 0.0
                height = second
        return total

    ours = [volume(BioTuneSampler(seed=seed)) for seed in range(2)]
    papers = [volume(BioTuneSampler.paper(seed=seed)) for seed in range(2)]
    assert statistics.fmean(ours) > statistics.fmean(papers)


def test_fixed_parameters_are_left_alone() -> None:
    sampler = optuna.samplers.PartialFixedSampler(
        {"freeze_threshold": 0.3, "importance/fc": 0.9}, BioTuneSampler(seed=0)
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=20)
    assert all(trial.params["freeze_threshold"] == 0.3 for trial in study.trials)
    assert all(trial.params["importance/fc"] == 0.9 for trial in study.trials)


def test_an_unknown_prescreen_is_refused() -> None:
    with pytest.raises(ValueError, match='`prescreen` must be "phenotype" or None'):
        BioTuneSampler(prescreen="genotype")
