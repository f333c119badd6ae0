"""One worker of a search that many share: start the same command on as many machines as you like.

    python examples/distributed/worker.py --storage postgresql://user@host/database --trials 200

The first worker creates the study, the others join it, at any time and in any number; all of them
end when the study has its 200 trials. Workers know nothing of each other: all they share is the
database. A worker that dies is no harm: its trial is run again by another one.

Under SLURM submit ``worker.sbatch``, on Kubernetes apply ``worker.yaml``, both beside this file.
SQLite (``--storage sqlite:///digits.db``) serves a few processes of one machine.
"""

from __future__ import annotations

import argparse
import os
import socket

import digits
import optuna
import torch
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

from optuna_biotune import BioTuneSampler, FineTuningPlan, make_storage

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def main() -> None:
    """Run trials until the study has enough of them."""
    parser = argparse.ArgumentParser(description="Run one worker of a shared search.")
    parser.add_argument(
        "--storage",
        default=os.environ.get("BIOTUNE_STORAGE"),
        help="URL of the database; default: the environment variable BIOTUNE_STORAGE",
    )
    parser.add_argument("--study", default="digits", help="name of the study (default: digits)")
    parser.add_argument("--trials", type=int, default=200, help="trials of all workers together")
    parser.add_argument("--epochs", type=int, default=20, help="most epochs of a training")
    options = parser.parse_args()
    if not options.storage:
        parser.error("--storage or BIOTUNE_STORAGE is required")
    # Several workers on one machine would otherwise fight for its cores.
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    study = optuna.create_study(
        study_name=options.study,
        storage=make_storage(options.storage),
        sampler=BioTuneSampler(seed=0),  # The same seed in every worker.
        pruner=optuna.pruners.MedianPruner(n_startup_trials=10, n_warmup_steps=3),
        direction="maximize",
        load_if_exists=True,
    )
    n_run = 0
    # The callback looks after each trial only: a worker that comes too late must not begin one.
    if len(study.get_trials(deepcopy=False, states=FINISHED)) < options.trials:
        objective = digits.build_objective(digits.pretrained_weights(), options.epochs)

        def score(trial: optuna.Trial) -> float | tuple[float, ...]:
            nonlocal n_run
            n_run += 1
            trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
            return objective(trial)

        study.optimize(score, callbacks=[MaxTrialsCallback(options.trials, states=FINISHED)])

    finished = len(study.get_trials(deepcopy=False, states=FINISHED))
    plan = FineTuningPlan.from_trial(study.best_trial)
    print(f"This worker ran {n_run} of the study's {finished} trials.")
    print(f"Best so far: trial {study.best_trial.number}, {study.best_value:.3f}, {plan.mask}")


if __name__ == "__main__":
    main()
