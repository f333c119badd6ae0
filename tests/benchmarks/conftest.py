"""Tiny data in the format of the benchmarks' data: three classes of one colour each, with noise."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# The scripts of the benchmarks import each other as a script's directory lets them.
sys.path.insert(0, str(BENCHMARKS))

COLOURS = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def coloured_images(labels: np.ndarray[tuple[int], np.dtype[np.int64]], size: int) -> np.ndarray:
    noise = np.random.default_rng(len(labels)).integers(-50, 51, (len(labels), size, size, 3))
    return (COLOURS[labels][:, None, None, :] + noise).astype(np.uint8)


def jpeg_bytes(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    return np.frombuffer(buffer.getvalue(), np.uint8)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with a source of 96 and 24 images and a target of 48, 24 and 24."""
    directory = tmp_path_factory.mktemp("data")
    labels = np.arange(120) % 3
    files = [jpeg_bytes(image) for image in coloured_images(labels, 16)]
    np.savez(
        directory / "tinyimagenet200.npz",
        jpeg=np.concatenate(files),
        offsets=np.cumsum([0, *map(len, files)]),
        labels=labels,
        split=np.repeat([0, 1], [96, 24]).astype(np.uint8),
        classes=np.array(["red", "green", "blue"]),
    )
    labels = np.arange(96) % 3
    np.savez(
        directory / "isic8.npz",
        images=coloured_images(labels, 24),
        labels=labels,
        split=np.repeat([0, 1, 2], [48, 24, 24]).astype(np.uint8),
        classes=np.array(["red", "green", "blue"]),
    )
    return directory


@pytest.fixture(scope="session")
def checkpoint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was pre-trained on the source by the command line."""
    from pretrain import main

    path = tmp_path_factory.mktemp("checkpoint") / "network.safetensors"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    options = ["--epochs", "6", "--batch-size", "16", "--lr", "0.05"]
    main(["--data", str(data), "--out", str(path), *options])
    torch.set_num_threads(threads)
    return path
