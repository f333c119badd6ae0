"""ISIC 2020: photographs of skin lesions, benign or malignant, in a folder with a csv file."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from optuna_biotune.finetune.image_folder import read_image

CLASSES = ("benign", "malignant")

_FOLDER = "isic2020"
_PAGE = "https://challenge.isic-archive.com/data/#2020"
_COLUMNS = ("image_name", "target")
# The split is the same in every run.
_SPLIT_SEED = 0
_PARTS = 5


@dataclass(frozen=True)
class LesionImages:
    """The training images of the challenge, whose labels alone are public.

    Attributes:
        files: JPEG file of each image.
        labels: 0 for benign, 1 for malignant, of each image.
        patients: Identifier of each image's patient; empty if the csv file has none.
    """

    files: list[Path]
    labels: list[int]
    patients: list[str]

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return an image as RGB, and its label."""
        return read_image(self.files[index]), self.labels[index]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)


def read_lesions(data: Path) -> LesionImages:
    """Find the images that the csv file names.

    Args:
        data: Directory with ``isic2020/train.csv``, which has the columns ``image_name``,
            ``target`` (0 or 1) and, if there is one, ``patient_id``, and with
            ``isic2020/train/<image_name>.jpg``.

    Raises:
        FileNotFoundError: If the csv file or an image is missing.
        ValueError: If the csv file lacks a column or has another target than 0 and 1.
    """
    table, folder = data / _FOLDER / "train.csv", data / _FOLDER / "train"
    if not table.is_file():
        raise FileNotFoundError(
            f"`data` must hold {_FOLDER}/train.csv and the images {_FOLDER}/train/*.jpg of the "
            f"ISIC 2020 challenge, but {data} does not: get them by hand from {_PAGE}."
        )
    rows = _read_rows(table)
    files = [folder / f"{row['image_name']}.jpg" for row in rows]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of the {len(files)} images that {table.name} names, "
            f"such as {missing[0].name}."
        )
    patients = [row["patient_id"] for row in rows] if "patient_id" in rows[0] else []
    return LesionImages(files, [int(row["target"]) for row in rows], patients)


def _read_rows(table: Path) -> list[dict[str, str]]:
    """Return the rows of the csv file by column."""
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    absent = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
    if absent:
        raise ValueError(f"{table} must have the columns image_name and target: no {absent[0]}.")
    for row in rows:
        if row["target"] not in ("0", "1"):
            raise ValueError(
                f"Each target in {table} must be 0 or 1, but that of {row['image_name']} is "
                f"{row['target']!r}."
            )
    if not rows:
        raise ValueError(f"{table} names no images.")
    return rows


def split_lesions(lesions: LesionImages) -> dict[str, npt.NDArray[np.int64]]:
    """Split the images into three fifths for training, one for validation and one for testing.

    Stratified by class, and no patient is in two parts. Depends on the csv file only.

    Args:
        lesions: At least five images of each class, of five patients.

    Returns:
        Sorted indices of ``train``, ``val`` and ``test``.

    Raises:
        ValueError: If there are too few images of a class.
    """
    settings: dict[str, Any] = {
        "n_splits": _PARTS,
        "shuffle": True,
        "random_state": _SPLIT_SEED,
    }
    placeholder = np.zeros(len(lesions))
    if lesions.patients:
        splitter = StratifiedGroupKFold(**settings)
        folds = list(splitter.split(placeholder, lesions.labels, lesions.patients))
    else:
        folds = list(StratifiedKFold(**settings).split(placeholder, lesions.labels))
    parts = [np.sort(part) for _, part in folds]
    return {"train": np.sort(np.concatenate(parts[2:])), "val": parts[1], "test": parts[0]}
