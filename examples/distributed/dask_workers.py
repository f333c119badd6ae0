"""Search on a Dask cluster: the study lives on the scheduler, its workers run the trials.

    pip install distributed optuna-integration
    python examples/distributed/dask_workers.py --trials 36 --workers 2

Starts a cluster on this machine; ``--scheduler tcp://host:8786`` uses one that runs already, whose
workers need this directory on their PYTHONPATH.
"""

from __future__ import annotations

import argparse
import warnings
from functools import cache

import digits
import optuna
import torch
from distributed import Client
from optuna.exceptions import ExperimentalWarning
from optuna_integration import DaskStorage

from optuna_biotune import BioTuneSampler, FineTuningObjective, FineTuningPlan


@cache
def objective_of_this_process(epochs: int) -> FineTuningObjective:
    """Build the objective, once in each worker process."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return digits.build_objective(digits.pretrained_weights(), epochs)


def run_trial(study: optuna.Study, epochs: int) -> None:
    """Run one trial, in a worker process."""
    study.optimize(objective_of_this_process(epochs), n_trials=1)


def main() -> None:
    """Search, and print the best plan."""
    parser = argparse.ArgumentParser(description="Search on a Dask cluster.")
    parser.add_argument("--trials", type=int, default=36, help="trials (default: 36)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--scheduler", help="address of a running cluster; default: start one")
    parser.add_argument("--epochs", type=int, default=20, help="most epochs of a training")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", ExperimentalWarning)

    cluster = (
        {"address": options.scheduler}
        if options.scheduler
        else {
            "n_workers": options.workers,
            "threads_per_worker": 1,
            "dashboard_address": None,
        }
    )
    with Client(**cluster) as client:
        # Any storage can be behind it: DaskStorage("postgresql://...") outlives the cluster.
        study = optuna.create_study(
            storage=DaskStorage(client=client),
            sampler=BioTuneSampler(seed=0),
            direction="maximize",
        )
        futures = [
            # The same call is to run every time, not to be taken for one and the same result.
            client.submit(run_trial, study, options.epochs, pure=False)
            for _ in range(options.trials)
        ]
        client.gather(futures)
        plan = FineTuningPlan.from_trial(study.best_trial)
        print(f"{len(study.trials)} trials. Best: {study.best_value:.3f}, {plan.mask}")
        for name, rate in plan.learning_rates(digits.LEARNING_RATE).items():
            print(f"  {name:8}{f'{rate:.5f}' if rate else 'frozen'}")


if __name__ == "__main__":
    main()
