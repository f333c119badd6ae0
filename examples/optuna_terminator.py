"""Let Optuna's terminator end a search, beside this package's own callback for that.

    python examples/optuna_terminator.py

Both end it once what is left to gain, by a Gaussian process, is below the noise of an evaluation.

- ``optuna.terminator`` fits the process (it needs PyTorch) to the parameters of the better half of
  the complete trials. Two importances below the threshold are two places to it, though both freeze.
  The gain is an upper bound; the noise is the standard error of the best trial's scores in
  cross-validation, which the objective must report: what other images might change. Optuna 6 is to
  drop the module, which then is ``optunahub.load_module("callbacks/terminator")``.
- ``StopOnPlateau`` fits it to what plans express, by all trials, the pruned ones too. The gain is
  the expected one; the noise is that of the trials about the process, and nothing is to report.
  All trials here have the same folds and seeds, so they vary little, and the search goes on longer.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from statistics import fmean
from typing import Any

import numpy as np
import optuna
import torch
from optuna.terminator import (
    RegretBoundEvaluator,
    Terminator,
    TerminatorCallback,
    report_cross_validation_scores,
)
from own_training_loop import LEARNING_RATE, Objective, build_model, train_epoch
from sklearn.model_selection import StratifiedKFold

from optuna_biotune import (
    BioTuneSampler,
    FineTuningPlan,
    StopOnPlateau,
    best_plan,
    partition_blocks,
    suggest_plan,
)

EPOCHS = 4
TASK = Objective()  # the digits, and a network that was trained to read them
LABELLED, TEST = np.arange(900, 1100), np.arange(1100, 1797)
IS_ODD = TASK.labels % 2
BLOCKS = partition_blocks(build_model(n_classes=2), example_input=TASK.images[:2]).names


def accuracy(plan: FineTuningPlan, train: Any, test: Any) -> float:
    """Train a plan on some images, by their numbers, and return its accuracy on others."""
    torch.manual_seed(0)
    model = build_model(n_classes=2)
    model[:-1].load_state_dict(TASK.pretrained)
    blocks = partition_blocks(model, example_input=TASK.images[:2])
    optimizer = torch.optim.AdamW(blocks.param_groups(plan, lr=LEARNING_RATE))
    for _ in range(EPOCHS):
        blocks.train(plan)
        train_epoch(model, optimizer, TASK.images[train], IS_ODD[train])
    model.eval()
    with torch.no_grad():
        return float((model(TASK.images[test]).argmax(1) == IS_ODD[test]).float().mean())


def objective(trial: optuna.Trial) -> float:
    """Return the mean accuracy of five-fold cross-validation, and report each fold's."""
    plan = suggest_plan(trial, BLOCKS)
    folds = StratifiedKFold(5).split(LABELLED, IS_ODD[LABELLED])
    scores = [accuracy(plan, LABELLED[train], LABELLED[val]) for train, val in folds]
    report_cross_validation_scores(trial, scores)
    return fmean(scores)


def main() -> None:
    """Run the same search twice, ended in two ways."""
    parser = argparse.ArgumentParser(description="Let Optuna's terminator end a search.")
    parser.add_argument("--trials", type=int, default=40, help="at most (default: 40)")
    trials = parser.parse_args().trials
    torch.set_num_threads(1)  # The network is too small to gain from more.
    # It says with each trial that Optuna 6 is to drop it.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"optuna\.terminator")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    callbacks: dict[str, Callable[..., None]] = {
        "Terminator": TerminatorCallback(Terminator(RegretBoundEvaluator(seed=0))),
        "StopOnPlateau": StopOnPlateau(),
    }
    for name, callback in callbacks.items():
        study = optuna.create_study(direction="maximize", sampler=BioTuneSampler(seed=0))
        study.optimize(objective, n_trials=trials, callbacks=[callback])
        test = accuracy(best_plan(study), LABELLED, TEST)
        print(f"{name}: ended after {len(study.trials)} trials, test accuracy {test:.3f}")


if __name__ == "__main__":
    main()
