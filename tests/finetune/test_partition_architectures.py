"""One suite over many architectures of torchvision and timm: what every partition must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from optuna_biotune import BlockPartition, FineTuningPlan, partition_blocks

N_CLASSES = 4
BATCH_SIZE = 3

ModelBuilder = Callable[[], nn.Module]


def _torchvision(name: str, **options: Any) -> ModelBuilder:
    def build() -> nn.Module:
        model: nn.Module = torchvision.models.get_model(name, num_classes=N_CLASSES, **options)
        return model

    return build


def _timm(name: str, **options: Any) -> ModelBuilder:
    def build() -> nn.Module:
        timm = pytest.importorskip("timm")
        model: nn.Module = timm.create_model(name, num_classes=N_CLASSES, **options)
        return model

    return build


def _small_vgg(name: str) -> ModelBuilder:
    def build() -> nn.Module:
        features = torchvision.models.vgg.make_layers(
            torchvision.models.vgg.cfgs["E" if "19" in name else "A"], batch_norm="bn" in name
        )
        model: nn.Module = torchvision.models.VGG(
            features, num_classes=N_CLASSES, init_weights=False
        )
        model.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, N_CLASSES)
        )
        for module in features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return model

    return build


def _small_alexnet() -> nn.Module:
    model: nn.Module = torchvision.models.alexnet(num_classes=N_CLASSES)
    model.classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(256 * 6 * 6, 16), nn.ReLU(), nn.Linear(16, N_CLASSES)
    )
    return model


def _small_wide_resnet() -> nn.Module:
    bottleneck = torchvision.models.resnet.Bottleneck
    model: nn.Module = torchvision.models.ResNet(
        bottleneck, [1, 1, 1, 1], num_classes=N_CLASSES, width_per_group=128
    )
    return model


def _small_vision_transformer() -> nn.Module:
    model: nn.Module = torchvision.models.VisionTransformer(
        image_size=32,
        patch_size=16,
        num_layers=12,
        num_heads=3,
        hidden_dim=96,
        mlp_dim=192,
        dropout=0.1,
        num_classes=N_CLASSES,
    )
    return model


def _small_maxvit() -> nn.Module:
    model: nn.Module = torchvision.models.MaxVit(
        input_size=(64, 64),
        stem_channels=16,
        partition_size=2,
        block_channels=[16, 32, 64, 128],
        block_layers=[1, 1, 2, 1],
        head_dim=8,
        stochastic_depth_prob=0.2,
        num_classes=N_CLASSES,
    )
    return model


# Name of each architecture to how it is built, the image size, and the number of blocks.
ARCHITECTURES: dict[str, tuple[ModelBuilder, int, int]] = {
    "resnet18": (_torchvision("resnet18"), 64, 6),
    "resnet50": (_torchvision("resnet50"), 64, 6),
    "wide_resnet": (_small_wide_resnet, 64, 6),
    "resnext50_32x4d": (_torchvision("resnext50_32x4d"), 64, 6),
    "densenet121": (_torchvision("densenet121"), 64, 9),
    "vgg11_bn": (_small_vgg("vgg11_bn"), 64, 6),
    "vgg19": (_small_vgg("vgg19"), 64, 6),
    "inception_v3": (_torchvision("inception_v3", init_weights=False), 96, 13),
    "googlenet": (_torchvision("googlenet", init_weights=False), 64, 13),
    "alexnet": (_small_alexnet, 64, 6),
    "squeezenet1_1": (_torchvision("squeezenet1_1"), 64, 10),
    "mobilenet_v2": (_torchvision("mobilenet_v2"), 64, 20),
    "mobilenet_v3_small": (_torchvision("mobilenet_v3_small"), 64, 14),
    "mobilenet_v3_large": (_torchvision("mobilenet_v3_large"), 64, 18),
    "efficientnet_b0": (_torchvision("efficientnet_b0"), 64, 10),
    "efficientnet_v2_s": (_torchvision("efficientnet_v2_s"), 64, 9),
    "convnext_tiny": (_torchvision("convnext_tiny"), 64, 9),
    "regnet_x_400mf": (_torchvision("regnet_x_400mf"), 64, 6),
    "regnet_y_400mf": (_torchvision("regnet_y_400mf"), 64, 6),
    "shufflenet_v2_x0_5": (_torchvision("shufflenet_v2_x0_5"), 64, 6),
    "mnasnet0_5": (_torchvision("mnasnet0_5"), 64, 11),
    "vision_transformer": (_small_vision_transformer, 32, 14),
    "swin_t": (_torchvision("swin_t"), 64, 9),
    "swin_v2_t": (_torchvision("swin_v2_t"), 64, 9),
    "maxvit": (_small_maxvit, 64, 6),
    "timm/resnet18": (_timm("resnet18"), 64, 6),
    "timm/densenet121": (_timm("densenet121"), 64, 6),
    "timm/convnext_atto": (_timm("convnext_atto"), 64, 6),
    "timm/efficientnet_lite0": (_timm("efficientnet_lite0"), 64, 9),
    "timm/efficientnet_b0": (_timm("efficientnet_b0"), 64, 9),
    "timm/mobilenetv3_small_050": (_timm("mobilenetv3_small_050"), 64, 9),
    "timm/regnetx_002": (_timm("regnetx_002"), 64, 6),
    "timm/vit_tiny": (_timm("vit_tiny_patch16_224", img_size=32), 32, 14),
    "timm/deit_tiny_distilled": (
        _timm("deit_tiny_distilled_patch16_224", img_size=32),
        32,
        14,
    ),
    "timm/swin_tiny": (_timm("swin_tiny_patch4_window7_224", img_size=64), 64, 6),
}


@dataclass
class Case:
    """One network that the tests of this module share, and its partition."""

    model: nn.Module
    partition: BlockPartition
    image_size: int
    n_blocks: int

    def images(self) -> torch.Tensor:
        return torch.randn(BATCH_SIZE, 3, self.image_size, self.image_size)


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    build, image_size, n_blocks = ARCHITECTURES[request.param]
    torch.manual_seed(0)
    model = build()
    yield Case(model, partition_blocks(model), image_size, n_blocks)


def _first_calls(model: nn.Module, images: torch.Tensor) -> dict[str, int]:
    """Record when each layer without children first runs, with hooks of the test's own."""
    order: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    model.eval()
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return {name: order.index(name) for name in dict.fromkeys(order)}


