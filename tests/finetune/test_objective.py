from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState
from sklearn import metrics as sklearn_metrics
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision.transforms import v2

from optuna_biotune import BioTuneSampler, FineTuningObjective, FineTuningPlan
from tests.finetune.conftest import BLOCKS, Digits, SmallNet

MakeObjective = Callable[..., FineTuningObjective]

PLAN = FineTuningPlan({"stem": 0.0, "body": 1.0, "head": 3.0})
PARAMS = PLAN.to_params()


class PruneAt(BasePruner):
    """Prunes every trial at one step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return trial.last_step == self.step


def run_plan(
    objective: FineTuningObjective,
    params: dict[str, float] = PARAMS,
    pruner: BasePruner | None = None,
) -> FrozenTrial:
    study = optuna.create_study(direction="maximize", pruner=pruner or NopPruner())
    study.enqueue_trial(params)
    study.optimize(objective, n_trials=1)
    return study.trials[0]


def test_a_search_finds_a_plan_that_classifies_real_digits(make_objective: MakeObjective) -> None:
    study = optuna.create_study(
        direction="maximize", sampler=RandomSampler(seed=1), pruner=NopPruner()
    )
    study.optimize(make_objective(epochs=8), n_trials=8)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 8
    values = [trial.values[0] for trial in study.trials if "T" in trial.user_attrs["mask"]]
    assert max(values) > 0.7
    assert max(values) > min(values) + 0.1


def test_the_value_is_the_last_report_and_reports_come_one_an_epoch(
    make_objective: MakeObjective,
) -> None:
    trial = run_plan(make_objective(epochs=4))
    reports = trial.intermediate_values
    assert list(reports) == [0, 1, 2, 3]
    assert list(reports.values()) == sorted(reports.values())
    assert trial.value == reports[3]


def test_the_value_is_the_mean_over_the_seeds_each_trained_alone(
    make_objective: MakeObjective,
) -> None:
    alone = [run_plan(make_objective(seeds=(seed,))) for seed in (0, 5, 2)]
    values = [trial.values[0] for trial in alone]
    together = run_plan(make_objective(seeds=(0, 5, 2)))
    assert together.value == pytest.approx(statistics.fmean(values), abs=1e-12)
    assert together.user_attrs["val_std"] == pytest.approx(statistics.stdev(values))
    assert together.user_attrs["best_epoch"] == pytest.approx(
        statistics.fmean(trial.user_attrs["best_epoch"] for trial in alone)
    )
    assert [trial.user_attrs["val_std"] for trial in alone] == [0.0] * 3


def test_the_same_plan_gives_the_same_value_to_the_last_bit(make_objective: MakeObjective) -> None:
    objective = make_objective()
    first, second = run_plan(objective), run_plan(objective)
    assert first.intermediate_values == second.intermediate_values
    assert first.intermediate_values == run_plan(make_objective()).intermediate_values


def test_a_trial_carries_flat_attributes_of_its_plan_and_outcome(
    make_objective: MakeObjective,
) -> None:
    attributes = run_plan(make_objective()).user_attrs
    rates = {name: attributes.pop(f"lr/{name}") for name in BLOCKS}
    assert rates == pytest.approx({"stem": 0.0, "body": 1e-2, "head": 3e-2})
    assert attributes.pop("mask") == "FTT"
    assert attributes.pop("generation") == 0
    net = SmallNet()
    trained = [*net.body.parameters(), *net.head.parameters()]
    assert attributes.pop("trainable_params") == sum(p.numel() for p in trained)
    assert attributes.pop("seconds") > 0
    assert 1 <= attributes.pop("best_epoch") <= 3
    assert 0 <= attributes.pop("val_std") < 0.5
    assert set(attributes) == {
        "seconds/frozen",
        "seconds/train",
        "seconds/validate",
        "images_per_second",
        "teraflops_per_second",
        "memory_mib",
    }


def test_a_pruned_trial_stops_at_once_and_keeps_its_attributes(
    make_objective: MakeObjective,
) -> None:
    trial = run_plan(make_objective(epochs=9), pruner=PruneAt(1))
    assert trial.state == TrialState.PRUNED
    assert list(trial.intermediate_values) == [0, 1]
    assert trial.value == trial.intermediate_values[1]
    assert {"mask", "seconds", "best_epoch", "val_std"} <= set(trial.user_attrs)


def test_a_trial_that_has_trained_all_epochs_is_not_pruned(make_objective: MakeObjective) -> None:
    assert run_plan(make_objective(epochs=2), pruner=PruneAt(1)).state == TrialState.COMPLETE


def test_generations_train_on_their_own_fold(make_objective: MakeObjective) -> None:
    seen: list[set[bytes]] = []

    def record(images: Tensor) -> Tensor:
        seen[-1].update(image.numpy().tobytes() for image in images)
        return images

    objective = make_objective(folds=2, epochs=1, seeds=(0,), augment=record)

    def recorded(trial: optuna.Trial) -> float | tuple[float, ...]:
        seen.append(set())
        return objective(trial)

    sampler = BioTuneSampler(population_size=3, elite_size=1, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(recorded, n_trials=sampler.n_trials_for(generations=3))
    by_fold: dict[int, list[set[bytes]]] = {0: [], 1: []}
    for trial, images in zip(study.trials, seen, strict=True):
        by_fold[trial.user_attrs["generation"] % 2].append(images)
    assert len(by_fold[0]) > 3
    for images_of_trials in by_fold.values():
        assert len(images_of_trials) > 1
        assert all(images == images_of_trials[0] for images in images_of_trials)
        assert 140 <= len(images_of_trials[0]) <= 160
    assert by_fold[0][0].isdisjoint(by_fold[1][0])


def test_without_validation_data_a_part_of_train_is_held_out(
    make_objective: MakeObjective, digits: Digits
) -> None:
    trained_on = 0

    def count(images: Tensor) -> Tensor:
        nonlocal trained_on
        trained_on += len(images)
        return images

    value = run_plan(make_objective(val=None, epochs=1, seeds=(0,), augment=count)).value
    assert trained_on == 240
    assert value is not None
    assert 0 < value < 1


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1", "cohen_kappa"])
def test_every_metric_can_be_the_objective(make_objective: MakeObjective, metric: str) -> None:
    value = run_plan(make_objective(metric=metric, epochs=6, seeds=(0,))).values[0]
    assert 0.3 < value < 1.0


def test_a_batch_larger_than_the_data_costs_no_more_than_the_data(
    make_objective: MakeObjective,
) -> None:
    largest = 0

    class Counting(SmallNet):
        def __init__(self) -> None:
            super().__init__()
            self.stem[0].register_forward_pre_hook(count)

    def count(module: object, inputs: tuple[torch.Tensor]) -> None:
        nonlocal largest
        largest = max(largest, len(inputs[0]))

    objective = make_objective(model=Counting, batch_size=100_000, seeds=(0,), epochs=1)
    run_plan(objective)
    assert 0 < largest <= 1000


def test_blocks_are_found_without_naming_them(make_objective: MakeObjective) -> None:
    objective = make_objective(blocks=None, epochs=1)
    assert len(objective.block_names) >= 3
    params = FineTuningPlan.full(objective.block_names).to_params()
    assert run_plan(objective, params).user_attrs["mask"] == "T" * len(objective.block_names)


def test_raw_images_are_read_through_the_transform_in_every_role(
    make_objective: MakeObjective, digits: Digits
) -> None:
    def as_uint8(dataset: TensorDataset) -> list[tuple[Tensor, int]]:
        images, labels = dataset.tensors
        raw = (images * 16).to(torch.uint8)
        return list(zip(raw, labels.tolist(), strict=True))

    raw = make_objective(
        train=as_uint8(digits.train),
        val=as_uint8(digits.val),
        transform=lambda image: image.float() / 16,
    )
    expected = make_objective()
    assert run_plan(raw).intermediate_values == run_plan(expected).intermediate_values
    metrics = raw.refit(PLAN, test=as_uint8(digits.test)).metrics
    assert metrics == expected.refit(PLAN, test=digits.test).metrics


def test_augmentation_of_torchvision_applies_in_training_only(
    make_objective: MakeObjective,
) -> None:
    # An augmentation that erases every image leaves nothing to learn, but validation is untouched.
    erased = make_objective(epochs=6, augment=v2.Lambda(torch.zeros_like))
    flipped = make_objective(epochs=6, augment=v2.RandomAffine(degrees=5))
    assert run_plan(erased).values[0] < 0.3
    assert run_plan(flipped).values[0] > 0.5


def test_bfloat16_stays_close_to_float32(make_objective: MakeObjective) -> None:
    values = [
        run_plan(make_objective(epochs=6, precision=precision)).values[0]
        for precision in ("fp32", "bf16")
    ]
    assert values[0] == pytest.approx(values[1], abs=0.1)


def test_a_fixed_trial_tries_the_objective_without_a_study(make_objective: MakeObjective) -> None:
    objective = make_objective()
    assert objective(FixedTrial(PARAMS)) == run_plan(objective).value


def test_refit_measures_each_seed_as_scikit_learn_does(
    make_objective: MakeObjective, digits: Digits
) -> None:
    result = make_objective(epochs=6).refit(PLAN, test=digits.test)
    images, labels = digits.test.tensors
    assert not result.model.training
    with torch.no_grad():
        predictions = result.model(images).argmax(1)
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(labels, predictions),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, predictions),
        "macro_f1": sklearn_metrics.f1_score(labels, predictions, average="macro"),
        "cohen_kappa": sklearn_metrics.cohen_kappa_score(labels, predictions),
    }
    assert list(result.metrics) == list(expected)
    assert {name: values[0] for name, values in result.metrics.items()} == pytest.approx(expected)
    assert expected["accuracy"] > 0.7
    assert all(len(values) == 2 for values in result.metrics.values())
    mean, deviation = result.summary()["accuracy"]
    assert mean == pytest.approx(np.mean(result.metrics["accuracy"]))
    assert deviation == pytest.approx(np.std(result.metrics["accuracy"], ddof=1))


def test_refit_trains_on_training_and_validation_data_of_all_folds(
    make_objective: MakeObjective,
) -> None:
    sizes: list[int] = []

    def count(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return images

    result = make_objective(folds=2, epochs=2, seeds=(0,), augment=count).refit(PLAN)
    assert sum(sizes) == 2 * 500
    assert result.epochs == 2
    assert result.metrics == {}


def test_refit_of_a_trial_trains_for_its_best_epoch_rounded_up(
    make_objective: MakeObjective,
) -> None:
    trial = run_plan(make_objective())
    objective = make_objective(epochs=5)
    for best_epoch, epochs in ((1.5, 2), (3.0, 3)):
        trial.set_user_attr("best_epoch", best_epoch)
        assert objective.refit(trial).epochs == epochs
    assert objective.refit(PLAN).epochs == 5


def test_refit_of_a_stored_trial_is_that_of_its_plan(
    make_objective: MakeObjective, tmp_path: Path, digits: Digits
) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    objective = make_objective(epochs=2, patience=2)
    study = optuna.create_study(direction="maximize", storage=storage, study_name="digits")
    study.enqueue_trial(PARAMS)
    study.optimize(objective, n_trials=1)
    stored = optuna.load_study(storage=storage, study_name="digits").best_trial
    result = objective.refit(stored, test=digits.test)
    assert result.plan.names == tuple(BLOCKS)
    assert result.plan.multipliers == pytest.approx(dict(PLAN.multipliers))


def test_refit_leaves_frozen_blocks_bit_identical(make_objective: MakeObjective) -> None:
    built: list[nn.Module] = []

    def build() -> nn.Module:
        built.append(SmallNet())
        return built[-1]

    objective = make_objective(model=build, seeds=(4,), epochs=1)
    # The constructor's network is built under the first seed: as the trained one was at first.
    before = built[0].state_dict()
    after = objective.refit(PLAN).model.state_dict()
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) == name.startswith("stem"), name


def test_refit_takes_nothing_but_a_plan_of_this_network(
    make_objective: MakeObjective, digits: Digits
) -> None:
    objective = make_objective()
    with pytest.raises(ValueError, match=r"for the blocks stem, body, head, but has stem, tail"):
        objective.refit(FineTuningPlan({"stem": 1.0, "tail": 1.0}))
    with pytest.raises(ValueError, match="must train a block, but it freezes all"):
        objective.refit(FineTuningPlan(dict.fromkeys(BLOCKS, 0.0)))
    with pytest.raises(ValueError, match="has no fine-tuning plan"):
        objective.refit(FixedTrial({"x": 1.0}))
    wrong: Any = {"stem": 1.0}
    with pytest.raises(TypeError, match="must be an Optuna trial or a FineTuningPlan"):
        objective.refit(wrong)
    small = TensorDataset(torch.zeros(4, 1, 7, 7), torch.arange(4))
    with pytest.raises(ValueError, match=r"size \(1, 8, 8\) as `train` does, but has \(1, 7, 7\)"):
        objective.refit(PLAN, test=small)
    eleven = TensorDataset(torch.zeros(11, 1, 8, 8), torch.arange(11))
    with pytest.raises(ValueError, match=r"10 output.*labels of `test` go up to 10"):
        objective.refit(PLAN, test=eleven)


def test_the_caller_s_random_state_is_left_alone(make_objective: MakeObjective) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    objective = make_objective(epochs=1)
    objective(FixedTrial(PARAMS))
    assert torch.equal(torch.rand(2), expected)
