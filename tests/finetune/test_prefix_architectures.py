"""Training from kept activations gives the weights of training without them, over architectures."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from optuna_biotune import FineTuningPlan, partition_blocks
from optuna_biotune.finetune.data import LabelledImages
from optuna_biotune.finetune.prefix import PrefixSharing
from optuna_biotune.finetune.settings import TrainingSettings
from optuna_biotune.finetune.training import SeedRun

N_CLASSES = 3
# A whole batch and a shorter one.
N_IMAGES, BATCH_SIZE = 6, 4
CPU = torch.device("cpu")


def _torchvision(name: str, **options: Any) -> nn.Module:
    model: nn.Module = torchvision.models.get_model(name, num_classes=N_CLASSES, **options)
    return model


def _timm(name: str, **options: Any) -> nn.Module:
    timm = pytest.importorskip("timm")
    model: nn.Module = timm.create_model(name, num_classes=N_CLASSES, **options)
    return model


def _vgg19() -> nn.Module:
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["E"])
    model: nn.Module = torchvision.models.VGG(features, num_classes=N_CLASSES, init_weights=False)
    model.classifier = nn.Sequential(
        nn.Linear(512 * 7 * 7, 16), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(16, N_CLASSES)
    )
    return model


def _vit() -> nn.Module:
    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 3, "num_heads": 2}
    model: nn.Module = torchvision.models.VisionTransformer(
        **sizes, hidden_dim=32, mlp_dim=64, dropout=0.1, num_classes=N_CLASSES
    )
    return model


def _swin() -> nn.Module:
    sizes = {"embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 2]}
    model: nn.Module = torchvision.models.SwinTransformer(
        [4, 4], **sizes, window_size=[7, 7], num_classes=N_CLASSES
    )
    return model


def _convnext() -> nn.Module:
    stage = torchvision.models.convnext.CNBlockConfig
    stages = [stage(24, 48, 1), stage(48, 96, 1), stage(96, 96, 2), stage(96, None, 1)]
    model: nn.Module = torchvision.models.ConvNeXt(
        stages, stochastic_depth_prob=0.1, num_classes=N_CLASSES
    )
    return model


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet50": (lambda: _torchvision("resnet50"), 32),
    "densenet121": (lambda: _torchvision("densenet121"), 32),
    "vgg19": (_vgg19, 32),
    "inception_v3": (lambda: _torchvision("inception_v3", init_weights=False), 75),
    "googlenet": (lambda: _torchvision("googlenet", init_weights=False), 32),
    "resnet18": (lambda: _torchvision("resnet18"), 32),
    "mobilenet_v2": (lambda: _torchvision("mobilenet_v2"), 32),
    "efficientnet_b0": (lambda: _torchvision("efficientnet_b0"), 32),
    "convnext": (_convnext, 32),
    "regnet_y_400mf": (lambda: _torchvision("regnet_y_400mf"), 32),
    "shufflenet_v2_x0_5": (lambda: _torchvision("shufflenet_v2_x0_5"), 32),
    "squeezenet1_1": (lambda: _torchvision("squeezenet1_1"), 32),
    "swin": (_swin, 32),
    "vit": (_vit, 32),
    "timm/resnet18": (lambda: _timm("resnet18"), 32),
    "timm/vit_tiny": (lambda: _timm("vit_tiny_patch16_224", img_size=32, depth=3), 32),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_kept_activations_give_the_same_weights_to_the_last_bit(name: str) -> None:
    build, size = NETWORKS[name]
    torch.manual_seed(0)
    network = build()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(N_IMAGES, 3, size, size, generator=generator)
    data = LabelledImages(images, torch.arange(N_IMAGES) % N_CLASSES)
    template = partition_blocks(copy.deepcopy(network), None, images[:2])
    names = template.names
    # Freeze half of the network, and a block behind the first trained one.
    frozen = {*names[: len(names) // 2], *names[len(names) // 2 + 1 : -1][:1]}
    plan = FineTuningPlan({block: 0.0 if block in frozen else 1.0 for block in names})
    keeping = PrefixSharing(template, CPU, "fp32", BATCH_SIZE, images[:2], 2**30)
    computing = PrefixSharing(template, CPU, "fp32", BATCH_SIZE, images[:2], 0)
    outcomes = []
    for sharing in (keeping, computing):
        settings = TrainingSettings(
            build_model=lambda: copy.deepcopy(network),
            template=template,
            lr=1e-3,
            epochs=2,
            patience=2,
            batch_size=BATCH_SIZE,
            metric="accuracy",
            device=CPU,
            precision="fp32",
            augment=None,
            sharing=sharing,
        )
        run = SeedRun(plan, 0, settings)
        for _ in range(2):
            run.train_epoch(data, torch.arange(N_IMAGES))
        run.check_frozen()
        outcomes.append({**run.model.state_dict(), "logits": run.predict(data, torch.arange(3))})
    assert keeping.cache.n_bytes > 0
    assert computing.cache.n_bytes == 0
    for tensor, (key, expected) in zip(outcomes[0].values(), outcomes[1].items(), strict=True):
        assert torch.equal(tensor, expected), key
    assert any(
        not torch.equal(tensor, network.state_dict()[key])
        for key, tensor in outcomes[0].items()
        if key != "logits"
    )
