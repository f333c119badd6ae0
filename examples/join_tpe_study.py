"""Go on with a study that another sampler, TPE, has begun.

Its trials become the evolution's first generation: nothing is lost, and nothing is to convert.

    python examples/join_tpe_study.py
"""

from __future__ import annotations

import argparse

import optuna
from optuna.samplers import TPESampler
from own_training_loop import Objective

from optuna_biotune import BioTuneSampler, FineTuningPlan, make_storage

STORAGE, NAME = "joined.db", "digits"


def main() -> None:
    """Search with one sampler, then with the other."""
    parser = argparse.ArgumentParser(description="Join a study that TPE began.")
    parser.add_argument("--trials", type=int, default=15, help="trials of each sampler")
    trials = parser.parse_args().trials
    objective = Objective()
    pruner = optuna.pruners.MedianPruner(n_startup_trials=10, n_warmup_steps=6)

    study = optuna.create_study(
        storage=make_storage(STORAGE),
        study_name=NAME,
        direction="maximize",
        sampler=TPESampler(seed=0),
        pruner=pruner,
    )
    study.optimize(objective, n_trials=trials)
    print(f"TPE: {study.best_value:.3f} after {len(study.trials)} trials")

    # Anywhere, at any time later: the storage and the study's name are all that it takes.
    study = optuna.load_study(
        storage=make_storage(STORAGE),
        study_name=NAME,
        sampler=BioTuneSampler(seed=0),
        pruner=pruner,
    )
    study.optimize(objective, n_trials=trials)
    print(f"BioTune: {study.best_value:.3f} after {len(study.trials)} trials")
    print(FineTuningPlan.from_trial(study.best_trial).multipliers)


if __name__ == "__main__":
    main()
