from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import URLError

import numpy as np
import pytest
import torch
from paper_targets import PAPER_TARGETS, Images, PaperTarget, load_paper_target
from PIL import Image
from torchvision import models

from tests.benchmarks.image_set_files import (
    N_TEST,
    N_TRAIN,
    N_VAL,
    WRITERS,
    write_isic2020,
    write_svhn,
    write_usps,
)

NEUTRAL: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
WITH_VALIDATION = ("flowers102", "fgvc_aircraft", "dtd")
GREY = ("mnist", "usps")
CLASSES = {
    "mnist": "0 - zero",
    "usps": "0",
    "svhn": "0",
    "cifar10": "airplane",
    "stl10": "airplane",
    "flowers102": "pink primrose",
    "fgvc_aircraft": "707-320",
    "dtd": "banded",
}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection fails as it does where there is no network."""

    def refuse(*arguments: Any, **options: Any) -> NoReturn:
        raise URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def tensors(target: PaperTarget, part: Images) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = [part[index] for index in range(len(part))]
    images = torch.stack([target.transform(image) for image, _ in pairs])
    return images, torch.tensor([label for _, label in pairs])


def labels_by_colour(images: torch.Tensor, name: str) -> torch.Tensor:
    means = images.mean((2, 3))
    if name in GREY:
        return ((means[:, 0] * 255 - 40) / 80).round().long()
    return means.argmax(1)


def labels_of(images: Images) -> list[int]:
    return [images[index][1] for index in range(len(images))]


@pytest.mark.parametrize("name", WRITERS)
def test_each_set_is_read_from_its_published_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    WRITERS[name](tmp_path, monkeypatch)

    target = load_paper_target(tmp_path, name, **NEUTRAL, size=24)

    published = name in WITH_VALIDATION
    sizes = (N_TRAIN, N_VAL) if published else (N_TRAIN * 4 // 5, N_TRAIN // 5)
    assert (len(target.train), len(target.val), len(target.test)) == (*sizes, N_TEST)
    assert target.classes[0] == CLASSES[name]
    for part in (target.train, target.val, target.test):
        images, labels = tensors(target, part)
        assert images.shape == (len(part), 3, 24, 24)
        assert torch.equal(labels_by_colour(images, name), labels)
        assert torch.bincount(labels).tolist() == [len(part) // 3] * 3


def test_a_set_without_validation_images_gives_a_fifth_of_its_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_usps(tmp_path, monkeypatch)

    target = load_paper_target(tmp_path, "usps", **NEUTRAL)

    together = np.concatenate([target.train.indices, target.val.indices])
    assert sorted(together) == list(range(N_TRAIN))


@pytest.mark.parametrize(("network", "size"), [("resnet50", 224), ("inception_v3", 299)])
def test_images_are_resized_and_cropped_as_for_the_pretrained_networks(
    network: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_usps(tmp_path, monkeypatch)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)

    target = load_paper_target(tmp_path, "usps", **IMAGENET, size=size)

    expected = models.get_model_weights(network).DEFAULT.transforms()(image)
    torch.testing.assert_close(target.transform(image), expected)


def test_a_capped_training_set_is_stratified_and_leaves_the_rest_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_usps(tmp_path, monkeypatch)
    whole = load_paper_target(tmp_path, "usps", **NEUTRAL)

    first, second = (load_paper_target(tmp_path, "usps", **NEUTRAL, max_train=12) for _ in range(2))

    assert np.bincount(labels_of(first.train)).tolist() == [4, 4, 4]
    assert np.array_equal(first.train.indices, second.train.indices)
    assert set(first.train.indices) < set(whole.train.indices)
    assert np.array_equal(first.val.indices, whole.val.indices)
    with pytest.raises(ValueError, match="`max_train` must be at least the number of classes, 3"):
        load_paper_target(tmp_path, "usps", **NEUTRAL, max_train=2)


@pytest.mark.parametrize("name", WRITERS)
def test_a_missing_set_that_cannot_be_downloaded_is_told_in_one_line(
    name: str, tmp_path: Path, offline: None
) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load_paper_target(tmp_path, name, **NEUTRAL)

    message = str(caught.value)
    assert f"must hold the image set {name}" in message
    assert "cannot be downloaded" in message
    assert "Name or service not known" in message
    assert "\n" not in message


def test_without_leave_to_download_nothing_is_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> NoReturn:
        pytest.fail("a connection was opened")

    monkeypatch.setattr(urllib.request, "urlopen", fail)

    for name in WRITERS:
        with pytest.raises(FileNotFoundError, match="is not to be downloaded"):
            load_paper_target(tmp_path, name, **NEUTRAL, download=False)


def test_a_damaged_file_is_not_taken_for_the_published_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    write_svhn(tmp_path, monkeypatch)
    with (tmp_path / "train_32x32.mat").open("ab") as file:
        file.write(b"more")

    with pytest.raises(FileNotFoundError, match="or not all of it"):
        load_paper_target(tmp_path, "svhn", **NEUTRAL)


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`name` must be one of mnist, .*, but got 'cifar100'"):
        load_paper_target(tmp_path, "cifar100", **NEUTRAL)
    with pytest.raises(ValueError, match="`size` must be at least 1, but got 0"):
        load_paper_target(tmp_path, "mnist", **NEUTRAL, size=0)


def test_there_are_the_nine_sets_of_the_paper() -> None:
    assert list(PAPER_TARGETS) == [*WRITERS, "isic2020"]


@pytest.mark.parametrize("patients", [20, None])
def test_lesions_are_split_by_class_and_keep_their_imbalance(
    patients: int | None, tmp_path: Path
) -> None:
    write_isic2020(tmp_path, patients=patients)

    target = load_paper_target(tmp_path, "isic2020", **NEUTRAL, size=24)

    parts = (target.train, target.val, target.test)
    assert sorted(np.concatenate([part.indices for part in parts])) == list(range(80))
    assert [len(part) for part in parts] == [48, 16, 16]
    assert target.classes == ("benign", "malignant")
    for part in parts:
        images, labels = tensors(target, part)
        assert 0 < labels.sum() <= 5
        assert torch.equal(images.mean((2, 3)).argmax(1), labels)


def test_no_patient_is_in_two_parts(tmp_path: Path) -> None:
    write_isic2020(tmp_path, patients=20)

    target = load_paper_target(tmp_path, "isic2020", **NEUTRAL)

    train, val, test = (set(part.indices // 4) for part in (target.train, target.val, target.test))
    assert not train & val
    assert not train & test
    assert not val & test


def test_lesions_can_be_capped(tmp_path: Path) -> None:
    write_isic2020(tmp_path)

    target = load_paper_target(tmp_path, "isic2020", **NEUTRAL, max_train=24)

    assert len(target.train) == 24
    assert set(labels_of(target.train)) == {0, 1}


def test_missing_lesions_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must hold isic2020/train\.csv .* by hand from"):
        load_paper_target(tmp_path, "isic2020", **NEUTRAL)
    write_isic2020(tmp_path)
    (tmp_path / "isic2020" / "train" / "ISIC_0000007.jpg").unlink()

    with pytest.raises(FileNotFoundError, match=r"lacks 1 of the 80 .*, such as ISIC_0000007\.jpg"):
        load_paper_target(tmp_path, "isic2020", **NEUTRAL)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_name,diagnosis\nISIC_1,nevus\n", "columns image_name and target: no target"),
        ("image_name,target\nISIC_1,malignant\n", "must be 0 or 1, but that of ISIC_1 is 'malig"),
        ("image_name,target\n", "names no images"),
    ],
)
def test_a_table_of_lesions_that_cannot_be_read_is_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "isic2020").mkdir()
    (tmp_path / "isic2020" / "train.csv").write_text(text)

    with pytest.raises(ValueError, match=message):
        load_paper_target(tmp_path, "isic2020", **NEUTRAL)
