from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.googlenet import GoogLeNetOutputs
from torchvision.models.inception import InceptionOutputs

from optuna_biotune.finetune.gradients import accumulate_gradients, main_logits
from optuna_biotune.finetune.partition import partition_blocks
from optuna_biotune.finetune.settings import TrainingSettings
from optuna_biotune.finetune.splits import load_training_data
from optuna_biotune.finetune.training import (
    NonFiniteLossError,
    SeedRun,
    train_in_lockstep,
)
from optuna_biotune.genotype import FineTuningPlan
from tests.finetune.conftest import BLOCKS, Digits, SmallNet

FULL = FineTuningPlan.full(list(BLOCKS))
HEAD_AND_STEM = FineTuningPlan({"stem": 0.5, "body": 0.0, "head": 2.0})


def make_settings(**changes: Any) -> TrainingSettings:
    build_model: Callable[[], nn.Module] = changes.get("build_model", SmallNet)
    defaults: dict[str, Any] = {
        "build_model": build_model,
        "template": partition_blocks(build_model(), BLOCKS),
        "lr": 1e-2,
        "epochs": 3,
        "patience": 3,
        "batch_size": 64,
        "metric": "accuracy",
        "device": torch.device("cpu"),
        "precision": "fp32",
        "augment": None,
    }
    return TrainingSettings(**{**defaults, **changes})


def train(
    digits: Digits, plan: FineTuningPlan, seeds: list[int], settings: TrainingSettings
) -> tuple[list[SeedRun], list[float]]:
    data, fold = load_training_data(digits.train, digits.val, None)
    runs = [SeedRun(plan, seed, settings) for seed in seeds]
    return runs, list(train_in_lockstep(runs, data, fold, settings.epochs))


def assert_same_bits(one: nn.Module, other: nn.Module) -> None:
    for (name, tensor), (_, expected) in zip(
        one.state_dict().items(), other.state_dict().items(), strict=True
    ):
        assert torch.equal(tensor, expected), name


def test_seeds_in_lockstep_train_exactly_as_each_alone(digits: Digits) -> None:
    settings = make_settings(augment=lambda images: images + 0.05 * torch.randn_like(images))
    together, _ = train(digits, FULL, [0, 7], settings)
    for run, seed in zip(together, [0, 7], strict=True):
        (alone,), _ = train(digits, FULL, [seed], settings)
        assert_same_bits(run.model, alone.model)
        assert (run.best_value, run.best_epoch) == (alone.best_value, alone.best_epoch)


def test_seeds_differ_in_their_head_and_in_the_order_of_the_images(digits: Digits) -> None:
    firsts: list[Tensor] = []

    def augment(images: Tensor) -> Tensor:
        firsts.append(images[0])
        return images

    settings = make_settings(epochs=1, batch_size=300, augment=augment)
    heads = [SeedRun(FULL, seed, settings).model.get_parameter("head.1.bias") for seed in (0, 1)]
    assert not torch.equal(*heads)
    train(digits, FULL, [0, 1], settings)
    assert not torch.equal(*firsts)


def test_plans_with_the_same_seed_start_alike_and_see_the_same_batches(digits: Digits) -> None:
    seen: list[list[Tensor]] = [[], []]
    for plan, record in zip([FULL, HEAD_AND_STEM], seen, strict=True):

        def augment(images: Tensor, record: list[Tensor] = record) -> Tensor:
            record.append(images.clone())
            return images

        settings = make_settings(augment=augment)
        fresh = SeedRun(plan, 3, settings)
        assert torch.equal(
            fresh.model.get_parameter("head.1.weight"),
            SeedRun(FULL, 3, settings).model.get_parameter("head.1.weight"),
        )
        train(digits, plan, [3], settings)
    assert len(seen[0]) == 15
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


def test_every_epoch_trains_on_every_image_once_in_a_new_order(digits: Digits) -> None:
    record: list[Tensor] = []

    def augment(images: Tensor) -> Tensor:
        record.extend(images.flatten(1))
        return images

    train(digits, FULL, [0], make_settings(augment=augment, epochs=2))
    images = torch.stack(record).numpy()
    first, second = images[:300], images[300:]
    expected = np.sort(digits.train.tensors[0].flatten(1).numpy(), axis=0)
    assert not np.array_equal(first, second)
    for epoch in (first, second):
        np.testing.assert_array_equal(np.sort(epoch, axis=0), expected)


def test_training_leaves_the_random_states_of_the_caller_alone(digits: Digits) -> None:
    def draw() -> list[float]:
        return [float(torch.rand(1)), float(np.random.rand()), random.random()]

    def seed() -> None:
        torch.manual_seed(11)
        np.random.seed(11)
        random.seed(11)

    settings = make_settings(epochs=1)
    seed()
    expected = draw()
    seed()
    train(digits, FULL, [0], settings)
    assert draw() == expected


