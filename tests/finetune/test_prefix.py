from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optuna.trial import FixedTrial
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from optuna_biotune import FineTuningObjective, FineTuningPlan, partition_blocks
from optuna_biotune.finetune.prefix import PrefixSharing
from optuna_biotune.finetune.training import SeedRun
from tests.finetune.conftest import BLOCKS, Digits, SmallNet

MakeObjective = Callable[..., FineTuningObjective]

STEM_FROZEN = FineTuningPlan({"stem": 0.0, "body": 1.0, "head": 1.0})
PROBE = FineTuningPlan.linear_probe(list(BLOCKS))
FULL = FineTuningPlan.full(list(BLOCKS))


class Counting(SmallNet):
    """Has a fixed body, and counts the images that its stem was run on in evaluation mode."""

    images = 0
    seed = 0

    def __init__(self) -> None:
        super().__init__()
        state = torch.get_rng_state()
        torch.manual_seed(self.seed)
        for module in (self.stem[0], self.body[0]):
            module.reset_parameters()  # type: ignore[operator]
        torch.set_rng_state(state)
        self.stem[0].register_forward_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        type(self).images += len(output)


@pytest.fixture
def counting() -> type[Counting]:
    class CountingHere(Counting):
        pass

    return CountingHere


def weights(
    make_objective: MakeObjective, plan: FineTuningPlan = STEM_FROZEN, **arguments: Any
) -> dict[str, Tensor]:
    model = make_objective(**{"seeds": (0,), **arguments}).refit(plan).model
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def kept_bytes(objective: FineTuningObjective) -> int:
    sharing = objective._settings.sharing
    return 0 if sharing is None else sharing.cache.n_bytes


class LimitedStem(SmallNet):
    """Has a stem that takes at most 20 images at once."""

    def __init__(self) -> None:
        super().__init__()
        self.stem.insert(0, AtMost20())


class AtMost20(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 20:
            raise torch.OutOfMemoryError("no room")
        return images


@pytest.mark.parametrize("n_bytes", [None, 0])
def test_out_of_memory_in_the_frozen_part_is_overcome_in_smaller_batches(
    make_objective: MakeObjective, n_bytes: int | None
) -> None:
    limited = weights(make_objective, model=LimitedStem, cache_bytes=n_bytes)
    expected = weights(make_objective)
    for tensor, other in zip(limited.values(), expected.values(), strict=True):
        torch.testing.assert_close(tensor, other, rtol=1e-3, atol=1e-3)


def channels_last() -> nn.Module:
    return SmallNet().to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "arguments", [{"model": channels_last}, {"precision": "bf16"}, {"batch_size": 7}]
)
def test_layout_precision_and_batch_size_make_no_difference_to_that(
    make_objective: MakeObjective, arguments: dict[str, Any]
) -> None:
    kept = weights(make_objective, **arguments)
    assert_same_bits(kept, weights(make_objective, cache_bytes=0, **arguments))


@pytest.mark.parametrize("plan", [STEM_FROZEN, PROBE])
def test_training_is_the_same_with_and_without_kept_activations(
    make_objective: MakeObjective, plan: FineTuningPlan, digits: Digits
) -> None:
    whole = TensorDataset(*(tensor[:192] for tensor in digits.train.tensors))
    part = TensorDataset(*(tensor[:64] for tensor in digits.val.tensors))
    for data in ({}, {"train": whole, "val": part}):
        kept = weights(make_objective, plan, **data)
        assert_same_bits(kept, weights(make_objective, plan, cache_bytes=0, **data))
    # The network as it is trained by anybody, in batches that are all whole.
    objective = make_objective(seeds=(0,), augment=nn.Identity(), train=whole, val=part)
    assert_same_bits(kept, objective.refit(plan).model.state_dict())


def test_either_interface_to_the_precision_of_float32_can_be_used() -> None:
    code = (
        "import torch\n"
        "from optuna_biotune.finetune.device import float32_settings\n"
        "seen = {float32_settings()}\n"
        "torch.set_float32_matmul_precision('high')\n"
        "seen.add(float32_settings())\n"
        "torch.backends.cudnn.allow_tf32 = False\n"
        "seen.add(float32_settings())\n"
        "if hasattr(torch.backends.cudnn, 'conv'):\n"
        "    torch.backends.cudnn.conv.fp32_precision = 'ieee'\n"
        "    torch.backends.cuda.matmul.fp32_precision = 'ieee'\n"
        "    seen.add(float32_settings())\n"
        "    torch.backends.cudnn.conv.fp32_precision = 'tf32'\n"
        "    seen.add(float32_settings())\n"
        "    assert len(seen) == 5, seen\n"
        "assert len(seen) >= 3, seen\n"
    )
    # The settings are those of a process: another one, for the sake of the other tests.
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_each_image_runs_once_through_the_frozen_part_in_all_epochs_seeds_and_trials(
    make_objective: MakeObjective, counting: type[Counting]
) -> None:
    objective = make_objective(model=counting)
    counting.images = 0
    objective(FixedTrial(STEM_FROZEN.to_params()))
    # 300 and 200 images in batches of 64, and what it takes to try the split.
    assert 500 <= counting.images < 640 + 2 * 64
    once = counting.images
    objective(FixedTrial(STEM_FROZEN.to_params()))
    other_rates = FineTuningPlan({"stem": 0.0, "body": 0.2, "head": 4.0})
    objective(FixedTrial(other_rates.to_params()))
    assert counting.images == once


