from __future__ import annotations

import gc
import logging
import math
import signal
import weakref
from collections.abc import Callable
from typing import Any

import optuna
import pytest
import torch
from optuna.pruners import NopPruner
from optuna.study import StudyDirection
from optuna.trial import FixedTrial, FrozenTrial, TrialState
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from optuna_biotune import FineTuningObjective, FineTuningPlan
from tests.finetune.conftest import BLOCKS, Digits, SmallNet

MakeObjective = Callable[..., FineTuningObjective]

PARAMS = FineTuningPlan({"stem": 0.0, "body": 1.0, "head": 3.0}).to_params()
ALL_FROZEN = FineTuningPlan(dict.fromkeys(BLOCKS, 0.0)).to_params()


def run_plans(
    objective: FineTuningObjective, *params: dict[str, float], **options: Any
) -> list[FrozenTrial]:
    study = optuna.create_study(direction="maximize", pruner=NopPruner())
    for plan_params in params:
        study.enqueue_trial(plan_params)
    study.optimize(objective, n_trials=len(params), **options)
    return study.trials


class Recorder:
    """Builds networks and remembers them as long as somebody else does."""

    def __init__(self, network: type[nn.Module] = SmallNet) -> None:
        self.network = network
        self.built: list[list[weakref.ref[Any]]] = []

    def __call__(self) -> nn.Module:
        model = self.network()
        self.built.append([weakref.ref(part) for part in (model, *model.parameters())])
        return model

    def alive(self) -> int:
        """Count networks of which anything is alive, without that which the constructor keeps."""
        return sum(any(part() is not None for part in model) for model in self.built[1:])


class HeadOfThree(SmallNet):
    def __init__(self) -> None:
        super().__init__(n_classes=3)


class NeverFits(SmallNet):
    """Runs out of memory as soon as it trains."""

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            raise torch.OutOfMemoryError("no room")
        return super().forward(images)