def test_frozen_blocks_stay_bit_identical_and_the_others_train(digits: Digits) -> None:
    settings = make_settings()
    before = SeedRun(HEAD_AND_STEM, 0, settings).model.state_dict()
    (run,), _ = train(digits, HEAD_AND_STEM, [0], settings)
    run.check_frozen()
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith("body"), name


def test_a_body_that_is_always_the_same_is_not_copied_to_check_that_it_is_frozen(
    digits: Digits,
) -> None:
    network = SmallNet()
    settings = make_settings(build_model=lambda: copy.deepcopy(network))
    (run,), _ = train(digits, HEAD_AND_STEM, [0], settings)
    templates = {id(p) for p in settings.template.model.parameters()}
    body = {name: t for name, t in run._frozen_state.items() if name.endswith(("weight", "bias"))}
    assert len(body) == 4
    assert all(id(tensor) in templates for tensor in body.values())
    run.check_frozen()
    with torch.no_grad():
        run.model.get_parameter("body.0.bias")[0] += 1e-6
    with pytest.raises(RuntimeError, match=r"body\.0\.bias"):
        run.check_frozen()


def test_learning_rates_follow_the_plan_and_a_cosine_over_the_epochs(digits: Digits) -> None:
    data, fold = load_training_data(digits.train, digits.val, None)
    run = SeedRun(HEAD_AND_STEM, 0, make_settings(epochs=4))
    rates = []
    for _ in range(4):
        rates.append([group["lr"] for group in run._optimizer.param_groups])
        run.train_epoch(data, fold.train)
    cosine = 0.5 * (1 + np.cos(np.pi * np.arange(4) / 4))
    np.testing.assert_allclose(rates, np.outer(cosine, [0.5e-2, 2e-2]), rtol=1e-6)


