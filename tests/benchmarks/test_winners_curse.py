from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import FrozenTrial
from torch import nn

from optuna_biotune import BioTuneSampler, FineTuningObjective

NETWORKS, EPOCHS = 6, 1
OPTIONS = ["--tasks", "isic8:24:24", "--networks", str(NETWORKS), "--epochs", str(EPOCHS)]
OPTIONS += ["--fresh-seeds", "2", "--test-seeds", "1"]


def build() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def target() -> Any:
    """Images of three classes that are hard to tell apart."""
    from targets import Target
    from torch.utils.data import TensorDataset

    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(36) % 3
    images = torch.randn(3, 36, 3, 8, 8, generator=draw) + 0.2 * labels.view(1, 36, 1, 1, 1)
    train, val, test = (TensorDataset(part, labels) for part in images)
    return Target(train, val, test, ("a", "b", "c"))


@pytest.fixture
def trainer(target: Any) -> Any:
    from single_networks import Hyperparameters, NetworkTrainer

    return NetworkTrainer(target, build, Hyperparameters(epochs=4, patience=1, batch_size=12))


def trials_of(target: Any, n_trials: int, **arguments: Any) -> list[FrozenTrial]:
    objective = FineTuningObjective(
        model=build,
        train=target.train,
        val=target.val,
        lr=3e-3,
        epochs=4,
        patience=1,
        batch_size=12,
        device="cpu",
        **arguments,
    )
    sampler = BioTuneSampler(population_size=2, elite_size=1, seed=0)
    study = optuna.create_study(
        direction="maximize", sampler=sampler, pruner=optuna.pruners.NopPruner()
    )
    study.optimize(objective, n_trials=n_trials)
    return study.trials


def test_a_trial_of_several_seeds_is_the_mean_of_networks_trained_singly(
    target: Any, trainer: Any
) -> None:
    from single_networks import Network

    trials = trials_of(target, 4, seeds=(0, 1, 2))
    stopped = set()
    for trial in trials:
        single = [trainer.train(trial.params, Network(seed)) for seed in (0, 1, 2)]
        assert trial.value == pytest.approx(fmean(one.value for one in single), abs=1e-12)
        assert trial.user_attrs["val_std"] == pytest.approx(stdev([one.value for one in single]))
        assert trial.user_attrs["best_epoch"] == fmean(one.best_epoch for one in single)
        stopped |= {one.best_epoch for one in single}
    # Patience has ended some of them at other epochs than the rest.
    assert len(stopped) > 1


def test_parts_are_the_folds_of_the_objective(target: Any, trainer: Any) -> None:
    from single_networks import Network, Split

    trials = trials_of(target, 6, seeds=(0,), folds=2)
    parts = [trial.user_attrs["generation"] % 2 for trial in trials]
    assert set(parts) == {0, 1}
    for trial, part in zip(trials, parts, strict=True):
        network = Network(0, Split("parts", 2, part))
        assert trial.value == trainer.train(trial.params, network).value


def test_cross_validation_validates_on_each_image_once_and_draws_differ(trainer: Any) -> None:
    from single_networks import Split

    folds = [trainer.fold(Split("cross", 2, index)) for index in range(2)]
    assert sorted(torch.cat([fold.val for fold in folds]).tolist()) == list(range(72))
    assert all(set(f.train.tolist()) == set(range(72)) - set(f.val.tolist()) for f in folds)
    first, second = (trainer.fold(Split("drawn", index=index)) for index in range(2))
    assert [len(first.train), len(first.val)] == [36, 36]
    assert not set(first.train.tolist()) & set(first.val.tolist())
    assert first.val.tolist() != second.val.tolist()


