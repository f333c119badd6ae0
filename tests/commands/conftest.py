"""A tiny folder of images, a file of weights, and what ``tune`` makes of them."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from PIL import Image
from torchvision import models

from optuna_biotune import FineTuningPlan, Recipe
from optuna_biotune.cli import main
from optuna_biotune.recipe import Preprocessing

Run = Callable[..., tuple[int, str, str]]

CLASSES = {"bright": 160, "dark": 0, "grey": 80}
SMALL = ("--image-size", "32", "--epochs", "1", "--seeds", "1", "--device", "cpu")


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "optuna_biotune", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", **changes}


def run(
    *arguments: str | Path, directory: Path, **changes: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=directory,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=200,
    )


@dataclass(frozen=True)
class Place:
    """A directory with images in ``shades`` and pre-trained weights in ``resnet18.pth``."""

    directory: Path

    @property
    def tune(self) -> tuple[str, ...]:
        return ("tune", "shades", "--network", "resnet18", "--weights", "resnet18.pth", *SMALL)

    def study(self) -> optuna.Study:
        storage = f"sqlite:///{self.directory / 'biotune.db'}"
        return optuna.load_study(study_name="shades-resnet18", storage=storage)

    def given_weights(self) -> dict[str, Any]:
        weights: dict[str, Any] = torch.load(self.directory / "resnet18.pth", weights_only=True)
        return weights


def make_place(directory: Path) -> Place:
    rng = np.random.default_rng(0)
    for name, brightness in CLASSES.items():
        folder = directory / "shades" / name
        folder.mkdir(parents=True)
        for index in range(8):
            pixels = rng.integers(brightness, brightness + 60, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    torch.manual_seed(0)
    torch.save(models.resnet18(weights=None).state_dict(), directory / "resnet18.pth")
    return Place(directory)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)


@dataclass(frozen=True)
class Tuned:
    """A place in which ``tune`` has run once, and what it printed."""

    place: Place
    finished: subprocess.CompletedProcess[str]

    @property
    def output(self) -> Path:
        return self.place.directory / "biotune"


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    place = make_place(tmp_path_factory.mktemp("tuned"))
    return Tuned(place, run(*place.tune, "--trials", "4", directory=place.directory))


@pytest.fixture(scope="session")
def shared_place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place for commands that change nothing, with a recipe and a folder of broken images."""
    place = make_place(tmp_path_factory.mktemp("shared"))
    shutil.copytree(place.directory / "shades", place.directory / "broken")
    (place.directory / "broken" / "dark" / "bad.png").write_bytes(b"no image")
    plan = FineTuningPlan({"body": 0.0, "fc": 1.0})
    recipe = Recipe(
        "resnet18",
        plan,
        {"body": ("layer1",), "fc": ("fc",)},
        1e-3,
        2,
        classes=("a", "b"),
        preprocessing=Preprocessing(32, (32, 32)),
    )
    (place.directory / "recipe.json").write_text(recipe.to_json())
    for folder, text in {
        "odd": '{"version": 1}',
        "unknown": recipe.to_json().replace("resnet18", "resnet8"),
    }.items():
        (place.directory / folder).mkdir()
        (place.directory / folder / "recipe.json").write_text(text)
        (place.directory / folder / "model.safetensors").touch()
    return place


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a command in this process: exit status, standard output, standard error."""
    before = signal.getsignal(signal.SIGTERM)
    loggers = [logging.getLogger(name) for name in ("optuna", "optuna_biotune")]
    states = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["optuna-biotune", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, before)
    for logger, (level, propagate, handlers) in zip(loggers, states, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers
