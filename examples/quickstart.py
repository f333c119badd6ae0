"""Adapt a small network to a new task from few labels: what to freeze, and how fast to train.

A network that has learnt to read the digits 0 to 4 is to read 5 to 9, in noisy images, of which
only a few are labelled: 20 to train and 150 to validate. BioTune searches for the blocks to freeze
and the learning rates of the others; then its plan and the two usual ones are trained on all 170
and compared on test images. Offline, about a minute on two cores:

    python examples/quickstart.py

A second run reads the study from ``quickstart.db`` and goes on where the first one ended.
"""

from __future__ import annotations

import argparse
from statistics import fmean, stdev

import optuna
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from optuna_biotune import (
    BioTuneSampler,
    FineTuningObjective,
    FineTuningPlan,
    best_trial,
    make_storage,
)

BLOCKS = ("stem", "conv1", "conv2", "conv3", "conv4", "head")


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution with BatchNorm and ReLU."""
    layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def build_network(n_classes: int) -> nn.Sequential:
    """Return a small convolutional network with random weights, as six named blocks."""
    network = nn.Sequential()
    widths = ((1, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2))
    for name, (inputs, outputs, stride) in zip(BLOCKS, widths, strict=False):
        network.add_module(name, convolution(inputs, outputs, stride))
    pooling = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.add_module("head", nn.Sequential(*pooling, nn.Linear(64, n_classes)))
    return network


def pretrain(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Train a network on the source task and return the weights of all blocks but the head."""
    torch.manual_seed(0)
    network = build_network(n_classes=5)
    optimizer = torch.optim.Adam(network.parameters())
    for _ in range(20):
        for batch in torch.split(torch.randperm(len(labels)), 64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
            torch.autograd.backward(loss)
            optimizer.step()
    return {k: v for k, v in network.state_dict().items() if not k.startswith("head")}


def main() -> None:
    """Search, then compare the plans on the test images."""
    parser = argparse.ArgumentParser(description="Search for a fine-tuning plan on real digits.")
    parser.add_argument("--trials", type=int, default=36, help="trials in all (default: 36)")
    parser.add_argument("--seeds", type=int, default=10, help="seeds of the test (default: 10)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # The network is too small to gain from more.
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(digits.images[order], dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target[order])
    source = labels < 5
    pretrained = pretrain(images[source], labels[source])

    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    target, target_labels = (images + 0.4 * noise)[~source], labels[~source] - 5
    train, val, test = (
        TensorDataset(target[part], target_labels[part])
        for part in (slice(0, 20), slice(20, 170), slice(170, None))
    )

    def build_model() -> nn.Module:
        network = build_network(n_classes=5)
        network.load_state_dict(pretrained, strict=False)
        return network

    def fine_tuning(seeds: range) -> FineTuningObjective:
        return FineTuningObjective(
            model=build_model, train=train, val=val, epochs=20, batch_size=16, seeds=seeds
        )

    study = optuna.create_study(
        study_name="quickstart",
        storage=make_storage("sqlite:///quickstart.db"),
        sampler=BioTuneSampler(seed=0),
        # The better half goes on from the fourth epoch; Optuna's default prunes after the first.
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=3, reduction_factor=2),
        direction="maximize",
        load_if_exists=True,
    )
    full, probe = FineTuningPlan.full(BLOCKS), FineTuningPlan.linear_probe(BLOCKS)
    study.enqueue_trial(full.to_params(), skip_if_exists=True)
    study.enqueue_trial(probe.to_params(), skip_if_exists=True)
    print(f"Searching: {len(train)} training and {len(val)} validation images.")
    done = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    remaining = options.trials - len(study.get_trials(states=done))
    if remaining > 0:
        study.optimize(fine_tuning(range(3)), n_trials=remaining, show_progress_bar=True)
    recommended = best_trial(study)  # by all trials, rather than the luckiest one
    best = FineTuningPlan.from_trial(recommended)
    print(f"\nBest plan (trial {recommended.number}), learning rates:")
    for name, rate in best.learning_rates(1e-3).items():
        print(f"  {name:8}{f'{rate:.5f}' if rate else 'frozen'}")

    print(
        f"\nAccuracy on {len(test)} test images, mean and deviation of {options.seeds} new seeds:"
    )
    final = fine_tuning(range(100, 100 + options.seeds))
    for title, plan in {"Linear probe": probe, "Full fine-tuning": full, "BioTune": best}.items():
        scores = final.refit(plan, test=test).metrics["accuracy"]
        print(f"  {title:20}{fmean(scores):.3f} ± {stdev(scores):.3f}")
    print("\nTo see the study: optuna-dashboard sqlite:///quickstart.db")


if __name__ == "__main__":
    main()
