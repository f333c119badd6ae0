"""Finding the blocks of a network: the tables, automatic blocks, and users' blocks."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from optuna_biotune import FineTuningPlan, partition_blocks
from optuna_biotune.finetune.module_names import short_names
from tests.finetune.networks import PLAIN_BLOCKS, PlainNetwork, Wrapper, convolution

models = torchvision.models


# The networks of the paper


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnext50_32x4d"])
def test_resnets_have_the_six_blocks_of_the_paper(name: str) -> None:
    partition = partition_blocks(models.get_model(name, num_classes=3))
    assert partition.blocks == {
        "stem": ("conv1", "bn1"),
        "layer1": ("layer1",),
        "layer2": ("layer2",),
        "layer3": ("layer3",),
        "layer4": ("layer4",),
        "fc": ("fc",),
    }


@pytest.mark.parametrize("name", ["densenet121", "densenet161", "densenet169"])
def test_densenets_have_the_nine_blocks_of_the_paper(name: str) -> None:
    partition = partition_blocks(models.get_model(name, num_classes=3))
    assert partition.blocks == {
        "stem": ("features.conv0", "features.norm0"),
        "denseblock1": ("features.denseblock1",),
        "transition1": ("features.transition1",),
        "denseblock2": ("features.denseblock2",),
        "transition2": ("features.transition2",),
        "denseblock3": ("features.denseblock3",),
        "transition3": ("features.transition3",),
        "denseblock4": ("features.denseblock4", "features.norm5"),
        "classifier": ("classifier",),
    }


def _vgg(configuration: str, batch_norm: bool) -> nn.Module:
    features = models.vgg.make_layers(models.vgg.cfgs[configuration], batch_norm=batch_norm)
    with torch.device("meta"):
        model: nn.Module = models.VGG(features, num_classes=3, init_weights=False)
    return model


def test_vgg19_has_the_six_blocks_of_the_paper() -> None:
    def features(*indices: int) -> tuple[str, ...]:
        return tuple(f"features.{index}" for index in indices)

    assert partition_blocks(_vgg("E", batch_norm=False)).blocks == {
        "stage1": features(0, 2),
        "stage2": features(5, 7),
        "stage3": features(10, 12, 14, 16),
        "stage4": features(19, 21, 23, 25),
        "stage5": features(28, 30, 32, 34),
        "classifier": ("classifier",),
    }


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("configuration", ["A", "B", "D", "E"])
def test_every_vgg_is_split_at_its_max_pools(configuration: str, batch_norm: bool) -> None:
    model = _vgg(configuration, batch_norm)
    partition = partition_blocks(model)
    assert partition.names == (*(f"stage{n}" for n in range(1, 6)), "classifier")
    for block in partition.names[:-1]:
        kinds = [type(module) for module in partition.modules(block)]
        assert kinds[0] is nn.Conv2d
        assert kinds.index(nn.MaxPool2d) == len(kinds) - (2 if block == "stage5" else 1)


def test_inception_v3_has_thirteen_blocks_and_an_unused_auxiliary_head() -> None:
    partition = partition_blocks(models.inception_v3(num_classes=3, init_weights=False))
    mixed = ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"]
    stem = ["1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"]
    assert partition.blocks == {
        "stem": tuple(f"Conv2d_{name}" for name in stem),
        **{f"Mixed_{name}": (f"Mixed_{name}",) for name in mixed},
        "fc": ("fc",),
    }
    assert {name.split(".")[0] for name in partition.unused} == {"AuxLogits"}
    assert partition.block_of("AuxLogits") is None
    assert partition.block_of("dropout") == "fc"


def test_inception_v3_without_its_auxiliary_head_leaves_nothing_out() -> None:
    model = models.inception_v3(num_classes=3, init_weights=False, aux_logits=False)
    partition = partition_blocks(model)
    assert len(partition) == 13
    assert partition.unused == ()


def test_a_known_network_with_another_head_falls_back_to_automatic_blocks() -> None:
    model = models.resnet18(num_classes=3)
    model.fc = nn.Identity()
    partition = partition_blocks(Wrapper(model, 512))
    assert partition.names == ("conv1", "layer1", "layer2", "layer3", "layer4", "head")
    assert partition.blocks["conv1"][:2] == ("backbone.conv1", "backbone.bn1")
    assert partition_blocks(model).names == ("conv1", "layer1", "layer2", "layer3", "layer4")


# Auxiliary heads


def test_auxiliary_heads_never_run_train_or_require_gradients(googlenet: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        partition = partition_blocks(googlenet)
    plan = FineTuningPlan.full(partition.names)
    groups = partition.param_groups(plan, lr=0.1)
    partition.train(plan)
    before = partition.frozen_state(plan)

    logits = googlenet(torch.randn(2, 3, 64, 64))

    assert isinstance(logits, torch.Tensor)
    assert set(partition.unused) < set(before)
    assert "aux1.conv.bn.running_mean" in before
    partition.check_frozen(before)
    heads = [*googlenet.get_submodule("aux1").modules(), *googlenet.get_submodule("aux2").modules()]
    assert not any(module.training for module in heads)
    parameters = dict(googlenet.named_parameters())
    in_groups = {id(p) for group in groups for p in group["params"]}
    for name in partition.unused:
        assert not parameters[name].requires_grad
        assert id(parameters[name]) not in in_groups


def test_auxiliary_heads_may_be_named_and_then_train_with_the_network(
    googlenet: nn.Module,
) -> None:
    children = [name for name, _ in googlenet.named_children() if not name.startswith("aux")]
    partition = partition_blocks(googlenet, {"body": children[:-1], "fc": ["fc", "aux1", "aux2"]})
    partition.train(FineTuningPlan.full(partition.names))
    assert partition.unused == ()
    assert googlenet.training


def test_a_users_mapping_may_leave_auxiliary_heads_out(googlenet: nn.Module) -> None:
    children = [name for name, _ in googlenet.named_children() if not name.startswith("aux")]
    partition = partition_blocks(googlenet, {"body": children[:-1], "fc": ["fc"]})
    assert {name.split(".")[0] for name in partition.unused} == {"aux1", "aux2"}


# Automatic blocks


def test_blocks_follow_execution_and_not_registration(plain: PlainNetwork) -> None:
    assert partition_blocks(plain).names == ("early", "middle", "late", "head")


def test_reading_the_data_type_of_a_weight_is_not_a_use_of_it() -> None:
    class ReadsDataType(PlainNetwork):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images.to(self.head.weight.dtype))

    assert partition_blocks(ReadsDataType()).names == ("early", "middle", "late", "head")


def test_names_are_shortened_only_where_they_stay_distinct() -> None:
    assert short_names(["net.stem", "net.body.3", "head"]) == ["stem", "body.3", "head"]
    assert short_names(["a.conv", "b.conv"]) == ["a.conv", "b.conv"]


def test_layers_without_parameters_join_the_block_that_runs_before_them(
    plain: PlainNetwork,
) -> None:
    assert partition_blocks(plain).block_of("body_dropout") == "early"


def test_dropout_right_before_the_head_follows_the_head(plain: PlainNetwork) -> None:
    partition = partition_blocks(plain)
    assert partition.block_of("head_dropout") == "head"
    partition.train(FineTuningPlan.linear_probe(partition.names))
    assert plain.head_dropout.training
    assert not plain.body_dropout.training


def test_a_sequential_network_is_split_at_its_weights() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(8, 2),
    )
    assert partition_blocks(model).blocks == {
        "0": ("0", "1", "2", "3"),
        "4": ("4", "5", "6"),
        "8": ("7", "8"),
    }


def test_a_body_and_a_classifier_are_split_inside_the_body() -> None:
    model = nn.Sequential()
    model.add_module("features", nn.Sequential(*(convolution(3, 3) for _ in range(4))))
    model.add_module("classifier", nn.Sequential(nn.Flatten(), nn.LazyLinear(64), nn.Linear(64, 2)))
    model(torch.zeros(1, 3, 32, 32))
    names = partition_blocks(model).names
    assert names == (*(f"features.{i}" for i in range(4)), "classifier")


def test_wrappers_within_wrappers_are_opened() -> None:
    inner = nn.Sequential(*(convolution(1, 1) for _ in range(3)), nn.AdaptiveAvgPool2d(2))
    model = nn.Sequential(Wrapper(nn.Sequential(inner), 4))
    names = partition_blocks(model).names
    assert len(names) == 4
    assert names[-1] == "head"


def test_direct_parameters_join_the_block_that_runs_before_their_use() -> None:
    model = models.VisionTransformer(32, 8, 3, 2, 64, 128, num_classes=3)
    partition = partition_blocks(model)
    stem = ("conv_proj", "class_token", "encoder.pos_embedding", "encoder.dropout")
    assert partition.blocks["conv_proj"] == stem
    assert partition.names[1:] == (*(f"encoder_layer_{i}" for i in range(3)), "heads")


def test_residual_blocks_stay_whole() -> None:
    residual = [models.resnet.BasicBlock(8, 8) for _ in range(2)]
    pooling = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), *residual, *pooling, nn.Linear(8, 2))
    assert partition_blocks(model).names == ("0", "1", "2", "5")


def test_a_network_of_one_layer_is_one_block() -> None:
    partition = partition_blocks(nn.Linear(3, 2))
    assert len(partition) == 1
    assert partition.n_parameters(partition.names[0]) == 8


def test_parameters_that_never_run_are_left_out_with_a_warning() -> None:
    class WithUnusedLayer(PlainNetwork):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.Linear(2, 2)

    with pytest.warns(UserWarning, match="does not use .* 'extra'"):
        partition = partition_blocks(WithUnusedLayer())
    assert partition.unused == ("extra.weight", "extra.bias")


class NoisyNetwork(nn.Module):
    """Consumes random numbers and changes a buffer whenever it runs, even in evaluation mode."""

    n_calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)
        self.body = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)
        self.register_buffer("n_calls", torch.zeros(()))
        self.running = nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.n_calls += 1
        x = self.body(self.norm(images + torch.rand_like(images)))
        self.running.train()
        logits: torch.Tensor = self.head(self.running(x).mean((2, 3)))
        return logits


def test_the_forward_pass_leaves_no_trace() -> None:
    model = NoisyNetwork()
    model.train()
    model.running.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [module.training for module in model.modules()]

    partition_blocks(model, example_input=torch.randn(2, 3, 8, 8))

    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.n_calls == 0
    assert [module.training for module in model.modules()] == flags
    assert all(not module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_forward_pass_keeps_the_random_state() -> None:
    model = NoisyNetwork()
    random_state = torch.get_rng_state()
    partition_blocks(model)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_failed_forward_pass_leaves_no_trace(plain: PlainNetwork) -> None:
    plain.train()
    with pytest.raises(ValueError, match="`example_input`"):
        partition_blocks(plain, example_input=torch.zeros(1, 5, 8, 8))
    assert all(module.training for module in plain.modules())
    assert all(not module._forward_pre_hooks for module in plain.modules())


@pytest.mark.parametrize("size", [28, 32])
def test_networks_of_a_fixed_image_size_need_no_example(size: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * size**2, 2))
    assert partition_blocks(model).names == ("0", "2")


def test_an_example_input_serves_networks_that_take_no_images() -> None:
    class TextNetwork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 4)
            self.recurrent = nn.LSTM(4, 6, batch_first=True)
            self.head = nn.Linear(6, 2)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.recurrent(self.embedding(tokens))[0][:, -1])
            return logits

    tokens = torch.zeros(2, 5, dtype=torch.long)
    assert partition_blocks(TextNetwork(), example_input=tokens).names == (
        "embedding",
        "recurrent",
        "head",
    )
    with pytest.raises(ValueError, match="`example_input` is needed"):
        partition_blocks(TextNetwork())


def test_an_example_input_that_fails_is_named_with_its_shape(plain: PlainNetwork) -> None:
    with pytest.raises(ValueError, match=r"`example_input` .* shape \(2, 3, 8, 8\).*RuntimeError"):
        partition_blocks(plain, example_input=torch.zeros(2, 3, 8, 8))


def test_an_example_input_that_is_no_tensor_is_refused(plain: PlainNetwork) -> None:
    with pytest.raises(TypeError, match="`example_input` must be a tensor, but got list"):
        partition_blocks(plain, example_input=[1.0])  # type: ignore[arg-type]


def test_a_network_that_hides_what_runs_is_refused(plain: PlainNetwork) -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with pytest.raises(ValueError, match="give its blocks in `blocks`"):
        partition_blocks(Hidden(), example_input=torch.zeros(1))


# Users' blocks


def test_users_blocks_keep_their_order_and_names(plain: PlainNetwork) -> None:
    blocks = {"last": ["head", "late"], "first": ["early", "middle"]}
    partition = partition_blocks(plain, blocks)
    assert partition.names == ("last", "first")
    assert partition.blocks == {"last": ("head", "late"), "first": ("early", "middle")}
    assert next(iter(partition.named_parameters("last"))) == "head.weight"


def test_users_blocks_may_name_single_parameters(plain: PlainNetwork) -> None:
    blocks = {"weights": ["head.weight"], "rest": ["head.bias", "early", "middle", "late"]}
    partition = partition_blocks(plain, blocks)
    assert list(partition.named_parameters("weights")) == ["head.weight"]
    assert partition.n_parameters("weights") == 24


def test_users_blocks_may_name_layers_without_parameters(plain: PlainNetwork) -> None:
    blocks = {**PLAIN_BLOCKS, "middle": ["middle", "head_dropout"]}
    assert partition_blocks(plain, blocks).block_of("head_dropout") == "middle"


def test_a_name_covers_whole_path_components_only() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(11)))
    blocks = {"one": ["1"], "rest": [str(index) for index in range(11) if index != 1]}
    assert list(partition_blocks(model, blocks).named_parameters("one")) == ["1.weight", "1.bias"]


def test_an_unknown_name_is_refused_with_close_ones(plain: PlainNetwork) -> None:
    with pytest.raises(ValueError, match=r"names 'erly' in block 'early'.*mean .*'early'"):
        partition_blocks(plain, {**PLAIN_BLOCKS, "early": ["erly"]})


def test_a_left_out_parameter_is_named(plain: PlainNetwork) -> None:
    blocks = {name: modules for name, modules in PLAIN_BLOCKS.items() if name != "late"}
    with pytest.raises(ValueError, match="leaves out 'late'"):
        partition_blocks(plain, blocks)
    with pytest.raises(ValueError, match=r"leaves out 'head\.bias'"):
        partition_blocks(plain, {**PLAIN_BLOCKS, "head": ["head.weight"]})


def test_an_overlap_is_named_with_both_blocks(plain: PlainNetwork) -> None:
    message = r"'late\.0\.weight' is in block 'late' \(as 'late'\) and again in 'head' \(as 'late"
    with pytest.raises(ValueError, match=message):
        partition_blocks(plain, {**PLAIN_BLOCKS, "head": ["head", "late.0"]})


def test_a_name_given_twice_in_one_block_is_refused(plain: PlainNetwork) -> None:
    with pytest.raises(ValueError, match="again in 'head'"):
        partition_blocks(plain, {**PLAIN_BLOCKS, "head": ["head", "head.bias"]})


@pytest.mark.parametrize(
    ("blocks", "error", "message"),
    [
        ({}, ValueError, "`blocks` must hold at least one block"),
        ({"": ["head"]}, ValueError, "empty block name"),
        ({"head": []}, ValueError, "'head' has none"),
        ({"head": ["head_dropout"]}, ValueError, "leaves out"),
        ({**PLAIN_BLOCKS, "pool": ["head_dropout"]}, ValueError, "'pool' has none"),
        ({"head": "head"}, TypeError, "lists of names, but block 'head' has 'head'"),
        ({"head": [1]}, TypeError, "strings, but block 'head' has 1"),
        ({1: ["head"]}, TypeError, "strings as block names, but got 1"),
        (["head"], TypeError, "`blocks` must map"),
    ],
)
def test_bad_blocks_are_refused(
    plain: PlainNetwork, blocks: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        partition_blocks(plain, blocks)


LAYERS = [f"{index}" for index in range(6)]


@st.composite
def _layer_groups(draw: st.DrawFn) -> dict[str, list[str]]:
    names = draw(st.permutations([f"{i}.{kind}" for i in LAYERS for kind in ("weight", "bias")]))
    cuts = draw(st.sets(st.integers(1, len(names) - 1), max_size=5))
    edges = [0, *sorted(cuts), len(names)]
    return {f"block{i}": list(names[a:b]) for i, (a, b) in enumerate(pairwise(edges))}


@settings(max_examples=50, deadline=None)
@given(blocks=_layer_groups(), removed=st.integers(0, 11))
def test_any_split_of_the_parameters_is_kept_and_any_incomplete_one_refused(
    blocks: dict[str, list[str]], removed: int
) -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in LAYERS))
    partition = partition_blocks(model, blocks)
    assert partition.names == tuple(blocks)
    for block, names in blocks.items():
        assert sorted(partition.named_parameters(block)) == sorted(names)
        assert partition.n_parameters(block) == sum(
            model.get_parameter(name).numel() for name in names
        )

    missing = [name for names in blocks.values() for name in names][removed]
    incomplete = {
        block: kept
        for block, names in blocks.items()
        if (kept := [name for name in names if name != missing])
    }
    if incomplete:
        with pytest.raises(ValueError, match=f"leaves out '{missing}'"):
            partition_blocks(model, incomplete)


# Models that cannot be partitioned


def test_a_function_that_builds_the_model_is_refused_with_a_hint() -> None:
    with pytest.raises(TypeError, match="Call it first"):
        partition_blocks(PlainNetwork)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"`model` must be a torch.nn.Module, but got 'resnet50'"):
        partition_blocks("resnet50")  # type: ignore[arg-type]


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="`model` must have parameters, but ReLU has none"):
        partition_blocks(nn.ReLU())


def test_uninitialized_parameters_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"uninitialized parameters \('0.weight', '0.bias'\)"):
        partition_blocks(nn.Sequential(nn.LazyLinear(2)))


def test_wrapped_models_are_refused(plain: PlainNetwork) -> None:
    with pytest.raises(ValueError, match=r"wrapped in DataParallel.*`model.module`"):
        partition_blocks(nn.DataParallel(plain))
    with pytest.raises(ValueError, match=r"before `torch.compile`"):
        partition_blocks(torch.compile(plain))  # type: ignore[arg-type]
