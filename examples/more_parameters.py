"""Search for weight decay and batch size beside the plan: they evolve with it.

Numbers are genes like the blocks' importances, on a log scale where you say so; a categorical
parameter is taken from a parent.

    python examples/more_parameters.py
"""

from __future__ import annotations

import argparse

import optuna
import torch
from own_training_loop import EPOCHS, LEARNING_RATE, TRAIN, VAL, Objective, build_model
from torch import nn

from optuna_biotune import BioTuneSampler, FineTuningPlan, partition_blocks, suggest_plan

TASK = Objective()  # the digits, and a network that was trained to read them


def objective(trial: optuna.Trial) -> float:
    """Train the trial's plan with its weight decay and batch size."""
    torch.manual_seed(0)
    model = build_model(n_classes=2)
    model[:-1].load_state_dict(TASK.pretrained)
    blocks = partition_blocks(model, example_input=TASK.images[:2])
    plan = suggest_plan(trial, blocks.names)
    weight_decay = trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True)
    batch_size = trial.suggest_categorical("batch_size", (10, 20, 30))

    groups = blocks.param_groups(plan, lr=LEARNING_RATE)
    optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay)
    images, labels = TASK.images[TRAIN], TASK.labels[TRAIN] % 2
    for _ in range(EPOCHS):
        blocks.train(plan)
        for batch in torch.split(torch.randperm(len(labels)), batch_size):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            torch.autograd.backward(loss)
            optimizer.step()
    model.eval()
    with torch.no_grad():
        predicted = model(TASK.images[VAL]).argmax(1)
    return float((predicted == TASK.labels[VAL] % 2).float().mean())


def main() -> None:
    """Search, and print the best trial."""
    parser = argparse.ArgumentParser(description="Search for more than the plan.")
    parser.add_argument("--trials", type=int, default=30)
    study = optuna.create_study(direction="maximize", sampler=BioTuneSampler(seed=0))
    study.optimize(objective, n_trials=parser.parse_args().trials)
    best = study.best_trial
    print(f"Best accuracy {study.best_value:.3f} with the plan")
    print(FineTuningPlan.from_trial(best).multipliers)
    print(f"weight decay {best.params['weight_decay']:.2g}, batch size {best.params['batch_size']}")


if __name__ == "__main__":
    main()
