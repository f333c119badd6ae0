"""Fine-tune a small network by plans that BioTuneSampler evolves; NumPy alone trains it.

A network that has learnt to read digits is to tell odd ones from even ones, from 60 labelled
images. Offline, some seconds:

    pip install optuna-biotune optunahub
    python example.py
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import optuna
import optunahub
from sklearn.datasets import load_digits

# Once the package is registered: optunahub.load_module(package="samplers/biotune")
biotune = optunahub.load_local_module(
    package="samplers/biotune", registry_root=str(Path(__file__).parents[2])
)

Array = npt.NDArray[np.float64]

BLOCKS = ("layer1", "layer2", "layer3", "head")
WIDTHS = (64, 48, 32, 24)
LEARNING_RATE = 0.1
SOURCE, TRAIN, VAL = slice(0, 1200), slice(1200, 1260), slice(1260, 1797)


def fresh_layer(inputs: int, outputs: int, rng: np.random.Generator) -> Array:
    """Return random weights of a layer."""
    return rng.normal(0.0, np.sqrt(2.0 / inputs), (inputs, outputs))


def activations(layers: list[Array], images: Array) -> list[Array]:
    """Return the input of each layer, and the network's output."""
    values = [images]
    for depth, weights in enumerate(layers):
        output = values[-1] @ weights
        values.append(output if depth == len(layers) - 1 else np.maximum(output, 0.0))
    return values


def train(
    layers: list[Array], rates: list[float], images: Array, labels: Array, epochs: int
) -> list[Array]:
    """Train a copy of a network by gradient descent, each layer at its own learning rate."""
    layers = [weights.copy() for weights in layers]
    targets = np.eye(layers[-1].shape[1])[labels]
    for _ in range(epochs):
        *inputs, output = activations(layers, images)
        odds = np.exp(output - output.max(axis=1, keepdims=True))
        gradient = (odds / odds.sum(axis=1, keepdims=True) - targets) / len(labels)
        for depth in reversed(range(len(layers))):
            step = rates[depth] * inputs[depth].T @ gradient
            gradient = gradient @ layers[depth].T * (inputs[depth] > 0.0)
            layers[depth] -= step
    return layers


def main() -> None:
    """Train the network on the digits, then search for the plan of the new task."""
    rng = np.random.default_rng(0)
    digits = load_digits()
    order = rng.permutation(len(digits.target))
    images, labels = digits.data[order] / 16.0, digits.target[order]
    body = [fresh_layer(*pair, rng) for pair in pairwise(WIDTHS)]
    network = [*body, fresh_layer(WIDTHS[-1], 10, rng)]
    network = train(network, [0.3] * len(BLOCKS), images[SOURCE], labels[SOURCE], epochs=300)
    network[-1] = fresh_layer(WIDTHS[-1], 2, rng)

    def objective(trial: optuna.Trial) -> float:
        plan = biotune.suggest_plan(trial, BLOCKS)
        rates = list(plan.learning_rates(LEARNING_RATE).values())
        tuned = train(network, rates, images[TRAIN], labels[TRAIN] % 2, epochs=60)
        predicted = activations(tuned, images[VAL])[-1].argmax(axis=1)
        return float((predicted == labels[VAL] % 2).mean())

    sampler = biotune.BioTuneSampler(seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=40)
    print(f"Full fine-tuning {study.trials[0].value:.3f}, best plan {study.best_value:.3f}:")
    print(biotune.FineTuningPlan.from_trial(study.best_trial).multipliers)


if __name__ == "__main__":
    main()