def test_networks_with_other_bodies_share_nothing(make_objective: MakeObjective) -> None:
    # SmallNet draws its body under the seed.
    trial = FixedTrial(STEM_FROZEN.to_params())
    one, other = (make_objective(seeds=(seed,))(trial) for seed in (3, 4))
    together = make_objective(seeds=(3, 4))
    assert isinstance(one, float)
    assert isinstance(other, float)
    assert one != other
    assert together(trial) == pytest.approx((one + other) / 2)
    assert kept_bytes(together) == 2 * 500 * 8 * 9 * 4


def test_augmented_images_are_computed_anew(make_objective: MakeObjective) -> None:
    objective = make_objective(augment=nn.Identity(), epochs=1)
    objective(FixedTrial(PROBE.to_params()))
    assert kept_bytes(objective) == 0


def test_the_budget_holds_and_the_least_recently_used_activations_go(
    make_objective: MakeObjective, counting: type[Counting]
) -> None:
    # For each image the stem makes 8 x 3 x 3 numbers, and the body 16.
    stem, body = 500 * 8 * 9 * 4, 500 * 16 * 4
    objective = make_objective(model=counting, cache_bytes=stem + body - 1, epochs=1)
    sizes = []
    for plan in (PROBE, STEM_FROZEN, STEM_FROZEN, PROBE):
        objective(FixedTrial(plan.to_params()))
        sizes.append(kept_bytes(objective))
    assert sizes == [body, stem, stem, body]


def test_activations_that_do_not_fit_are_computed_again_with_a_line_in_the_log(
    make_objective: MakeObjective, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="optuna_biotune")
    objective = make_objective(cache_bytes=1000)
    objective(FixedTrial(STEM_FROZEN.to_params()))
    objective(FixedTrial(STEM_FROZEN.to_params()))
    assert kept_bytes(objective) == 0
    lines = [line for line in caplog.messages if "more than `cache_bytes` leaves" in line]
    assert len(lines) == 1


def test_refit_and_its_test_data_give_the_same_metrics_without_the_cache(
    make_objective: MakeObjective, digits: Digits
) -> None:
    metrics = [
        make_objective(cache_bytes=n_bytes).refit(STEM_FROZEN, test=digits.test).metrics
        for n_bytes in (None, 0)
    ]
    assert metrics[0] == metrics[1]


def test_a_negative_budget_is_refused(make_objective: MakeObjective) -> None:
    with pytest.raises(ValueError, match=r"`cache_bytes` must be at least 0, but got -1"):
        make_objective(cache_bytes=-1)


class InPlaceAfterTheCut(SmallNet):
    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        features.mul_(2.0).add_(1.0)
        logits: Tensor = self.head(self.body(features.relu_()).flatten(1))
        return logits