def test_training_is_that_of_a_plain_loop_with_adam(digits: Digits) -> None:
    # A bias before BatchNorm has a gradient of rounding errors only, which Adam makes large.
    settings = make_settings(build_model=lambda: SmallNet(batch_norm=False, dropout=0.0))
    (run,), _ = train(digits, FULL, [4], settings)
    model = SeedRun(FULL, 4, settings).model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, foreach=False)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)
    order = torch.Generator().manual_seed(4)
    images, labels = digits.train.tensors
    for _ in range(3):
        model.train()
        for batch in torch.split(torch.randperm(300, generator=order), 64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
    for one, other in zip(run.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def without_batch_norm() -> nn.Module:
    return SmallNet(batch_norm=False)


def test_a_seed_stops_after_patience_epochs_without_improvement(digits: Digits) -> None:
    # At this rate no prediction changes: an equal value is no improvement.
    settings = make_settings(build_model=without_batch_norm, lr=1e-12, epochs=9, patience=2)
    runs, values = train(digits, FULL, [0], settings)
    assert runs[0].best_epoch == 1
    assert runs[0].stopped
    assert len(values) == 3


def test_a_stopped_seed_trains_no_further_and_keeps_its_best_value(digits: Digits) -> None:
    steps: list[int] = []

    def count(images: Tensor) -> Tensor:
        steps.append(len(images))
        return images

    data, fold = load_training_data(digits.train, digits.val, None)
    settings = make_settings(build_model=without_batch_norm, lr=1e-12, patience=1, augment=count)
    idle = SeedRun(FULL, 0, settings)
    learning = SeedRun(FULL, 1, make_settings(lr=1e-2, patience=6, epochs=6))
    values = list(train_in_lockstep([idle, learning], data, fold, 6))
    assert sum(steps) == 2 * 300
    assert len(values) == 6
    assert values == sorted(values)
    assert values[-1] == (idle.best_value + learning.best_value) / 2
    assert values[-1] > values[0]


def test_a_last_batch_of_one_image_does_not_break_batch_norm(digits: Digits) -> None:
    data, fold = load_training_data(digits.train, digits.val, None)
    run = SeedRun(FULL, 0, make_settings())
    run.train_epoch(data, fold.train[:65])
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        run.model(data.images[:1])


@pytest.mark.parametrize("parts", [2, 3, 10])
def test_gradients_of_parts_add_up_to_those_of_the_whole_batch(digits: Digits, parts: int) -> None:
    images, labels = (tensor[:10] for tensor in digits.train.tensors)
    model = SmallNet(batch_norm=False, dropout=0.0)
    gradients = []
    for n in (1, parts):
        model.zero_grad()
        loss = accumulate_gradients(model, images, labels, n)
        gradients.append([loss, *(p.grad for p in model.parameters())])
    expected = nn.functional.cross_entropy(model(images), labels)
    torch.testing.assert_close(gradients[0][0], expected)
    for whole, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(summed, whole, rtol=1e-5, atol=1e-7)


class Limited(SmallNet):
    """A network that runs out of memory over a number of images at once."""

    limit = 0

    def __init__(self, batch_norm: bool) -> None:
        super().__init__(batch_norm=batch_norm, dropout=0.0)
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.limit:
            raise torch.OutOfMemoryError(f"no room for {len(images)} images")
        self.sizes.append(len(images))
        return super().forward(images)


def limited(limit: int, batch_norm: bool = False) -> Callable[[], nn.Module]:
    return lambda: type("LimitedHere", (Limited,), {"limit": limit})(batch_norm)


class LimitedLibrary(Limited):
    """Runs out of memory in a library of CUDA, whose errors are of another kind."""

    def forward(self, images: Tensor) -> Tensor:
        try:
            return super().forward(images)
        except torch.OutOfMemoryError:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED in cublasCreate") from None


def test_a_library_that_runs_out_of_memory_is_given_smaller_parts_too(digits: Digits) -> None:
    class Library(LimitedLibrary):
        limit = 20

    settings = make_settings(build_model=lambda: Library(batch_norm=False))
    (run,), values = train(digits, FULL, [0], settings)
    sizes = run.model.sizes
    assert isinstance(sizes, list)
    assert max(sizes) == 16
    assert len(values) == 3


def test_other_errors_of_a_network_are_not_taken_for_lack_of_memory(digits: Digits) -> None:
    class Broken(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        train(digits, FULL, [0], make_settings(build_model=Broken))


def test_out_of_memory_gives_the_same_training_in_smaller_parts(digits: Digits) -> None:
    (whole,), values = train(digits, FULL, [0], make_settings(build_model=limited(10**9)))
    (parted,), parted_values = train(digits, FULL, [0], make_settings(build_model=limited(20)))
    sizes = parted.model.sizes
    assert isinstance(sizes, list)
    assert max(sizes) == 16
    assert parted_values == pytest.approx(values, abs=0.011)
    for one, other in zip(whole.model.parameters(), parted.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_out_of_memory_goes_down_to_single_images_and_then_raises(digits: Digits) -> None:
    data, fold = load_training_data(digits.train, digits.val, None)
    SeedRun(FULL, 0, make_settings(build_model=limited(1))).train_epoch(data, fold.train)
    run = SeedRun(FULL, 0, make_settings(build_model=limited(0)))
    with pytest.raises(torch.OutOfMemoryError):
        run.train_epoch(data, fold.train)
    with pytest.raises(torch.OutOfMemoryError):
        run.predict(data, fold.val)


def test_out_of_memory_leaves_pairs_where_batch_norm_trains(digits: Digits) -> None:
    data, fold = load_training_data(digits.train, digits.val, None)
    pairs = SeedRun(FULL, 0, make_settings(build_model=limited(3, batch_norm=True)))
    pairs.train_epoch(data, fold.train[:65])
    sizes = pairs.model.sizes
    assert isinstance(sizes, list)
    assert set(sizes) == {2, 3}
    single = SeedRun(FULL, 0, make_settings(build_model=limited(1, batch_norm=True)))
    with pytest.raises(torch.OutOfMemoryError):
        single.train_epoch(data, fold.train)


def test_a_loss_that_is_not_finite_names_the_fastest_block_and_its_rate(digits: Digits) -> None:
    plan = FineTuningPlan({"stem": 0.1, "body": 1e12, "head": 1.0})
    with pytest.raises(NonFiniteLossError, match=r"epoch 1; .* body \(learning rate 1e\+36\)"):
        train(digits, plan, [0], make_settings(lr=1e24))


def test_a_loss_that_is_not_finite_stops_training_at_once(digits: Digits) -> None:
    steps: list[int] = []

    def poison(images: Tensor) -> Tensor:
        steps.append(len(images))
        return images * float("nan") if len(steps) == 2 else images

    with pytest.raises(NonFiniteLossError):
        train(digits, FULL, [0], make_settings(augment=poison))
    assert len(steps) == 2


def test_a_model_function_that_returns_the_same_network_twice_is_refused() -> None:
    model = SmallNet()
    with pytest.raises(ValueError, match="new network at every call"):
        SeedRun(FULL, 0, make_settings(build_model=lambda: model))


def test_the_logits_of_the_main_head_are_used() -> None:
    main, other = torch.zeros(2, 3), torch.ones(2, 3)
    outputs = [main, (main, other), InceptionOutputs(main, other)]
    outputs.append(GoogLeNetOutputs(main, other, other))
    for output in outputs:
        assert main_logits(output) is main
    for wrong in (torch.zeros(2, 3, 4), torch.zeros(2), {"out": main}, ()):
        with pytest.raises(TypeError, match=r"returns logits \[N, C\]"):
            main_logits(wrong)
