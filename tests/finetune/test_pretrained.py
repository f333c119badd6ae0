from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import models

from optuna_biotune.finetune.image_folder import image_transform
from optuna_biotune.finetune.pretrained import (
    NetworkName,
    PretrainedNetwork,
    build_network,
    preprocessing_of,
    read_weights,
)

RESNET = NetworkName("torchvision", "resnet18")


@pytest.fixture
def image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    "name", ["resnet18", "inception_v3", "vit_b_16", "efficientnet_b1", "swin_t", "convnext_tiny"]
)
def test_the_preprocessing_is_that_of_the_torchvision_weights(
    name: str, image: Image.Image
) -> None:
    given = models.get_model_weights(name).DEFAULT.transforms()
    transform = image_transform(preprocessing_of(NetworkName.parse(name)))
    assert torch.allclose(transform(image), given(image), atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18.a1_in1k",
        "convnext_tiny.fb_in1k",
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        "vit_base_patch16_clip_224.openai",
        "convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384",  # squashes its images
    ],
)
def test_the_preprocessing_is_that_of_the_timm_weights(name: str, image: Image.Image) -> None:
    timm = pytest.importorskip("timm")
    from timm.data.config import resolve_data_config
    from timm.data.transforms_factory import create_transform

    configuration = timm.get_pretrained_cfg(name).to_dict()
    given = create_transform(**resolve_data_config({}, pretrained_cfg=configuration))  # type: ignore[no-untyped-call]
    transform = image_transform(preprocessing_of(NetworkName.parse(f"timm:{name}")))
    assert torch.allclose(transform(image), given(image), atol=1e-6)


def test_another_image_size_resizes_in_proportion() -> None:
    preprocessing = preprocessing_of(RESNET, image_size=112)
    assert (preprocessing.resize, preprocessing.crop) == (128, (112, 112))
    with pytest.raises(ValueError, match="`image_size` must be at least 1 pixel"):
        preprocessing_of(RESNET, image_size=0)


@pytest.mark.parametrize(
    ("text", "library", "name"),
    [
        ("resnet50", "torchvision", "resnet50"),
        ("timm:resnet18.a1_in1k", "timm", "resnet18.a1_in1k"),
    ],
)
def test_a_name_is_read_and_written(text: str, library: str, name: str) -> None:
    parsed = NetworkName.parse(text)
    assert (parsed.library, parsed.name, str(parsed)) == (library, name, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet19", "'resnet19' is no image classifier of torchvision: did you mean resnet1"),
        ("fcn_resnet50", "no image classifier of torchvision"),
        ("timm:resnet1888", "no image classifier of timm: did you mean"),
        ("timm:", "no image classifier of timm"),
        ("hub:resnet18", "must be NAME .* or timm:NAME, but got 'hub:resnet18'"),
        ("", "no image classifier"),
    ],
)
def test_an_unknown_network_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkName.parse(text)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_body_is_that_of_the_file_and_the_head_is_fresh(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    given = models.resnet18(num_classes=5).state_dict()
    path = tmp_path / f"weights{suffix}"
    save_file(given, path) if suffix == ".safetensors" else torch.save(given, path)
    network = PretrainedNetwork(RESNET, read_weights(path), n_classes=5)
    torch.manual_seed(1)
    first, second = network.build().state_dict(), network.build().state_dict()
    for key, tensor in given.items():
        assert torch.equal(first[key], tensor) == (not key.startswith("fc."))
    assert not torch.equal(first["fc.weight"], second["fc.weight"])


def test_auxiliary_heads_are_left_out() -> None:
    given = models.googlenet(aux_logits=True, init_weights=False).state_dict()
    network = PretrainedNetwork(NetworkName.parse("googlenet"), given, n_classes=3)
    model = network.build()
    assert not any(key.startswith("aux") for key in model.state_dict())
    assert getattr(model, "transform_input", False)
    assert torch.equal(model.state_dict()["conv1.conv.weight"], given["conv1.conv.weight"])


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ("resnet34", "they have layer"),
        ("resnet50", "they have layer|is \\("),
        ("squeezenet1_1", "they lack"),
    ],
)
def test_weights_of_another_network_are_refused(other: str, reason: str) -> None:
    weights = models.get_model(other, weights=None).state_dict()
    with pytest.raises(ValueError, match=f"`weights` do not fit resnet18: .*({reason})"):
        PretrainedNetwork(RESNET, weights, n_classes=2)


def test_weights_of_another_width_are_refused() -> None:
    weights = models.resnet18().state_dict()
    weights["layer1.0.conv1.weight"] = torch.zeros(1, 2, 3, 3)
    message = "layer1.0.conv1.weight is (1, 2, 3, 3), not (64, 64, 3, 3)"
    with pytest.raises(ValueError, match=re.escape(message)):
        PretrainedNetwork(RESNET, weights, n_classes=2)


def test_old_weights_without_counters_are_taken() -> None:
    weights = {k: v for k, v in models.resnet18().state_dict().items() if "num_batches" not in k}
    PretrainedNetwork(RESNET, weights, n_classes=2).build()


def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_weights(tmp_path / "nowhere.pth")
    for name in ("bad.pth", "bad.safetensors"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(ValueError, match="cannot be read as weights"):
            read_weights(tmp_path / name)
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match="must hold a state_dict, names and tensors alone"):
        read_weights(tmp_path / "checkpoint.pth")


def test_timm_networks_are_built_with_a_head(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    name = NetworkName.parse("timm:resnet18")
    weights = build_network(name, 7).state_dict()
    model = PretrainedNetwork(name, weights, n_classes=3).build()
    assert model.state_dict()["fc.weight"].shape == (3, 512)
    assert torch.equal(model.state_dict()["conv1.weight"], weights["conv1.weight"])
