from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpoints import load_checkpoint
from networks import NETWORKS, build_network
from pretrain import crop_and_flip, load_source, main
from safetensors import safe_open

from optuna_biotune import partition_blocks


@pytest.mark.parametrize("name", NETWORKS)
def test_the_head_of_a_network_is_its_last_block(name: str) -> None:
    network = build_network(name, 5)

    last = partition_blocks(network).names[-1]

    assert last == NETWORKS[name].head
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


def test_an_unknown_network_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"`name` must be one of small_resnet, .*, but got 'vgg'"):
        build_network("vgg", 5)


def test_each_augmented_image_is_a_shifted_or_mirrored_view_of_its_original() -> None:
    images = torch.arange(1, 1 + 20 * 6 * 6 * 3).reshape(20, 6, 6, 3)

    augmented = crop_and_flip(images, torch.Generator().manual_seed(0))

    padded = torch.nn.functional.pad(images, (0, 0, 4, 4, 4, 4))
    kinds = set()
    for index in range(20):
        views = {
            (row, column, mirrored): padded[index, row : row + 6, column : column + 6]
            for row in range(9)
            for column in range(9)
            for mirrored in (False, True)
        }
        matches = [
            key
            for key, view in views.items()
            if torch.equal(augmented[index], view.flip(1) if key[2] else view)
        ]
        assert len(matches) == 1
        kinds.add(matches[0])
    assert len(kinds) > 15


def test_the_source_is_decoded_in_the_order_of_its_files(data: Path) -> None:
    source = load_source(data)

    assert source.train.shape == (96, 16, 16, 3)
    assert source.val.shape == (24, 16, 16, 3)
    # Each class has one colour, so the brightest channel is the label.
    assert torch.equal(source.train.double().mean((1, 2)).argmax(1), source.train_labels)


def test_the_statistics_are_those_of_all_training_pixels(data: Path) -> None:
    source = load_source(data)

    mean, std = source.statistics()

    pixels = source.train.double().reshape(-1, 3) / 255
    torch.testing.assert_close(mean.double(), pixels.mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(std.double(), pixels.std(0, correction=0), rtol=0, atol=1e-6)


def test_pretraining_learns_and_says_in_the_file_how_well(checkpoint: Path) -> None:
    record = load_checkpoint(checkpoint).record

    assert record.network == "small_resnet"
    assert record.epochs == 6
    assert record.top1 > 0.9


def test_a_checkpoint_holds_no_path(checkpoint: Path, data: Path) -> None:
    with safe_open(checkpoint, framework="pt") as file:
        metadata = json.dumps(file.metadata())

    assert str(data) not in metadata
    assert str(checkpoint.parent) not in metadata
    assert "--data DIR" in metadata


def test_networks_built_from_a_checkpoint_differ_only_in_their_heads(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint)

    first, second = loaded.build(4).state_dict(), loaded.build(4).state_dict()

    different = {name for name in first if not torch.equal(first[name], second[name])}
    assert different == {"fc.weight", "fc.bias"}
    assert all(torch.equal(first[name], value) for name, value in loaded.body.items())


def test_a_directory_without_the_source_ends_with_a_message(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"must hold tinyimagenet200\.npz"):
        main(["--data", str(tmp_path), "--out", str(tmp_path / "x.safetensors")])
