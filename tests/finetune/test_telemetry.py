from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable

import optuna
import pytest
import torch
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial

from optuna_biotune import FineTuningObjective, FineTuningPlan, partition_blocks
from optuna_biotune.finetune.host_memory import resident_memory
from optuna_biotune.finetune.network_split import split_network
from optuna_biotune.finetune.telemetry import Telemetry, training_flops
from tests.finetune.conftest import BLOCKS, Digits, SmallNet

MakeObjective = Callable[..., FineTuningObjective]

STEM_FROZEN = FineTuningPlan({"stem": 0.0, "body": 1.0, "head": 1.0})
# Multiply-adds of one image: the stem makes 3 x 3 pixels of 8 channels, the body one of 16.
STEM, BODY, HEAD = 9 * 8 * 9, 16 * 8 * 9, 16 * 10


def test_seconds_inside_a_phase_count_to_the_inner_one_only() -> None:
    telemetry = Telemetry(torch.device("cpu"))
    with telemetry.phase("validate"):
        time.sleep(0.02)
        with telemetry.phase("frozen"):
            time.sleep(0.2)
    assert telemetry.seconds["frozen"] >= 0.2
    assert 0.02 <= telemetry.seconds["validate"] < 0.15


def test_the_phases_of_a_trial_add_up_to_no_more_than_its_seconds(
    make_objective: MakeObjective,
) -> None:
    trial = FixedTrial(STEM_FROZEN.to_params())
    make_objective()(trial)
    attributes = trial.user_attrs
    phases = [attributes[f"seconds/{name}"] for name in ("frozen", "train", "validate")]
    assert all(seconds > 0 for seconds in phases)
    assert sum(phases) <= attributes["seconds"] + 0.002
    # Three epochs of two seeds on 300 images.
    assert attributes["images_per_second"] == pytest.approx(1800 / phases[1], rel=0.01)
    assert attributes["memory_mib"] > 100


def test_operations_are_counted_of_what_trains_and_of_what_lies_before_it(digits: Digits) -> None:
    blocks = partition_blocks(SmallNet(), BLOCKS)
    example = digits.train.tensors[0][:2]
    full = FineTuningPlan.full(list(BLOCKS))
    # Backward, each layer takes its forward pass twice, but the first needs no gradient of images.
    whole = 2 * (2 * STEM + 3 * BODY + 3 * HEAD)
    assert training_flops(blocks, full, None, example) == whole
    split = split_network(blocks, STEM_FROZEN)
    assert training_flops(blocks, STEM_FROZEN, split, example) == 2 * (2 * BODY + 3 * HEAD)
    assert all(parameter.grad is None for parameter in blocks.model.parameters())


def test_a_trial_is_one_line_in_the_log_with_where_its_time_went(
    make_objective: MakeObjective, caplog: pytest.LogCaptureFixture
) -> None:
    objective = make_objective(epochs=1)
    caplog.set_level(logging.INFO, logger="optuna_biotune")
    objective(FixedTrial(STEM_FROZEN.to_params()))
    lines = [record.getMessage() for record in caplog.records if record.name == "optuna_biotune"]
    assert len(lines) == 1
    assert "blocks FTT" in lines[0]
    assert "frozen 0." in lines[0]
    assert "images/s" in lines[0]


class Heavy(SmallNet):
    """Holds a mebibyte, so that networks that are kept show."""

    def __init__(self) -> None:
        super().__init__()
        self.stem.register_buffer("ballast", torch.ones(2**18))


def test_the_log_says_where_the_images_are_kept_and_how_long_reading_them_took(
    make_objective: MakeObjective, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="optuna_biotune")
    make_objective()
    place, seconds = caplog.messages
    assert place == "500 images are kept in main memory: 0 MiB."
    assert seconds.startswith("Read 500 images in 0.")


def test_memory_stays_flat_over_a_hundred_trials(make_objective: MakeObjective) -> None:
    study = optuna.create_study(
        direction="maximize", sampler=RandomSampler(seed=0), pruner=NopPruner()
    )
    objective = make_objective(model=Heavy, epochs=1, batch_size=300, seeds=(0,))
    study.optimize(objective, n_trials=10)
    gc.collect()
    before = resident_memory()
    study.optimize(objective, n_trials=90)
    gc.collect()
    assert resident_memory() - before < 8 * 2**20
    assert len(study.trials) == 100
