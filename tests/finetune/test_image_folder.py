from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from optuna_biotune.finetune.image_folder import image_transform, read_image, read_image_folders
from optuna_biotune.recipe import Preprocessing


def write_images(folder: Path, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (8, 6), (index, 0, 0)).save(folder / name / f"{index}.png")


def classes_of(part: object) -> Counter[int]:
    return Counter(label for _, label in part)  # type: ignore[attr-defined]


def test_one_folder_is_split_with_the_same_shares_of_the_classes(tmp_path: Path) -> None:
    write_images(tmp_path, {"a": 20, "b": 10})
    folders = read_image_folders(tmp_path)
    assert folders.classes == ("a", "b")
    assert folders.val is None
    assert classes_of(folders.train) == {0: 16, 1: 8}
    assert classes_of(folders.test) == {0: 4, 1: 2}
    assert not set(folders.train.indices) & set(folders.test.indices)
    assert read_image_folders(tmp_path).test.indices == folders.test.indices


def test_train_val_and_test_are_taken_as_they_are(tmp_path: Path) -> None:
    for part, count in {"train": 3, "val": 2, "test": 1}.items():
        write_images(tmp_path / part, {"a": count, "b": count})
    folders = read_image_folders(tmp_path)
    assert folders.val is not None
    assert (len(folders.train), len(folders.val), len(folders.test)) == (6, 4, 2)


def test_without_test_images_a_fifth_of_the_training_images_is_put_aside(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"a": 5, "b": 5})
    write_images(tmp_path / "val", {"a": 2, "b": 2})
    folders = read_image_folders(tmp_path)
    assert folders.val is not None
    assert (len(folders.train), len(folders.val), len(folders.test)) == (8, 4, 2)


def test_the_digest_tells_other_images_and_other_parts(tmp_path: Path) -> None:
    write_images(tmp_path / "one", {"a": 5, "b": 5})
    first = read_image_folders(tmp_path / "one").digest
    (tmp_path / "one").rename(tmp_path / "moved")
    assert read_image_folders(tmp_path / "moved").digest == first
    (tmp_path / "moved" / "a" / "4.png").rename(tmp_path / "moved" / "a" / "x.png")
    assert read_image_folders(tmp_path / "moved").digest != first


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "has no folders"),
        ({"a": 9}, "has only the folder a"),
        ({"a": 9, "b": 0}, "Found no valid file for the classes b: put images there"),
        ({"a": 9, "b": 3}, "b needs at least 4 images .* but has 3"),
    ],
)
def test_a_folder_that_cannot_be_split_is_refused(
    tmp_path: Path, counts: dict[str, int], message: str
) -> None:
    (tmp_path / "images").mkdir()
    write_images(tmp_path / "images", counts)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_image_folders(tmp_path / "images")


def test_parts_with_other_classes_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"a": 5, "b": 5})
    write_images(tmp_path / "test", {"a": 1, "c": 1})
    with pytest.raises(ValueError, match=r"test must have the same class folders .* differ in b"):
        read_image_folders(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train", "validation"), "validation must be called val"),
        (("Train", "test"), "Train must be called train"),
        (("test", "val"), "must have a folder train beside test and val"),
    ],
)
def test_parts_of_other_names_are_not_left_out(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    for name in names:
        write_images(tmp_path / name, {"a": 5, "b": 5})
    with pytest.raises(ValueError, match=message):
        read_image_folders(tmp_path)


def test_a_class_may_be_called_like_a_part(tmp_path: Path) -> None:
    write_images(tmp_path, {"match": 5, "training": 5})
    assert read_image_folders(tmp_path).classes == ("match", "training")


def test_hidden_folders_are_no_classes_and_other_files_are_counted(tmp_path: Path) -> None:
    write_images(tmp_path, {"a": 5, "b": 5, ".ipynb_checkpoints": 1})
    for name in ("a/1.heic", "a/2.HEIC", "b/notes.txt", "b/.DS_Store"):
        (tmp_path / name).touch()
    folders = read_image_folders(tmp_path)
    assert folders.classes == ("a", "b")
    assert folders.left_out == {".heic": 2, ".txt": 1}


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        read_image_folders(tmp_path / "nowhere")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_images_of_any_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "tiff" if mode == "CMYK" else "png"
    Image.new("RGB", (4, 3), (200, 200, 200)).convert(mode).save(tmp_path / f"x.{suffix}")
    image = read_image(tmp_path / f"x.{suffix}")
    assert (image.mode, image.size) == ("RGB", (4, 3))


def test_images_of_16_bits_keep_their_shades(tmp_path: Path) -> None:
    values = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "scan.png")
    grey = np.asarray(read_image(tmp_path / "scan.png"))
    assert np.array_equal(grey, np.repeat(np.arange(256).reshape(16, 16, 1), 3, axis=2))


@pytest.mark.parametrize("content", [b"", b"no image", "truncated"])
def test_a_broken_image_is_named(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "broken.png"
    if isinstance(content, str):
        noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        content = path.read_bytes()[:200]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.png cannot be read as an image \(.+\): mend"):
        read_image(path)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no image .*nowhere\.png"):
        read_image(tmp_path / "nowhere.png")


def test_preprocessing_resizes_crops_and_normalises() -> None:
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    transform = image_transform(Preprocessing(4, (2, 2), (0.5, 0.25, 0.0), (0.5, 1.0, 2.0)))
    expected = to_tensor(image)[:, 1:3, 1:3]
    expected = (expected - torch.tensor([0.5, 0.25, 0.0])[:, None, None]) / torch.tensor(
        [0.5, 1.0, 2.0]
    )[:, None, None]
    assert torch.allclose(transform(image), expected)
    wide = Image.new("RGB", (30, 10))
    assert image_transform(Preprocessing((8, 8), (8, 8)))(wide).shape == (3, 8, 8)
