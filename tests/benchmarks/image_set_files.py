"""Writes small image sets in the files in which the sets of the BioTune paper are published.

Every image has one colour that tells its label: of three classes, the channel of that number is
bright; grey images are the brighter, the greater the label.
"""

from __future__ import annotations

import bz2
import csv
import hashlib
import pickle
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

N_CLASSES = 3
# How many images there are for training, for validation if the set has such, and for testing.
N_TRAIN, N_VAL, N_TEST = 30, 6, 9


def labels_of(n: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(n, dtype=np.int64) % N_CLASSES


def grey(n: int, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    images = np.empty((n, size, size), np.uint8)
    images[:] = (40 + 80 * labels_of(n))[:, None, None]
    return images


def coloured(n: int, height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    images = np.full((n, height, width, 3), 30, np.uint8)
    images[np.arange(n), :, :, labels_of(n)] = 220
    return images


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_mnist(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, n in (("train", N_TRAIN), ("t10k", N_TEST)):
        header = struct.pack(">iiii", 0x803, n, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + grey(n, 28).tobytes())
        labels = labels_of(n).astype(np.uint8).tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 0x801, n) + labels)


def write_usps(root: Path, patch: pytest.MonkeyPatch) -> None:
    for file, n in (("usps.bz2", N_TRAIN), ("usps.t.bz2", N_TEST)):
        lines = []
        for label, image in zip(labels_of(n), grey(n, 16), strict=True):
            values = image.reshape(-1) / 127.5 - 1
            pixels = " ".join(f"{index}:{value:.4f}" for index, value in enumerate(values, start=1))
            lines.append(f"{label + 1} {pixels} \n")
        (root / file).write_bytes(bz2.compress("".join(lines).encode()))


def write_svhn(root: Path, patch: pytest.MonkeyPatch) -> None:
    published = dict(datasets.SVHN.split_list)
    for part, n in (("train", N_TRAIN), ("test", N_TEST)):
        file = root / f"{part}_32x32.mat"
        labels = labels_of(n)
        images = coloured(n, 32, 32).transpose(1, 2, 3, 0)
        savemat(file, {"X": images, "y": np.where(labels == 0, 10, labels)[:, None]})
        published[part] = [*published[part][:2], md5(file)]
    patch.setattr(datasets.SVHN, "split_list", published)


def write_cifar10(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    images, labels = coloured(N_TRAIN, 32, 32).transpose(0, 3, 1, 2), labels_of(N_TRAIN)
    for number, part in enumerate(np.split(np.arange(N_TRAIN), 5), start=1):
        batch = {"data": images[part].reshape(len(part), -1), "labels": labels[part].tolist()}
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(batch))
    images = coloured(N_TEST, 32, 32).transpose(0, 3, 1, 2)
    batch = {"data": images.reshape(N_TEST, -1), "labels": labels_of(N_TEST).tolist()}
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    names = {"label_names": ["airplane", "automobile", "bird"]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names))
    kind = datasets.CIFAR10
    for files in ("train_list", "test_list"):
        patch.setattr(kind, files, [[name, md5(folder / name)] for name, _ in getattr(kind, files)])
    patch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / "batches.meta")})


def write_stl10(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "stl10_binary"
    folder.mkdir()
    for part, n in (("train", N_TRAIN), ("test", N_TEST)):
        # Channel by channel, and each of them column by column.
        pixels = coloured(n, 96, 96).transpose(0, 3, 2, 1)
        (folder / f"{part}_X.bin").write_bytes(pixels.tobytes())
        (folder / f"{part}_y.bin").write_bytes((labels_of(n) + 1).astype(np.uint8).tobytes())
    (folder / "unlabeled_X.bin").write_bytes(bytes(3 * 96 * 96))
    (folder / "class_names.txt").write_text("airplane\nbird\ncar\n")
    kind = datasets.STL10
    for files in ("train_list", "test_list"):
        patch.setattr(kind, files, [[name, md5(folder / name)] for name, _ in getattr(kind, files)])


def write_flowers102(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "flowers-102"
    n = N_TRAIN + N_VAL + N_TEST
    files = [folder / "jpg" / f"image_{number:05d}.jpg" for number in range(1, n + 1)]
    write_jpegs(files)
    savemat(folder / "imagelabels.mat", {"labels": labels_of(n)[None] + 1})
    numbers = np.arange(1, n + 1)
    train, val, test = np.split(numbers, [N_TRAIN, N_TRAIN + N_VAL])
    savemat(folder / "setid.mat", {"trnid": train[None], "valid": val[None], "tstid": test[None]})
    published = dict(datasets.Flowers102._file_dict)
    for key in ("label", "setid"):
        name = published[key][0]
        published[key] = (name, md5(folder / name))
    patch.setattr(datasets.Flowers102, "_file_dict", published)


def write_fgvc_aircraft(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "fgvc-aircraft-2013b" / "data"
    variants = ["707-320", "727-200", "Cessna 172"]
    for part, n in (("train", N_TRAIN), ("val", N_VAL), ("test", N_TEST)):
        write_jpegs([folder / "images" / f"{part}{index:04d}.jpg" for index in range(n)])
        lines = [f"{part}{index:04d} {variants[index % N_CLASSES]}\n" for index in range(n)]
        (folder / f"images_variant_{part}.txt").write_text("".join(lines))
    (folder / "variants.txt").write_text("".join(f"{variant}\n" for variant in variants))


def write_dtd(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "dtd" / "dtd"
    (folder / "labels").mkdir(parents=True)
    textures = ["banded", "blotchy", "braided"]
    for part, n in (("train", N_TRAIN), ("val", N_VAL), ("test", N_TEST)):
        names = [textures[label] for label in labels_of(n)]
        files = [f"{name}/{name}_{part}{index:04d}.jpg" for index, name in enumerate(names)]
        write_jpegs([folder / "images" / file for file in files])
        (folder / "labels" / f"{part}1.txt").write_text("".join(f"{file}\n" for file in files))


def write_jpegs(files: Sequence[Path]) -> None:
    for file, image in zip(files, coloured(len(files), 40, 60), strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file, quality=95)


def write_isic2020(root: Path, *, patients: int | None = 20) -> None:
    """Write four images a patient; one of each third patient's is malignant."""
    folder = root / "isic2020"
    n = 80
    names = [f"ISIC_{index:07d}" for index in range(n)]
    targets = np.zeros(n, np.int64)
    targets[::12] = 1
    (folder / "train").mkdir(parents=True)
    with (folder / "train.csv").open("w", newline="") as file:
        columns = ["image_name", *(["patient_id"] if patients else []), "sex", "target"]
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        for index, (name, target) in enumerate(zip(names, targets, strict=True)):
            patient = f"IP_{index * (patients or 0) // n:07d}"
            row = {"image_name": name, "patient_id": patient, "sex": "", "target": target}
            writer.writerow(row)
    for name, target in zip(names, targets, strict=True):
        pixels = np.full((40, 60, 3), 30, np.uint8)
        pixels[:, :, target] = 220
        Image.fromarray(pixels).save(folder / "train" / f"{name}.jpg", quality=95)


WRITERS: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "mnist": write_mnist,
    "usps": write_usps,
    "svhn": write_svhn,
    "cifar10": write_cifar10,
    "stl10": write_stl10,
    "flowers102": write_flowers102,
    "fgvc_aircraft": write_fgvc_aircraft,
    "dtd": write_dtd,
}
"""Writes each set that torchvision reads into a directory.

Where torchvision compares a file with the MD5 sum of the published one, that sum is replaced by
the small file's own: the comparison itself still runs.
"""