def test_blocks_hold_every_parameter_and_buffer_exactly_once(case: Case) -> None:
    blocks = case.partition.names
    parameters = [name for block in blocks for name in case.partition.named_parameters(block)]
    buffers = [name for block in blocks for name in case.partition.named_buffers(block)]
    unused = case.partition.unused
    heads = tuple({name.split(".")[0] for name in unused})

    assert sorted([*parameters, *unused]) == sorted(n for n, _ in case.model.named_parameters())
    assert sorted(buffers) == sorted(
        name for name, _ in case.model.named_buffers() if not name.startswith(heads or "-")
    )
    assert set(heads) <= {"AuxLogits", "aux1", "aux2"}
    assert all(case.partition.n_parameters(block) > 0 for block in blocks)


def test_blocks_are_as_many_as_expected(case: Case) -> None:
    assert len(case.partition) == len(set(case.partition.names)) == case.n_blocks


def test_each_block_runs_completely_before_the_next(case: Case) -> None:
    calls = _first_calls(case.model, case.images())
    spans = []
    for block in case.partition.names:
        with_parameters = [
            calls[name]
            for name, module in case.partition.named_modules(block).items()
            if name in calls and list(module.parameters())
        ]
        spans.append((min(with_parameters), max(with_parameters)))
    assert all(end < start for (_, end), (start, _) in pairwise(spans)), spans


def test_the_last_block_is_the_head(case: Case) -> None:
    outputs = [p.shape[0] for p in case.partition.parameters(case.partition.names[-1])]
    assert outputs[-1] == N_CLASSES


def test_groups_have_absolute_learning_rates_and_leave_frozen_blocks_out(case: Case) -> None:
    names = case.partition.names
    plan = FineTuningPlan({name: 0.5 * (index % 3) for index, name in enumerate(names)})

    groups = case.partition.param_groups(plan, lr=0.02)

    assert [group["name"] for group in groups] == list(plan.trainable)
    for group in groups:
        assert group["lr"] == pytest.approx(0.02 * plan.multipliers[group["name"]])
        expected = case.partition.parameters(group["name"])
        assert [id(p) for p in group["params"]] == [id(p) for p in expected]
    in_groups = {id(p) for group in groups for p in group["params"]}
    for parameter in case.model.parameters():
        assert parameter.requires_grad == (id(parameter) in in_groups)
    assert case.partition.trainable_parameters(plan) == sum(
        p.numel() for p in case.model.parameters() if p.requires_grad
    )


@pytest.mark.parametrize("frozen_part", ["prefix", "middle"])
def test_training_changes_trained_blocks_and_not_one_bit_of_frozen_ones(
    case: Case, frozen_part: str
) -> None:
    partition = case.partition
    names = partition.names
    middle = len(names) // 2
    frozen = names[:middle] if frozen_part == "prefix" else (names[middle],)
    plan = FineTuningPlan({name: 0.0 if name in frozen else 1.0 for name in names})
    optimizer = torch.optim.Adam(partition.param_groups(plan, lr=1e-3))
    partition.train(plan)
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    frozen_state = partition.frozen_state(plan)

    torch.manual_seed(1)
    for _ in range(2):
        optimizer.zero_grad()
        logits = case.model(case.images())
        loss = nn.functional.cross_entropy(logits, torch.arange(BATCH_SIZE))
        torch.autograd.backward(loss)
        optimizer.step()

    after = dict(case.model.named_parameters()) | dict(case.model.named_buffers())
    changed = {name for name, old in before.items() if not torch.equal(old, after[name].detach())}
    for block in names:
        tensors = {*partition.named_parameters(block), *partition.named_buffers(block)}
        if block in frozen:
            assert not changed & tensors
            assert all(p.grad is None for p in partition.parameters(block))
            assert not any(module.training for module in partition.modules(block))
        else:
            assert changed & set(partition.named_parameters(block)), block
            assert all(module.training for module in partition.modules(block))
    assert not changed & set(partition.unused)
    assert {n for b in frozen for n in partition.named_parameters(b)} <= set(frozen_state)
    partition.check_frozen(frozen_state)