@pytest.fixture(scope="module")
def result(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of one round on real networks."""
    from winners_curse import main

    out = tmp_path_factory.mktemp("curse")
    main(["--data", str(data), "--out", str(out), *OPTIONS, "--searches", "1"])
    read: dict[str, Any] = json.loads((out / "winners_curse.json").read_text())
    return {**read, "out": out}


def test_every_variant_spends_the_same(result: dict[str, Any]) -> None:
    from spending import VARIANTS

    searches = {row["variant"]: row for row in result["searches"]}
    assert list(searches) == list(VARIANTS)
    assert searches.pop("no search")["trials"] == 1
    for name, row in searches.items():
        assert row["budget"] == NETWORKS * 24 * EPOCHS
        trial = row["cost"] / row["trials"]
        assert row["budget"] - trial < row["cost"] <= row["budget"], name
    for name in ("1 fixed seed", "2 fresh seeds", "racing, 1 to 3 seeds"):
        assert searches[name]["cost"] == 24 * EPOCHS * searches[name]["networks"]


def test_plans_are_measured_with_seeds_and_images_of_their_own(target: Any, trainer: Any) -> None:
    from single_networks import Network
    from spending import VARIANTS, Search

    search = Search(trainer, VARIANTS["1 fixed seed"], 4, 0)
    search.run()
    trial = search.record().trial
    single = [trainer.train(trial.params, Network(seed)).value for seed in (7, 8)]
    assert trainer.value(trial.params, (7, 8)) == pytest.approx(fmean(single), abs=1e-12)
    together = FineTuningObjective(
        model=build,
        train=target.train,
        val=target.val,
        seeds=(7, 8),
        lr=3e-3,
        epochs=4,
        batch_size=12,
        device="cpu",
    )
    tested = trainer.test(trial, (7, 8))
    # The refit of an objective would train on the validation images as well.
    assert tested != fmean(together.refit(trial, target.test).metrics["balanced_accuracy"])
    assert 0.2 < tested < 1.0


def test_a_second_run_goes_on_and_the_table_is_made_of_the_rows(
    result: dict[str, Any], data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from winners_curse import main

    path = tmp_path / "winners_curse.json"
    kept = {key: value for key, value in result.items() if key != "out"}
    expected = kept["searches"][1]
    path.write_text(
        json.dumps({**kept, "searches": [*kept["searches"][:1], *kept["searches"][2:]]})
    )
    main(["--data", str(data), "--out", str(tmp_path), *OPTIONS, "--searches", "1"])
    again = json.loads(path.read_text())["searches"][-1]
    assert {**again, "seconds": 0} == {**expected, "seconds": 0}
    capsys.readouterr()
    main(["--out", str(tmp_path), "--table"])
    assert capsys.readouterr().out == (tmp_path / "winners_curse.md").read_text()
    with pytest.raises(SystemExit, match="another command, hyperparameters"):
        main(["--data", str(data), "--out", str(tmp_path), *OPTIONS, "--epochs", "3"])


def row_of(target: str, variant: str, search: int, value: float) -> dict[str, Any]:
    choice = {"said": value + 0.1, "fresh": value, "test": value - 0.2}
    luckier = {**choice, "said": value + 0.3}
    return {
        "target": target,
        "search": search,
        "variant": variant,
        "trials": 7,
        "record": luckier,
        "posterior": choice,
    }


def test_the_table_compares_searches_with_the_same_images_and_seeds() -> None:
    from winners_curse import markdown

    rows = [
        row_of("mnist", variant, search, 0.5 + 0.1 * search + better)
        for search in range(2)
        for variant, better in (("3 fixed seeds", 0.0), ("1 fresh seed", 0.02))
    ]
    alone = row_of("mnist", "2 fixed seeds", 0, 0.7)
    table = markdown(
        {
            "command": "python",
            "networks": 90,
            "versions": {"torch": "2"},
            "tasks": [{"target": "mnist", "n_train": 60, "n_val": 150}],
            "searches": [*rows, alone],
        }
    )
    assert (
        "| 1 fresh seed | 2 | 7 | 0.870 ± 0.071 | 0.570 ± 0.071 | 0.370 ± 0.071 "
        "| 0.670 ± 0.071 | 0.570 ± 0.071 | 0.370 ± 0.071 |"
    ) in table
    assert (
        "| 1 fresh seed | 2 | +0.300 ± 0.000 | +0.020 ± 0.000 | +0.020 ± 0.000 "
        "| +0.100 ± 0.000 | +0.020 ± 0.000 | +0.020 ± 0.000 |"
    ) in table
    # A single search has no deviation.
    assert "| 2 fixed seeds | 1 | 7 | 1.000 | 0.700 | 0.500 |" in table
    assert "| 2 fixed seeds | 1 | +0.300 | +0.200 |" in table
    assert "no search" not in table


def spent(rule: Callable[[Any], Any], values: Sequence[float], earlier: Any = ()) -> list[int]:
    """Return the seeds that a trial trains which gets these values."""
    from spending import Situation

    seeds: list[int] = []
    while (network := rule(Situation(4, 1, values[: len(seeds)], earlier))) is not None:
        seeds.append(network.seed)
    return seeds


def test_only_the_best_third_race_on_compared_over_the_same_seeds() -> None:
    from spending import racing

    assert spent(racing(3), [0.1, 0.1, 0.1]) == [0, 1, 2]
    earlier = [[0.5], [0.6], [0.9, 0.5, 0.8], [0.4], [0.3]]
    assert spent(racing(3), [0.55, 0.9, 0.9], earlier) == [0]
    # Second of six by its first seed; by two seeds the best of two.
    assert spent(racing(3), [0.7, 0.8, 0.1], earlier) == [0, 1, 2]
    assert spent(racing(3), [0.7, 0.6, 0.9], earlier) == [0, 1]


def test_fresh_seeds_are_of_one_trial_and_fixed_ones_of_all() -> None:
    from spending import Situation, fixed_seeds, fresh_seeds

    def trained(rule: Any, number: int) -> list[int]:
        return [rule(Situation(number, 0, [0.5] * done)).seed for done in range(2)]

    assert trained(fixed_seeds(2), 3) == trained(fixed_seeds(2), 4) == [0, 1]
    seeds = [seed for number in range(3) for seed in trained(fresh_seeds(2), number)]
    assert len(set(seeds)) == 6 and min(seeds) > 2


def test_finalists_are_chosen_by_trainings_that_did_not_make_them_finalists(trainer: Any) -> None:
    from spending import VARIANTS, Search

    search = Search(trainer, VARIANTS["1 fresh seed, then finalists"], 30, 0)
    search.run()
    assert search.left == 0
    trials = search.study.trials
    searched, again = trials[:20], trials[20:]
    best = sorted(searched, key=lambda trial: trial.value or 0.0, reverse=True)[:2]
    assert [trial.params for trial in again] == [t.params for t in best for _ in range(5)]
    means = [fmean(trial.value or 0.0 for trial in again[start : start + 5]) for start in (0, 5)]
    choice = search.record()
    assert choice.value == max(means)
    assert choice.trial.params == best[means.index(max(means))].params