class TwoValuesAtTheEndOfTheBody(SmallNet):
    """Carries the stem's output around the body."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        around = features.flatten(1).mean(1, keepdim=True)
        logits: Tensor = self.head(self.body(features).flatten(1)) + around
        return logits


class DropsInItsOwnForward(SmallNet):
    def forward(self, images: Tensor) -> Tensor:
        features = F.dropout(self.stem(images), 0.3, self.training)
        logits: Tensor = self.head(self.body(features).flatten(1))
        return logits


class DropsAlways(SmallNet):
    def __init__(self) -> None:
        super().__init__()
        self.stem.append(AlwaysDropout())


class AlwaysDropout(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        dropped: Tensor = F.dropout(features, 0.3, training=True)
        return dropped


class NormalisesByTheBatch(SmallNet):
    def __init__(self) -> None:
        super().__init__()
        self.stem[1] = nn.BatchNorm2d(8, track_running_stats=False)


class CountsItsCalls(SmallNet):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        self.get_buffer("calls").add_(1)
        return super().forward(images)


class AddsNoise(SmallNet):
    def forward(self, images: Tensor) -> Tensor:
        noise = 0.1 * torch.randn(8, 1, 1) if self.training else torch.zeros(8, 1, 1)
        logits: Tensor = self.head(self.body(self.stem(images) + noise).flatten(1))
        return logits


class Branches(SmallNet):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if images.mean() > -1 else -images)


class TakesAMask(SmallNet):
    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        features = self.stem(images)
        if mask is not None:
            features = features * mask
        logits: Tensor = self.head(self.body(features).flatten(1))
        return logits


def test_an_operation_in_place_after_the_cut_harms_nothing(make_objective: MakeObjective) -> None:
    kept = weights(make_objective, model=InPlaceAfterTheCut, epochs=3)
    assert_same_bits(kept, weights(make_objective, model=InPlaceAfterTheCut, cache_bytes=0))


def test_where_two_values_are_alive_the_cut_is_made_before(make_objective: MakeObjective) -> None:
    objective = make_objective(model=TwoValuesAtTheEndOfTheBody, epochs=1, seeds=(0,))
    objective(FixedTrial(PROBE.to_params()))
    assert kept_bytes(objective) == 500 * 8 * 9 * 4


def test_an_optional_input_of_the_network_is_no_obstacle(make_objective: MakeObjective) -> None:
    objective = make_objective(model=TakesAMask, epochs=1, seeds=(0,))
    objective(FixedTrial(PROBE.to_params()))
    assert kept_bytes(objective) == 500 * 16 * 4


def test_dropout_of_a_container_that_trains_stays_behind_the_cut(
    make_objective: MakeObjective,
) -> None:
    objective = make_objective(model=DropsInItsOwnForward, seeds=(0,))
    after = objective.refit(PROBE).model.state_dict()
    # The stem's output can be kept; what follows is dropped anew in every epoch.
    assert kept_bytes(objective) == 500 * 8 * 9 * 4
    whole = make_objective(model=DropsInItsOwnForward, seeds=(0,), augment=nn.Identity())
    assert_same_bits(after, whole.refit(PROBE).model.state_dict())


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (DropsAlways, "its frozen blocks draw random numbers"),
        (NormalisesByTheBatch, "its frozen blocks mix the images of a batch"),
        (CountsItsCalls, "it changes its buffers outside of its blocks"),
        (AddsNoise, "makes tensors or draws random numbers outside of its blocks"),
        (Branches, "torch.fx cannot follow it"),
    ],
)
def test_a_network_that_cannot_be_cut_with_certainty_is_trained_whole(
    make_objective: MakeObjective,
    caplog: pytest.LogCaptureFixture,
    network: type[nn.Module],
    reason: str,
) -> None:
    caplog.set_level(logging.INFO, logger="optuna_biotune")
    arguments: dict[str, Any] = {"model": network, "seeds": (0,)}
    objective = make_objective(**arguments)
    after = objective.refit(STEM_FROZEN).model.state_dict()
    objective.refit(STEM_FROZEN)
    assert kept_bytes(objective) == 0
    assert len([line for line in caplog.messages if reason in line]) == 1
    whole = make_objective(**arguments, augment=nn.Identity())
    assert_same_bits(after, whole.refit(STEM_FROZEN).model.state_dict())


def test_finding_a_cut_leaves_the_caller_s_random_numbers_alone(digits: Digits) -> None:
    blocks = partition_blocks(SmallNet(), BLOCKS)
    example = digits.train.tensors[0][:2]
    sharing = PrefixSharing(blocks, torch.device("cpu"), "fp32", 8, example, 2**20)
    before = {name: tensor.clone() for name, tensor in blocks.model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert sharing.prefix(blocks.model, STEM_FROZEN, ()) is not None
    assert torch.equal(torch.rand(3), expected)
    assert_same_bits(before, blocks.model.state_dict())


def test_gradients_and_optimizer_state_end_at_the_first_trained_block(
    make_objective: MakeObjective,
) -> None:
    for plan in (STEM_FROZEN, FineTuningPlan({"stem": 1.0, "body": 0.0, "head": 1.0})):
        objective = make_objective()
        run = SeedRun(plan, 0, objective._settings)
        run.train_epoch(objective._data, torch.arange(128))
        trained = {
            name: parameter
            for name, parameter in run.model.named_parameters()
            if name.partition(".")[0] in plan.trainable
        }
        for name, parameter in run.model.named_parameters():
            assert (parameter.grad is not None) == (name in trained), name
        assert {id(p) for p in run._optimizer.state} == {id(p) for p in trained.values()}
