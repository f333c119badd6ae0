"""The task of the distributed examples, small and offline: put your own in its place.

A network that has learnt to read clean digits is to tell odd digits from even ones in noisy images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from optuna_biotune import FineTuningObjective

BLOCKS = ("stem", "conv1", "conv2", "conv3", "head")
LEARNING_RATE = 1e-3
_WIDTHS = ((1, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2))  # inputs, outputs, stride

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Digits:
    """Images float [N, 1, 8, 8] and labels int64 [N] of three parts.

    Attributes:
        source: Clean images of the digits 0 to 9, for pre-training.
        train: Noisy images, labelled 1 if odd.
        val: More of them.
    """

    source: TensorDataset
    train: TensorDataset
    val: TensorDataset


def load() -> Digits:
    """Load scikit-learn's digits, always in the same order and with the same noise."""
    digits = load_digits()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(digits.target), generator=generator)
    images = torch.tensor(digits.images[order], dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target[order])
    noisy = images + 0.4 * torch.randn(images.shape, generator=generator)
    return Digits(
        TensorDataset(images[:900], labels[:900]),
        TensorDataset(noisy[900:960], labels[900:960] % 2),
        TensorDataset(noisy[960:1100], labels[960:1100] % 2),
    )


def build_network(n_classes: int, weights: Weights | None = None) -> nn.Sequential:
    """Return a small convolutional network of the blocks in ``BLOCKS``.

    Args:
        n_classes: Outputs of its head.
        weights: Weights of all blocks but the head; None for random ones.
    """
    network = nn.Sequential()
    for name, (inputs, outputs, stride) in zip(BLOCKS, _WIDTHS, strict=False):
        layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        network.add_module(name, nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU()))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, n_classes))
    network.add_module("head", head)
    if weights is not None:
        network.load_state_dict(weights, strict=False)
    return network


def pretrained_weights() -> Weights:
    """Train a network on the source images; return the weights of all blocks but the head.

    Takes a second or two. Every process that calls it gets the same weights.
    """
    images, labels = load().source.tensors
    torch.manual_seed(0)
    network = build_network(n_classes=10)
    optimizer = torch.optim.Adam(network.parameters())
    for _ in range(10):
        for batch in torch.split(torch.randperm(len(labels)), 64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
            torch.autograd.backward(loss)
            optimizer.step()
    return {k: v for k, v in network.state_dict().items() if not k.startswith("head")}


def build_objective(weights: Weights, epochs: int) -> FineTuningObjective:
    """Return the objective: fine-tune from the weights, one network for each of two seeds."""
    digits = load()
    return FineTuningObjective(
        model=partial(build_network, 2, weights),
        train=digits.train,
        val=digits.val,
        lr=LEARNING_RATE,
        epochs=epochs,
        batch_size=16,
        seeds=(0, 1),
    )
