from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn
from urllib.error import URLError

import pytest
import torch
from checkpoints import checkpoint_path, committed_table, load_checkpoint, paper_checkpoint
from networks import NETWORKS, PAPER_NETWORKS, build_network
from run_target import main
from torchvision import models

from optuna_biotune import partition_blocks
from tests.benchmarks.conftest import BENCHMARKS

INCEPTION_MODULES = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
STAGES = tuple(f"stage{number}" for number in range(1, 6))
BLOCKS = {
    "small_resnet": ("stem", "layer1", "layer2", "layer3", "layer4", "fc"),
    "small_densenet": (
        *("stem", "dense1", "transition1", "dense2", "transition2", "dense3", "transition3"),
        *("dense4", "fc"),
    ),
    "small_vgg": (*STAGES, "classifier"),
    "small_inception": (
        *("stem", "mixed1", "reduction1", "mixed2", "mixed3", "reduction2", "mixed4", "fc"),
    ),
}
PAPER_BLOCKS = {
    "resnet50": BLOCKS["small_resnet"],
    "densenet121": (
        *("stem", "denseblock1", "transition1", "denseblock2", "transition2", "denseblock3"),
        *("transition3", "denseblock4", "classifier"),
    ),
    "vgg19": BLOCKS["small_vgg"],
    "inception_v3": ("stem", *(f"Mixed_{name}" for name in INCEPTION_MODULES), "fc"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_blocks_of_a_small_network_are_found_without_being_told(name: str) -> None:
    assert partition_blocks(build_network(name, 5)).names == BLOCKS[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_small_network_takes_small_images_and_has_few_parameters(name: str) -> None:
    network = build_network(name, 200)

    for size in (32, 64):
        assert network(torch.zeros(2, 3, size, size)).shape == (2, 200)
    assert sum(parameter.numel() for parameter in network.parameters()) < 1_200_000


@pytest.mark.parametrize("name", ["small_vgg", "small_inception"])
def test_every_parameter_of_a_small_network_learns(name: str) -> None:
    network = build_network(name, 3)

    network(torch.randn(4, 3, 32, 32)).square().sum().backward()

    for parameter in network.parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.abs().sum() > 0)


@pytest.mark.parametrize("name", PAPER_NETWORKS)
def test_the_networks_of_the_paper_have_its_blocks_and_a_head_of_their_own(name: str) -> None:
    with torch.device("meta"):
        network, other = build_network(name, 5), build_network(name, 6)

    assert partition_blocks(network).names == PAPER_BLOCKS[name]
    sizes = other.state_dict()
    different = {
        key for key, value in network.state_dict().items() if value.shape != sizes[key].shape
    }
    head = PAPER_NETWORKS[name].head
    assert different == {f"{head}.weight", f"{head}.bias"}


def test_weights_in_the_cache_of_torchvision_are_taken_with_a_new_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = models.DenseNet121_Weights.DEFAULT
    given = models.densenet121().state_dict()
    file = tmp_path / "hub" / "checkpoints" / Path(weights.url).name
    file.parent.mkdir(parents=True)
    torch.save(given, file)

    checkpoint = paper_checkpoint("densenet121")

    state = checkpoint.build(3).state_dict()
    assert set(state) == set(given)
    assert all(torch.equal(state[name], value) for name, value in checkpoint.body.items())
    assert all(torch.equal(given[name], value) for name, value in checkpoint.body.items())
    assert set(given) - set(checkpoint.body) == {"classifier.weight", "classifier.bias"}
    assert state["classifier.weight"].shape == (3, 1024)
    assert checkpoint.record.command == "DenseNet121_Weights.IMAGENET1K_V1"
    assert checkpoint.record.mean == (0.485, 0.456, 0.406)
    assert 0.7 < checkpoint.record.top1 < 0.8


def test_weights_that_cannot_be_downloaded_end_the_run_with_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> NoReturn:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    options = ["--data", str(data), "--target", "isic8", "--network", "resnet50"]

    with pytest.raises(SystemExit) as caught:
        main([*options, "--out", str(tmp_path / "out")])

    message = str(caught.value)
    assert "weights of resnet50 cannot be downloaded (<urlopen error Name or service" in message
    assert models.ResNet50_Weights.DEFAULT.url in message
    assert str(tmp_path / "empty" / "hub" / "checkpoints") in message
    assert "\n" not in message
    assert not (tmp_path / "out").exists()


def test_a_network_of_the_paper_takes_no_checkpoint_of_ours(data: Path, checkpoint: Path) -> None:
    options = ["--data", str(data), "--target", "isic8", "--network", "resnet50"]

    with pytest.raises(SystemExit, match="`--checkpoint` must not be given with resnet50"):
        main([*options, "--checkpoint", str(checkpoint)])


@pytest.mark.parametrize("network", NETWORKS)
def test_a_committed_checkpoint_is_small_and_is_what_its_record_says(network: str) -> None:
    path = checkpoint_path(network)

    assert path.stat().st_size < 5_000_000
    loaded = load_checkpoint(path)
    assert loaded.record.network == network
    assert loaded.record.source == "tinyimagenet200"
    assert f"--network {network} --epochs {loaded.record.epochs} " in loaded.record.command
    # Chance is 1 in 200.
    assert loaded.record.top1 > 0.15
    assert loaded.build(3)(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_the_table_of_the_readme_is_that_of_the_committed_checkpoints() -> None:
    assert committed_table() in (BENCHMARKS / "README.md").read_text(encoding="utf-8")
