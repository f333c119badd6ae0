"""Search for a plan in a training loop of timm's parts: its networks, optimizers and schedules.

    pip install timm
    python examples/timm_training_loop.py

The network is a small one that first learns to read digits here, so that this runs offline. With
your own, take ``timm.create_model(NAME, pretrained=True, num_classes=...)`` in ``build_model``.
"""

from __future__ import annotations

import argparse
from typing import Any

import optuna
import timm
import torch
from own_training_loop import SOURCE, TRAIN, VAL, Objective
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn

from optuna_biotune import BioTuneSampler, FineTuningPlan, partition_blocks, suggest_plan

EPOCHS = 5
LEARNING_RATE = 3e-3
TASK = Objective()
IMAGES = nn.functional.interpolate(TASK.images, size=32)


def build_model(n_classes: int) -> nn.Module:
    """Return a network of timm for images of one channel."""
    model: nn.Module = timm.create_model("test_resnet", in_chans=1, num_classes=n_classes)
    return model


def train_epochs(model: nn.Module, groups: Any, part: slice, divisor: int, hold: Any) -> None:
    """Train for some epochs.

    Args:
        model: The network.
        groups: The parameter groups.
        part: Which images.
        divisor: The labels are the digits modulo this.
        hold: Puts the network in training mode.
    """
    optimizer = create_optimizer_v2(groups, opt="adamw", lr=LEARNING_RATE)
    schedule = CosineLRScheduler(optimizer, t_initial=EPOCHS)
    images, labels = IMAGES[part], TASK.labels[part] % divisor
    for epoch in range(EPOCHS):
        hold()
        for batch in torch.split(torch.randperm(len(labels)), 20):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            torch.autograd.backward(loss)
            optimizer.step()
        schedule.step(epoch + 1)


def pretrain() -> dict[str, torch.Tensor]:
    """Return the weights of a network that reads digits, without those of its head."""
    torch.manual_seed(0)
    model = build_model(n_classes=10)
    train_epochs(model, model, SOURCE, 10, model.train)
    return {name: t for name, t in model.state_dict().items() if not name.startswith("fc.")}


def main() -> None:
    """Search, and print the best plan."""
    parser = argparse.ArgumentParser(description="Search in a loop of timm's parts.")
    parser.add_argument("--trials", type=int, default=25)
    trials = parser.parse_args().trials
    pretrained = pretrain()

    def objective(trial: optuna.Trial) -> float:
        torch.manual_seed(0)
        model = build_model(n_classes=2)
        model.load_state_dict(pretrained, strict=False)
        blocks = partition_blocks(model)
        plan = suggest_plan(trial, blocks.names)
        groups = blocks.param_groups(plan, lr=LEARNING_RATE)
        train_epochs(model, groups, TRAIN, 2, lambda: blocks.train(plan))
        model.eval()
        with torch.no_grad():
            predicted = model(IMAGES[VAL]).argmax(1)
        return float((predicted == TASK.labels[VAL] % 2).float().mean())

    study = optuna.create_study(direction="maximize", sampler=BioTuneSampler(seed=0))
    study.optimize(objective, n_trials=trials)
    print(f"Best accuracy {study.best_value:.3f}")
    print(FineTuningPlan.from_trial(study.best_trial).multipliers)


if __name__ == "__main__":
    main()
