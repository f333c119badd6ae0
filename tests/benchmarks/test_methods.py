"""Each method trains what it says, by a loop that is that of FineTuningObjective for plans."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from checkpoints import load_checkpoint
from methods import METHODS
from methods.ablations import VARIANTS
from methods.auto_rgn import RelativeGradientNorms, normalised, relative_gradient_norm
from methods.method import Method
from methods.plans import BIOTUNE
from methods.problem import Problem, Sizes, load_problem
from methods.starting_point import absolute_distance, squared_distance
from methods.training import NetworkTraining
from methods.tuning import run_method, train_and_test, tune
from targets import load_target
from torch import Tensor, nn

from optuna_biotune import FineTuningObjective, FineTuningPlan, evolution, partition_blocks
from optuna_biotune.finetune.block_partition import same_bits
from optuna_biotune.tags import Tag

SIZES = Sizes(size=16, max_train=24, max_val=None, batch_size=8, epochs=8, patience=8, lr=1e-2)
BLOCKS = ("stem", "layer1", "layer2", "layer3", "layer4", "fc")


@pytest.fixture(scope="module")
def problem(data: Path, checkpoint: Path) -> Problem:
    return load_problem(data, "isic8", load_checkpoint(checkpoint), SIZES, device="cpu")


@pytest.fixture(scope="module")
def short(data: Path, checkpoint: Path) -> Problem:
    """The same with trainings of two epochs."""
    sizes = replace(SIZES, epochs=2)
    return load_problem(data, "isic8", load_checkpoint(checkpoint), sizes, device="cpu")


def begun(method: Method, problem: Problem, **constants: Any) -> NetworkTraining:
    return NetworkTraining(
        method, {**method.default_constants(problem.settings.lr), **constants}, 0, problem
    )


def state(training: NetworkTraining) -> dict[str, Tensor]:
    return copy.deepcopy(training.blocks.model.state_dict())


def changed_blocks(training: NetworkTraining, before: dict[str, Tensor]) -> tuple[str, ...]:
    now = training.blocks.model.state_dict()
    return tuple(
        block
        for block in training.blocks.names
        if any(
            not same_bits(before[name], now[name])
            for name in (
                *training.blocks.named_parameters(block),
                *training.blocks.named_buffers(block),
            )
        )
    )


def changes_by_epoch(training: NetworkTraining, problem: Problem) -> list[tuple[str, ...]]:
    changes = []
    while not training.stopped:
        before = state(training)
        training.train_epoch(problem.whole.train)
        changes.append(changed_blocks(training, before))
    return changes


def test_a_plan_trains_as_the_objective_trains_it(
    problem: Problem, data: Path, checkpoint: Path
) -> None:
    pretrained = load_checkpoint(checkpoint)
    record = pretrained.record
    target = load_target(
        data, "isic8", mean=record.mean, std=record.std, size=SIZES.size, max_train=SIZES.max_train
    )
    plan = FineTuningPlan(dict(zip(BLOCKS, (0.0, 0.0, 2.0, 0.5, 0.0, 1.0), strict=True)))
    objective = FineTuningObjective(
        model=partial(pretrained.build, 3),
        train=target.train,
        val=target.val,
        lr=SIZES.lr,
        epochs=SIZES.epochs,
        patience=3,
        seeds=(0,),
        batch_size=SIZES.batch_size,
        device="cpu",
    )
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())
    study.enqueue_trial(plan.to_params())
    study.optimize(objective, n_trials=1)
    expected = study.trials[0]
    # What the trial came to: parameters express a plan up to rounding.
    multipliers = FineTuningPlan.from_trial(expected).multipliers

    sizes = replace(SIZES, patience=3)
    own = load_problem(data, "isic8", pretrained, sizes, device="cpu")
    training = begun(BIOTUNE, own, multipliers=dict(multipliers))
    values = []
    while not training.stopped:
        training.train_epoch(own.whole.train)
        training.validate(own.whole.val)
        values.append(training.best_value)

    assert values == list(expected.intermediate_values.values())
    assert training.best_epoch == expected.user_attrs["best_epoch"]
    assert training.trainable_parameters == expected.user_attrs["trainable_params"]


def test_the_weights_are_those_of_the_objective(
    problem: Problem, data: Path, checkpoint: Path
) -> None:
    pretrained = load_checkpoint(checkpoint)
    plan = FineTuningPlan(dict(zip(BLOCKS, (0.0, 1.0, 2.0, 0.5, 0.0, 1.0), strict=True)))
    target = load_target(
        data,
        "isic8",
        mean=pretrained.record.mean,
        std=pretrained.record.std,
        size=SIZES.size,
        max_train=SIZES.max_train,
    )
    objective = FineTuningObjective(
        model=partial(pretrained.build, 3),
        train=target.train,
        val=target.val,
        lr=SIZES.lr,
        epochs=SIZES.epochs,
        seeds=(0,),
        batch_size=SIZES.batch_size,
        device="cpu",
    )
    # It refits on training and validation data together.
    expected = objective.refit(plan).model.state_dict()

    training = begun(BIOTUNE, problem, multipliers=dict(plan.multipliers))
    while not training.stopped:
        training.train_epoch(torch.cat([problem.whole.train, problem.whole.val]))

    found = training.blocks.model.state_dict()
    assert all(same_bits(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("name", ["full fine-tuning", "layer-wise decay", "L1-SP", "L2-SP"])
def test_methods_without_freezing_train_every_block(name: str, problem: Problem) -> None:
    training = begun(METHODS[name], problem)
    before = state(training)
    training.train_epoch(problem.whole.train)

    assert changed_blocks(training, before) == BLOCKS


def test_the_linear_probe_leaves_all_but_the_head_bit_identical(problem: Problem) -> None:
    training = begun(METHODS["linear probe"], problem)

    assert changes_by_epoch(training, problem) == 8 * [("fc",)]


def test_lp_ft_trains_the_head_for_half_of_the_epochs_and_then_everything(
    problem: Problem,
) -> None:
    training = begun(METHODS["LP-FT"], problem)

    assert changes_by_epoch(training, problem) == 4 * [("fc",)] + 4 * [BLOCKS]


def test_lp_ft_begins_its_second_stage_at_its_full_learning_rate(problem: Problem) -> None:
    training = begun(METHODS["LP-FT"], problem, full_rate=0.1)
    rates = []
    while not training.stopped:
        training.train_epoch(problem.whole.train)
        rates.append(training._schedule.get_last_lr()[-1])

    half = [0.5 * (1 + torch.cos(torch.tensor(torch.pi * e / 4)).item()) for e in (1, 2, 3, 4)]
    assert rates == pytest.approx([1e-2 * r for r in half] + [1e-3 * r for r in half], abs=1e-9)


def test_gradual_unfreezing_goes_from_the_head_down_a_block_an_epoch(problem: Problem) -> None:
    training = begun(METHODS["gradual unfreezing"], problem)

    changes = changes_by_epoch(training, problem)

    assert changes == [BLOCKS[-n:] for n in (1, 2, 3, 4, 5, 6, 6, 6)]
    longer = begun(METHODS["gradual unfreezing"], problem, interval=3)
    assert [stage.epochs for stage in longer.stages] == [3, 3, 2]


def test_layerwise_decay_slows_each_block_by_the_same_factor(problem: Problem) -> None:
    stage = begun(METHODS["layer-wise decay"], problem, decay=0.5).stages[0]

    assert list(stage.plan.multipliers.values()) == [0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0]


def toy() -> tuple[nn.Linear, nn.Linear]:
    body, head = nn.Linear(2, 1, bias=False), nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        body.weight.copy_(torch.tensor([[1.0, -2.0]]))
    return body, head


@pytest.mark.parametrize(
    ("penalty", "value", "gradient"),
    [
        # 3 / 2 (1^2 + 2^2) and 3 (w - w0); 3 (1 + 2) and 3 sign(w - w0).
        (squared_distance, 7.5, [3.0, -6.0]),
        (absolute_distance, 9.0, [3.0, -3.0]),
    ],
)
def test_the_penalty_is_the_distance_of_the_body_from_its_start(
    penalty: Callable[..., Callable[[], Tensor]], value: float, gradient: list[float]
) -> None:
    body, head = toy()
    blocks = partition_blocks(nn.Sequential(body, head), {"body": ["0"], "head": ["1"]})
    penalised = penalty(blocks, {"alpha": 3.0})
    assert penalised().item() == 0.0
    with torch.no_grad():
        body.weight.add_(torch.tensor([[1.0, -2.0]]))
        head.weight.add_(5.0)

    found = penalised()
    found.backward()  # type: ignore[no-untyped-call]

    assert found.item() == pytest.approx(value)
    assert body.weight.grad is not None
    assert body.weight.grad.tolist() == [gradient]
    assert head.weight.grad is None


def test_a_strong_penalty_keeps_the_body_near_its_start(problem: Problem) -> None:
    def moved(alpha: float) -> float:
        training = begun(METHODS["L2-SP"], problem, alpha=alpha)
        body = [p for name in BLOCKS[:-1] for p in training.blocks.parameters(name)]
        start = [parameter.detach().clone() for parameter in body]
        for _ in range(3):
            training.train_epoch(problem.whole.train)
        return sum((p - s).square().sum().item() for p, s in zip(body, start, strict=True))

    assert moved(100.0) < 0.7 * moved(0.0)


def test_only_the_head_has_weight_decay_beside_a_penalty(problem: Problem) -> None:
    training = begun(METHODS["L2-SP"], problem)
    training.train_epoch(problem.whole.train)

    groups = training._optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == 5 * [0.0] + [0.01]


def test_auto_rgn_divides_each_relative_gradient_norm_by_the_greatest() -> None:
    first, second = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.tensor([2.0]))
    first.grad, second.grad = torch.tensor([0.0, 1.0]), torch.tensor([4.0])
    assert relative_gradient_norm([first]) == pytest.approx(0.2)
    # Of a layer of both: (1 + 16) / (9 + 16 + 4).
    assert relative_gradient_norm([first, second]) == pytest.approx((17 / 29) ** 0.5)
    assert normalised([0.2, 2.0]) == [0.1, 1.0]

    optimizer = torch.optim.SGD([{"params": [first]}, {"params": [second]}], lr=0.5)
    norms = RelativeGradientNorms()
    norms.begin_epoch()
    norms.before_step(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.5])
    optimizer.step()
    norms.after_step(optimizer)
    assert first.tolist() == pytest.approx([3.0, 3.95])
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    # The rates of an epoch are those of the one before.
    first.grad, second.grad = torch.tensor([0.0, 10.0]), torch.tensor([0.0])
    norms.before_step(optimizer)
    norms.after_step(optimizer)
    assert norms.rates == pytest.approx([0.1, 1.0])
    norms.begin_epoch()
    assert norms.rates[0] == 1.0
    assert norms.rates[1] < 1.0


def test_auto_rgn_keeps_its_rates_apart_from_the_schedule(problem: Problem) -> None:
    training, plain = (
        begun(METHODS["AutoRGN"], problem),
        begun(METHODS["full fine-tuning"], problem),
    )
    for one in (training, plain):
        one.train_epoch(problem.whole.train)
        one.train_epoch(problem.whole.train)

    assert set(training._schedule.get_last_lr()) == set(plain._schedule.get_last_lr())
    layers = [m for m in training.blocks.model.modules() if list(m.parameters(recurse=False))]
    assert len(training._optimizer.param_groups) == len(layers)


def test_lora_trains_adapters_and_the_head_and_nothing_else(problem: Problem) -> None:
    training = begun(METHODS["LoRA"], problem, rank=2)
    before = state(training)
    for _ in range(2):
        training.train_epoch(problem.whole.train)

    assert changed_blocks(training, before) == ("adapters", "head")
    trained = {n for n, p in training.blocks.model.named_parameters() if p.requires_grad}
    assert {n for n in trained if ".lora_" not in n} == {"fc.weight", "fc.bias"}
    convolutions = [m for m in problem.settings.template.model.modules() if type(m) is nn.Conv2d]
    # Two tensors a convolution: to the rank and back.
    assert len(trained) == 2 + 2 * len(convolutions)
    adapters = sum(
        2 * m.in_channels * m.kernel_size[0] * m.kernel_size[1] + 2 * m.out_channels
        for m in convolutions
    )
    assert training.trainable_parameters == adapters + 128 * 3 + 3


def test_a_training_is_stopped_early_in_its_last_stage_only(data: Path, checkpoint: Path) -> None:
    sizes = replace(SIZES, patience=1)
    problem = load_problem(data, "isic8", load_checkpoint(checkpoint), sizes, device="cpu")
    training = begun(METHODS["LP-FT"], problem)
    while not training.stopped:
        training.train_epoch(problem.whole.train)
        training.best_value, training.best_epoch = 1.0, 1

    assert training.epoch == 5


def test_the_test_is_of_the_best_epoch(problem: Problem) -> None:
    method = METHODS["full fine-tuning"]
    training = NetworkTraining(method, method.default_constants(1e-2), 0, problem, keeps_best=True)
    training.train_epoch(problem.whole.train)
    training.validate(problem.whole.val)
    best = state(training)
    training.best_value = 2.0
    training.train_epoch(problem.whole.train)
    training.validate(problem.whole.val)

    training.test()

    assert all(same_bits(value, state(training)[name]) for name, value in best.items())


def test_a_diverging_training_is_the_worst_of_a_search_and_ends_a_test(problem: Problem) -> None:
    method = METHODS["full fine-tuning"]
    constants = {"lr": 1e30, "weight_decay": 0.0}

    tested = train_and_test(method, constants, problem, [0, 1])

    assert tested.best_epochs == [0, 0]
    assert all(0.0 <= value <= 1.0 for value in tested.test)
    assert tested.epochs < 16


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_tuned_within_the_budget_and_tested(name: str, short: Problem) -> None:
    found = run_method(
        METHODS[name],
        short,
        tuned=True,
        budget=5,
        search_seeds=[0],
        final_seeds=[100, 101],
        sampler_seed=0,
    )

    tuning, final = found["tuning"], found["final"]
    assert 5 <= tuning["epochs"] <= 6
    assert tuning["trials"] >= 3
    assert len(final["test"]) == 2
    assert 1 <= min(final["best_epochs"]) <= max(final["best_epochs"]) <= 2
    assert final["trainable_parameters"] > 0


def test_a_search_begins_with_the_default_constants(problem: Problem) -> None:
    method = METHODS["L2-SP"]

    found = tune(method, problem, budget=1, seeds=[0], sampler_seed=0)

    assert found.trials == 1
    assert found.constants == pytest.approx({"lr": 1e-2, "weight_decay": 0.01, "alpha": 0.1})


def test_an_epoch_of_two_networks_counts_double_and_one_on_a_fold_its_share(
    problem: Problem,
) -> None:
    one = tune(METHODS["linear probe"], problem, budget=1, seeds=[0], sampler_seed=0)
    two = tune(METHODS["linear probe"], problem, budget=1, seeds=[0, 1], sampler_seed=0)
    variants = {variant.name: variant for variant in VARIANTS}
    folded = tune(variants["BioTune: 5 folds"], problem, budget=1, seeds=[0], sampler_seed=0)

    assert (one.epochs, two.epochs) == (8.0, 16.0)
    assert folded.epochs == pytest.approx(8 / 5, rel=0.1)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_runs(variant: Method, short: Problem) -> None:
    found = tune(variant, short, budget=4, seeds=[0], sampler_seed=0)

    multipliers = found.constants["multipliers"]
    assert set(multipliers) == set(BLOCKS)
    if variant.name == "BioTune: no freezing":
        assert min(multipliers.values()) > 0
    if variant.name == "BioTune: freezing only":
        assert set(multipliers.values()) <= {0.0, 1.0}


def test_operators_are_left_out_for_the_time_of_a_search(short: Problem) -> None:
    before = evolution.elite_pair, evolution.adopt
    variants = {variant.name: variant for variant in VARIANTS}
    variant = variants["BioTune, paper: no elite exploitation"]
    roles: set[str] = set()

    def recommend(study: optuna.Study) -> optuna.trial.FrozenTrial:
        roles.update(tag.role for tag in map(Tag.of, study.trials) if tag is not None)
        return study.best_trial

    watched = replace(variant, search=replace(variant.search, recommend=recommend))
    tune(watched, short, budget=24, seeds=[0], sampler_seed=0)

    assert roles == {"initial", "offspring"}
    assert (evolution.elite_pair, evolution.adopt) == before
