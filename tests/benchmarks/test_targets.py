from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from targets import load_target

NEUTRAL: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def test_each_split_holds_its_own_images_in_their_order(data: Path) -> None:
    target = load_target(data, "isic8", **NEUTRAL, size=24)

    with np.load(data / "isic8.npz") as file:
        images, split = torch.from_numpy(file["images"]), file["split"]
    for code, part in enumerate((target.train, target.val, target.test)):
        expected = images[split == code].permute(0, 3, 1, 2).float() / 255
        torch.testing.assert_close(part.tensors[0], expected)
    assert target.classes == ("red", "green", "blue")


def test_images_are_resized_and_normalised_with_the_given_statistics(data: Path) -> None:
    plain = load_target(data, "isic8", **NEUTRAL, size=16).val.tensors[0]

    target = load_target(data, "isic8", mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.25), size=16)

    assert target.val.tensors[0].shape == (24, 3, 16, 16)
    expected = (plain[:, 2] - 0.3) / 0.25
    torch.testing.assert_close(target.val.tensors[0][:, 2], expected)


def test_a_capped_training_set_is_stratified_and_always_the_same(data: Path) -> None:
    first, second = (
        load_target(data, "isic8", **NEUTRAL, max_train=12).train.tensors for _ in range(2)
    )

    assert torch.bincount(first[1]).tolist() == [4, 4, 4]
    assert torch.equal(first[0], second[0])


def test_subsets_of_other_numbers_are_others(data: Path) -> None:
    first, second = (
        load_target(data, "isic8", **NEUTRAL, max_train=12, max_val=6, subset=number)
        for number in range(2)
    )

    assert torch.bincount(first.val.tensors[1]).tolist() == [2, 2, 2]
    assert not torch.equal(first.train.tensors[0], second.train.tensors[0])
    assert not torch.equal(first.val.tensors[0], second.val.tensors[0])


def test_a_cap_above_the_training_set_changes_nothing(data: Path) -> None:
    whole = load_target(data, "isic8", **NEUTRAL)

    capped = load_target(data, "isic8", **NEUTRAL, max_train=1000)

    assert torch.equal(whole.train.tensors[0], capped.train.tensors[0])


def test_a_cap_below_the_number_of_classes_is_refused(data: Path) -> None:
    with pytest.raises(ValueError, match="`max_train` must be at least the number of classes, 3"):
        load_target(data, "isic8", **NEUTRAL, max_train=2)


def test_a_missing_target_set_is_named(data: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`data` must hold busi\.npz"):
        load_target(data, "busi", **NEUTRAL)
