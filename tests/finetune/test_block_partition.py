"""What a plan does with the blocks of a network, tied parameters, and the partition itself."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from optuna_biotune import BlockPartition, FineTuningPlan, partition_blocks
from tests.finetune.networks import PLAIN_BLOCKS, PlainNetwork, plan_of

models = torchvision.models


# What a plan does


@pytest.fixture
def partition(plain: PlainNetwork) -> BlockPartition:
    return partition_blocks(plain, PLAIN_BLOCKS)


def test_groups_hold_the_multiplier_times_the_base_learning_rate(
    partition: BlockPartition,
) -> None:
    plan = FineTuningPlan({"early": 0.0, "middle": 0.5, "late": 0.0, "head": 10.0})
    groups = partition.param_groups(plan, lr=np.float32(0.5))
    assert [(group["name"], group["lr"]) for group in groups] == [("middle", 0.25), ("head", 5.0)]


def test_groups_free_the_gradients_of_frozen_blocks_and_unfreeze_trained_ones(
    plain: PlainNetwork, partition: BlockPartition
) -> None:
    plain.requires_grad_(True)
    for parameter in plain.parameters():
        parameter.grad = torch.ones_like(parameter)
    plain.head.requires_grad_(False)

    partition.param_groups(plan_of(partition, "early"), lr=0.1)

    for name, parameter in plain.named_parameters():
        assert parameter.requires_grad == (not name.startswith("early"))
        assert (parameter.grad is None) == name.startswith("early")


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf")])
def test_a_learning_rate_out_of_range_is_refused(partition: BlockPartition, lr: float) -> None:
    with pytest.raises(ValueError, match="`lr` must be finite and above 0"):
        partition.param_groups(plan_of(partition), lr=lr)


@pytest.mark.parametrize("lr", ["0.1", True, None])
def test_a_learning_rate_that_is_no_number_is_refused(partition: BlockPartition, lr: Any) -> None:
    with pytest.raises(TypeError, match="`lr` must be a number"):
        partition.param_groups(plan_of(partition), lr=lr)


def test_a_plan_that_trains_nothing_is_refused_before_the_model_changes(
    plain: PlainNetwork, partition: BlockPartition
) -> None:
    with pytest.raises(ValueError, match="`plan` must train at least one block"):
        partition.param_groups(plan_of(partition, *partition.names), lr=0.1)
    assert all(parameter.requires_grad for parameter in plain.parameters())


def test_a_plan_for_other_blocks_is_refused_with_the_names_that_differ(
    partition: BlockPartition,
) -> None:
    plan = FineTuningPlan({"early": 1.0, "middle": 1.0, "late": 1.0, "fc": 1.0})
    message = "lacks 'head' and has the unknown 'fc'"
    for use in (partition.train, partition.trainable_parameters, partition.frozen_state):
        with pytest.raises(ValueError, match=message):
            use(plan)
    with pytest.raises(ValueError, match=message):
        partition.param_groups(plan, lr=0.1)
    with pytest.raises(TypeError, match="`plan` must be a FineTuningPlan"):
        partition.train({"early": 1.0})  # type: ignore[arg-type]


def test_frozen_blocks_are_in_evaluation_mode_and_trained_ones_in_training_mode(
    plain: PlainNetwork, partition: BlockPartition
) -> None:
    plain.eval()
    partition.train(plan_of(partition, "early", "late"))
    for name, module in plain.named_modules():
        assert module.training == (not name.startswith(("early", "late"))), name


def test_containers_train_only_if_something_in_them_does() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2))
    partition = partition_blocks(model, {"a": ["0.0"], "b": ["0.1"], "c": ["1"]})
    partition.train(plan_of(partition, "a"))
    assert [model.training, model[0].training] == [True, True]
    partition.train(plan_of(partition, "a", "b"))
    assert [model.training, model[0].training] == [True, False]


def test_a_layer_split_between_blocks_is_in_evaluation_mode_unless_all_of_it_trains() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    partition = partition_blocks(model, {"scale": ["0.weight"], "rest": ["0.bias", "1"]})
    plan = plan_of(partition, "scale")
    partition.train(plan)
    before = partition.frozen_state(plan)
    model(torch.randn(4, 2))
    assert "0.running_mean" in before
    partition.check_frozen(before)


def test_train_respects_modules_that_refuse_training_mode() -> None:
    class AlwaysEvaluated(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> AlwaysEvaluated:
            super().train(False)
            return self

    model = nn.Sequential(nn.Conv2d(1, 2, 3), AlwaysEvaluated(2))
    partition = partition_blocks(model, {"all": ["0", "1"]})
    partition.train(plan_of(partition))
    assert [module.training for module in model] == [True, False]


def test_changed_parameters_and_buffers_of_frozen_blocks_are_reported(
    plain: PlainNetwork, partition: BlockPartition
) -> None:
    plan = plan_of(partition, "early")
    before = partition.frozen_state(plan)
    with torch.no_grad():
        plain.head.bias.add_(1.0)
    partition.check_frozen(before)
    plain.train()
    plain(torch.randn(2, 1, 8, 8))
    with pytest.raises(RuntimeError, match=r"'early\.1\.running_mean'"):
        partition.check_frozen(before)


def test_the_comparison_of_frozen_tensors_is_by_bits(
    plain: PlainNetwork, partition: BlockPartition
) -> None:
    plan = plan_of(partition, "early")
    weight = plain.get_parameter("early.0.weight")
    with torch.no_grad():
        weight[0] = float("nan")
        weight[1] = 0.0
    before = partition.frozen_state(plan)
    partition.check_frozen(before)
    with torch.no_grad():
        weight[1] = -0.0
    with pytest.raises(RuntimeError, match=r"'early\.0\.weight'"):
        partition.check_frozen(before)


def test_functional_dropout_in_a_frozen_block_does_nothing() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.dropout(self.layer(x), 0.5, self.training)

    model = nn.Sequential(Block(), nn.Linear(64, 2))
    partition = partition_blocks(model, {"body": ["0"], "head": ["1"]})
    partition.train(plan_of(partition, "body"))
    x = torch.randn(4, 64)
    assert torch.equal(model(x), model(x))
    partition.train(plan_of(partition))
    assert not torch.equal(model(x), model(x))


# Tied parameters


class TiedNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.second(self.first(x)))
        return logits


@pytest.mark.parametrize("frozen", ["first", "second"])
def test_a_tied_parameter_counts_once_and_is_frozen_with_any_of_its_blocks(frozen: str) -> None:
    model = TiedNetwork()
    with pytest.warns(UserWarning, match=r"'first.weight' is tied across .* 'first', 'second'"):
        partition = partition_blocks(model, {name: [name] for name in ("first", "second", "head")})
    assert list(partition.named_parameters("second")) == ["second.bias"]

    plan = plan_of(partition, frozen)
    groups = partition.param_groups(plan, lr=0.1)
    in_groups = [id(p) for group in groups for p in group["params"]]
    assert id(model.first.weight) not in in_groups
    assert len(in_groups) == len(set(in_groups)) == 3
    assert not model.first.weight.requires_grad

    everything = partition.param_groups(plan_of(partition), lr=0.1)
    assert [len(group["params"]) for group in everything] == [2, 1, 2]


def test_a_layer_with_only_a_bias_of_its_own_joins_the_block_before_it() -> None:
    partition = partition_blocks(TiedNetwork())
    assert partition.blocks == {"first": ("first", "second"), "head": ("head",)}


def test_a_block_with_only_tied_parameters_is_refused() -> None:
    blocks = {"first": ["first"], "tie": ["second.weight"], "rest": ["second.bias", "head"]}
    with pytest.raises(ValueError, match=r"'tie' has none: it only shares 'first.weight'"):
        partition_blocks(TiedNetwork(), blocks)


def test_parameters_tied_within_a_block_need_no_second_name() -> None:
    blocks = {"body": ["first", "second.bias"], "head": ["head"]}
    partition = partition_blocks(TiedNetwork(), blocks)
    assert partition.n_parameters("body") == 16 + 4 + 4


# The partition as an object


def test_members_are_given_by_name_and_as_lists(
    plain: PlainNetwork, partition: BlockPartition
) -> None:
    assert partition.parameters("head") == [plain.head.weight, plain.head.bias]
    assert list(partition.named_modules("early")) == ["early", "early.0", "early.1", "early.2"]
    assert partition.modules("early")[1] is plain.early[0]
    assert [name for name in partition.named_buffers("late")] == [
        "late.1.running_mean",
        "late.1.running_var",
        "late.1.num_batches_tracked",
    ]
    assert len(partition.buffers("late")) == 3
    assert partition.model is plain
    assert repr(partition) == "BlockPartition(PlainNetwork: early, middle, late, head)"


def test_an_unknown_block_is_refused_with_the_known_ones(partition: BlockPartition) -> None:
    uses = (
        partition.parameters,
        partition.named_parameters,
        partition.modules,
        partition.named_modules,
        partition.buffers,
        partition.named_buffers,
        partition.n_parameters,
    )
    for use in uses:
        with pytest.raises(ValueError, match="one of early, middle, late, head, but got 'fc'"):
            use("fc")


def test_modules_and_parameters_know_their_block(partition: BlockPartition) -> None:
    assert partition.block_of("early.1") == "early"
    assert partition.block_of("early.1.weight") == "early"
    assert partition.block_of("") is None
    with pytest.raises(ValueError, match=r"`name` must name a module or parameter .* 'fc'"):
        partition.block_of("fc")


def test_a_partition_survives_a_change_of_data_type(
    plain: PlainNetwork, partition: BlockPartition
) -> None:
    plain.double()
    groups = partition.param_groups(plan_of(partition), lr=0.1)
    assert {p.dtype for group in groups for p in group["params"]} == {torch.float64}


def test_a_changed_model_is_noticed(plain: PlainNetwork, partition: BlockPartition) -> None:
    plain.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"changed since .*'extra.bias', 'extra.weight'"):
        partition.param_groups(plan_of(partition), lr=0.1)


def test_a_partition_is_given_to_a_copy_of_the_model(plain: PlainNetwork) -> None:
    partition = partition_blocks(plain)
    other = partition.for_model(copy.deepcopy(plain))
    assert other.blocks == partition.blocks
    assert other.parameters("head")[0] is not plain.head.weight
    with pytest.raises(ValueError, match="`blocks` names"):
        partition.for_model(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"`model` must be a torch.nn.Module"):
        partition.for_model(PlainNetwork)  # type: ignore[arg-type]


def test_auxiliary_heads_stay_unused_in_a_copy(googlenet: nn.Module) -> None:
    partition = partition_blocks(googlenet)
    assert partition.for_model(googlenet).unused == partition.unused
    with pytest.raises(ValueError, match="`model` must have the same parameters, but lacks 'aux1"):
        partition.for_model(models.googlenet(num_classes=3, aux_logits=False, init_weights=False))


def test_a_partition_can_be_pickled_with_its_model(plain: PlainNetwork) -> None:
    partition = partition_blocks(plain)
    loaded = pickle.loads(pickle.dumps(partition))
    assert loaded.blocks == partition.blocks
    assert pickle.loads(pickle.dumps(partition.names)) == partition.names


def test_nothing_is_stored_on_the_model(plain: PlainNetwork) -> None:
    before = set(vars(plain))
    partition = partition_blocks(plain)
    partition.param_groups(plan_of(partition), lr=0.1)
    partition.train(plan_of(partition))
    assert set(vars(plain)) == before


@pytest.mark.cuda
def test_networks_on_a_gpu_are_partitioned_and_moved_there_and_back() -> None:
    model = PlainNetwork().cuda()
    random_state = torch.cuda.get_rng_state()
    partition = partition_blocks(model, example_input=torch.zeros(2, 1, 8, 8))
    assert torch.equal(torch.cuda.get_rng_state(), random_state)
    plan = plan_of(partition, "early")
    before = partition.frozen_state(plan)
    partition.train(plan)
    optimizer = torch.optim.Adam(partition.param_groups(plan, lr=0.1))
    torch.autograd.backward(model(torch.randn(2, 1, 8, 8, device="cuda")).sum())
    optimizer.step()
    model.cpu()
    partition.check_frozen(before)