class WritesToItsStem(SmallNet):
    """Counts its calls in a buffer of its first block, frozen or not."""

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.stem[0].bias += 1  # type: ignore[operator, assignment]
        return super().forward(images)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"lr": 0.0}, ValueError, r"`lr` must be finite and above 0, but got 0.0"),
        ({"lr": "fast"}, TypeError, r"`lr` must be a number, but got 'fast'"),
        ({"weight_decay": -0.1}, ValueError, r"`weight_decay` must be finite and at least 0"),
        ({"weight_decay": "small"}, TypeError, r"must be a number or a pair .* got 'small'"),
        ({"weight_decay": (0.1,)}, TypeError, r"must be a number or a pair \(low, high\)"),
        ({"weight_decay": (0.0, 0.1)}, ValueError, r"must have 0 < low < high"),
        ({"weight_decay": (0.1, 0.1)}, ValueError, r"must have 0 < low < high"),
        ({"epochs": 0}, ValueError, r"`epochs` must be at least 1, but got 0"),
        ({"epochs": 2.5}, TypeError, r"`epochs` must be an integer, but got 2.5"),
        ({"patience": 0}, ValueError, r"`patience` must be at least 1"),
        ({"folds": 0}, ValueError, r"`folds` must be at least 1"),
        ({"folds": 300}, ValueError, r"`train` needs at least 300 examples .*`folds=300`"),
        ({"batch_size": True}, TypeError, r"`batch_size` must be an integer, but got True"),
        ({"seeds": ()}, ValueError, r"`seeds` must hold at least one seed"),
        ({"seeds": (1, 1)}, ValueError, r"`seeds` must be distinct"),
        ({"seeds": (-1,)}, ValueError, r"`seeds` must be distinct and not negative"),
        ({"seeds": 3}, TypeError, r"`seeds` must be a sequence of integers, but got 3"),
        ({"metric": "auc"}, ValueError, r"`metric` must be one of 'accuracy', .* but got 'auc'"),
        ({"precision": "fp8"}, ValueError, r"`precision` must be one of 'auto', .* got 'fp8'"),
        ({"device": "gpu"}, ValueError, r'`device` must be "auto" or a torch device'),
        ({"device": "cuda:99"}, ValueError, r"`device` is 'cuda:99', but torch sees"),
        ({"model": None}, TypeError, r"`model` must be callable"),
        ({"model": SmallNet()}, TypeError, r"got a network \(SmallNet\)"),
        ({"model": lambda: "net"}, TypeError, r"must build a torch.nn.Module"),
        ({"transform": 1}, TypeError, r"`transform` must be callable or None"),
        ({"augment": 1}, TypeError, r"`augment` must be callable or None"),
        ({"model": HeadOfThree}, ValueError, r"gives 3 output\(s\).*go up to 9 .* needs 10"),
        ({"model": lambda: nn.Conv2d(1, 3, 3)}, TypeError, r"returns logits \[N, C\]"),
        ({"model": lambda: nn.Linear(5, 3)}, ValueError, r"cannot take images of size \(1, 8, 8\)"),
        ({"train": []}, ValueError, r"`train` must hold images"),
        ({"val": []}, ValueError, r"`val` must hold images"),
        ({"blocks": {"stem": ["stem"]}}, ValueError, r"blocks"),
    ],
)
def test_bad_arguments_are_refused_before_any_training(
    make_objective: MakeObjective, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_objective(**arguments)


def test_data_of_one_class_are_refused_before_any_training(
    make_objective: MakeObjective, digits: Digits
) -> None:
    images, labels = digits.train.tensors
    one_class = TensorDataset(images[labels == 4], labels[labels == 4])
    for name in ("train", "val"):
        with pytest.raises(ValueError, match=rf"`{name}` must have at least two classes"):
            make_objective(**{name: one_class})


def test_a_study_that_minimises_or_has_two_values_is_refused(make_objective: MakeObjective) -> None:
    objective = make_objective()
    refused: list[list[StudyDirection]] = [
        [StudyDirection.MINIMIZE],
        [StudyDirection.MAXIMIZE, StudyDirection.MAXIMIZE],
    ]
    for directions in refused:
        study = optuna.create_study(directions=directions)
        with pytest.raises(ValueError, match="must maximise one value"):
            study.optimize(objective, n_trials=1)
        assert study.trials[0].user_attrs == {}


@pytest.mark.parametrize(("metric", "worst"), [("accuracy", 0.0), ("cohen_kappa", -1.0)])
def test_a_plan_that_trains_nothing_is_worst_and_not_trained(
    make_objective: MakeObjective, metric: str, worst: float
) -> None:
    build = Recorder()
    (trial,) = run_plans(make_objective(model=build, metric=metric), ALL_FROZEN)
    assert trial.value == worst
    assert len(build.built) == 1
    attributes = trial.user_attrs
    assert attributes["mask"] == "FFF"
    assert attributes["trainable_params"] == 0
    assert attributes["lr/head"] == 0.0
    assert "best_epoch" not in attributes
    assert trial.intermediate_values == {}


def test_a_diverging_trial_is_recorded_as_worst_with_block_and_rate(
    make_objective: MakeObjective, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="optuna_biotune")
    trial, after = run_plans(make_objective(lr=1e36), PARAMS, ALL_FROZEN)
    assert trial.state == TrialState.COMPLETE
    assert trial.value == 0.0
    failure = trial.user_attrs["failure"]
    assert "NaN or infinite in epoch 1" in failure
    assert "head (learning rate 3e+36)" in failure
    assert f"Trial 0: {failure}" in caplog.messages
    assert trial.user_attrs["seconds"] > 0
    assert after.state == TrialState.COMPLETE


def test_divergence_in_a_later_epoch_keeps_what_was_measured(make_objective: MakeObjective) -> None:
    steps = 0

    def poison(images: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        return images * math.nan if steps > 20 else images

    (trial,) = run_plans(make_objective(augment=poison), PARAMS)
    assert trial.value == 0.0
    assert "epoch 3" in trial.user_attrs["failure"]
    assert list(trial.intermediate_values) == [0, 1]
    assert trial.user_attrs["best_epoch"] in (1.0, 1.5, 2.0)


def test_out_of_memory_fails_the_trial_but_not_the_study(make_objective: MakeObjective) -> None:
    trial, after = run_plans(make_objective(model=NeverFits), PARAMS, ALL_FROZEN)
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["failure"].startswith("Out of memory")
    assert trial.user_attrs["mask"] == "FTT"
    assert after.state == TrialState.COMPLETE


def test_out_of_memory_while_the_network_is_built_fails_the_trial(
    make_objective: MakeObjective,
) -> None:
    class Factory(Recorder):
        def __call__(self) -> nn.Module:
            if len(self.built) == 2:
                raise torch.OutOfMemoryError("no room")
            return super().__call__()

    build = Factory()
    (trial,) = run_plans(make_objective(model=build), PARAMS)
    assert trial.state == TrialState.FAIL
    assert "failure" in trial.user_attrs
    assert len(build.built) == 2
    assert build.alive() == 0


@pytest.mark.parametrize("ending", ["complete", "pruned", "diverged", "out of memory"])
def test_no_network_outlives_its_trial_however_it_ends(
    make_objective: MakeObjective, ending: str
) -> None:
    build = Recorder(NeverFits if ending == "out of memory" else SmallNet)
    objective = make_objective(model=build, lr=1e36 if ending == "diverged" else 1e-2)
    pruner = optuna.pruners.ThresholdPruner(lower=1.1) if ending == "pruned" else NopPruner()
    study = optuna.create_study(direction="maximize", pruner=pruner)
    study.enqueue_trial(PARAMS)
    gc.collect()
    gc.disable()
    try:
        study.optimize(objective, n_trials=1)
        assert len(build.built) == 3
        assert build.alive() == 0
    finally:
        gc.enable()


def test_an_interrupt_frees_the_networks_and_the_study_resumes(
    make_objective: MakeObjective,
) -> None:
    steps = 0

    def interrupt(images: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        if steps == 12:
            signal.raise_signal(signal.SIGINT)
        return images

    build = Recorder()
    objective = make_objective(model=build, augment=interrupt)
    study = optuna.create_study(direction="maximize", pruner=NopPruner())
    study.enqueue_trial(PARAMS)
    study.enqueue_trial(PARAMS)
    with pytest.raises(KeyboardInterrupt) as interrupted:
        study.optimize(objective, n_trials=2)
    assert interrupted.value.__traceback__ is not None
    assert build.alive() == 0
    study.optimize(objective, n_trials=1)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert "seconds" in study.trials[0].user_attrs
    assert study.trials[1].values == run_plans(make_objective(), PARAMS)[0].values


def test_a_network_that_writes_to_a_frozen_block_is_caught(make_objective: MakeObjective) -> None:
    objective = make_objective(model=WritesToItsStem)
    with pytest.raises(RuntimeError, match=r"stem\.0\.bias"):
        objective(FixedTrial(PARAMS))


def test_an_error_of_the_model_reaches_the_user_as_it_is(make_objective: MakeObjective) -> None:
    class Broken(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            if self.training:
                raise ZeroDivisionError("my own mistake")
            return super().forward(images)

    with pytest.raises(ZeroDivisionError, match="my own mistake"):
        make_objective(model=Broken)(FixedTrial(PARAMS))


def test_threads_take_turns_and_get_the_values_of_trials_run_alone(
    make_objective: MakeObjective,
) -> None:
    full = FineTuningPlan.full(list(BLOCKS)).to_params()
    alone = run_plans(make_objective(), PARAMS, full)
    threads = run_plans(make_objective(), PARAMS, full, n_jobs=2)
    assert [trial.values for trial in threads] == [trial.values for trial in alone]
