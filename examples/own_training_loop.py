"""Search for a fine-tuning plan in a training loop of your own, with any Optuna sampler.

Three calls connect a loop to the search: ``suggest_plan`` asks the trial for a plan,
``param_groups`` gives the optimizer the blocks that train, each with its learning rate, and
``train`` holds the others in evaluation mode. Offline, under a minute:

    python examples/own_training_loop.py
"""

from __future__ import annotations

import argparse

import optuna
import torch
from optuna.samplers import BaseSampler, TPESampler
from sklearn.datasets import load_digits
from torch import Tensor, nn

from optuna_biotune import BioTuneSampler, FineTuningPlan, partition_blocks, suggest_plan

EPOCHS = 12
LEARNING_RATE = 3e-3
SOURCE, TRAIN, VAL = slice(0, 900), slice(900, 960), slice(960, 1100)


def build_model(n_classes: int) -> nn.Sequential:
    """Return a small convolutional network with random weights."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU()),
        nn.Sequential(nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten()),
        nn.Linear(32, n_classes),
    )


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> None:
    """Train on every image once, in a random order."""
    for batch in torch.split(torch.randperm(len(labels)), 20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        torch.autograd.backward(loss)
        optimizer.step()


class Objective:
    """Tells odd digits from even ones with a network that was trained to read digits."""

    def __init__(self) -> None:
        digits = load_digits()
        order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
        self.images = torch.tensor(digits.images[order], dtype=torch.float32).unsqueeze(1) / 16
        self.labels = torch.tensor(digits.target[order])
        torch.manual_seed(0)
        network = build_model(n_classes=10)
        optimizer = torch.optim.AdamW(network.parameters())
        for _ in range(20):
            train_epoch(network, optimizer, self.images[SOURCE], self.labels[SOURCE])
        self.pretrained = network[:-1].state_dict()

    def __call__(self, trial: optuna.Trial) -> float:
        """Train the trial's plan and return its accuracy on the validation images."""
        torch.manual_seed(0)
        model = build_model(n_classes=2)
        model[:-1].load_state_dict(self.pretrained)
        blocks = partition_blocks(model, example_input=self.images[:2])
        plan = suggest_plan(trial, blocks.names)
        if not plan.trainable:  # Samplers that do not know the method propose that, too.
            return 0.0
        optimizer = torch.optim.AdamW(blocks.param_groups(plan, lr=LEARNING_RATE))
        accuracy = 0.0
        for epoch in range(EPOCHS):
            blocks.train(plan)
            train_epoch(model, optimizer, self.images[TRAIN], self.labels[TRAIN] % 2)
            model.eval()
            with torch.no_grad():
                predicted = model(self.images[VAL]).argmax(1)
            accuracy = float((predicted == self.labels[VAL] % 2).float().mean())
            trial.report(accuracy, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned()
        return accuracy


def main() -> None:
    """Run the same search with two samplers."""
    parser = argparse.ArgumentParser(description="Search in a training loop of your own.")
    parser.add_argument("--trials", type=int, default=60, help="trials a sampler (default: 60)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # The network is too small to gain from more.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objective = Objective()
    samplers: dict[str, BaseSampler] = {
        "BioTune": BioTuneSampler(seed=0),
        "TPE": TPESampler(seed=0),
    }
    for name, sampler in samplers.items():
        # Plans with low learning rates start slowly: they are given some epochs to show.
        pruner = optuna.pruners.MedianPruner(n_startup_trials=10, n_warmup_steps=EPOCHS // 2)
        study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        study.optimize(objective, n_trials=options.trials)
        plan = FineTuningPlan.from_trial(study.best_trial)
        pruned = study.get_trials(states=[optuna.trial.TrialState.PRUNED])
        print(f"{name}: validation accuracy {study.best_value:.3f} after {options.trials} trials")
        print(f"  of which {len(pruned)} pruned")
        for block, rate in plan.learning_rates(LEARNING_RATE).items():
            print(f"  block {block}: {f'learning rate {rate:.2g}' if rate else 'frozen'}")


if __name__ == "__main__":
    main()
