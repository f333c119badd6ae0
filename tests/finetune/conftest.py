"""A small real problem for all tests of the training: handwritten digits of 8 x 8 pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torchvision
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from optuna_biotune.finetune.objective import FineTuningObjective
from tests.finetune.networks import PlainNetwork


class SmallNet(nn.Module):
    """Two convolutions and a head, with BatchNorm and dropout as large networks have them."""

    def __init__(self, n_classes: int = 10, batch_norm: bool = True, dropout: float = 0.1) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), *_normalised(8, batch_norm))
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3), *_normalised(16, batch_norm))
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(16, n_classes))

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.body(self.stem(images)).flatten(1)
        logits: Tensor = self.head(features)
        return logits


def _normalised(channels: int, batch_norm: bool) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU()] if batch_norm else [nn.ReLU()]


BLOCKS = {"stem": ["stem"], "body": ["body"], "head": ["head"]}


@dataclass(frozen=True)
class Digits:
    """Images float [N, 1, 8, 8] from 0 to 1 and labels from 0 to 9."""

    train: TensorDataset
    val: TensorDataset
    test: TensorDataset


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> Digits:
    data = load_digits()
    images = torch.tensor(data.images / 16.0, dtype=torch.float32)[:, None]
    labels = torch.tensor(data.target, dtype=torch.int64)
    parts = [slice(0, 300), slice(300, 500), slice(500, 800)]
    return Digits(*(TensorDataset(images[part], labels[part]) for part in parts))


@pytest.fixture
def make_objective(digits: Digits) -> Callable[..., FineTuningObjective]:
    """Build an objective on the digits, small unless arguments say otherwise."""

    def make(**arguments: Any) -> FineTuningObjective:
        defaults: dict[str, Any] = {
            "model": SmallNet,
            "train": digits.train,
            "val": digits.val,
            "blocks": BLOCKS,
            "lr": 1e-2,
            "epochs": 3,
            "seeds": (0, 1),
            "device": "cpu",
        }
        return FineTuningObjective(**{**defaults, **arguments})

    return make


@pytest.fixture
def plain() -> PlainNetwork:
    torch.manual_seed(0)
    return PlainNetwork()


@pytest.fixture(scope="module")
def googlenet() -> nn.Module:
    model: nn.Module = torchvision.models.googlenet(num_classes=3, init_weights=False)
    return model
