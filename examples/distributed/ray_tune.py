"""Search with Ray Tune: it runs the trials, BioTuneSampler proposes them through ``OptunaSearch``.

    pip install "ray[tune]"
    python examples/distributed/ray_tune.py --trials 36 --concurrent 2

Ray asks for parameters in its driver process and trains elsewhere, so the search space and the
training are two functions here.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import digits
import optuna
import ray
import torch
from optuna.storages import InMemoryStorage
from optuna.trial import FixedTrial
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from optuna_biotune import BioTuneSampler, FineTuningPlan, make_storage, suggest_plan


def space(trial: optuna.Trial) -> None:
    """Suggest the parameters of a plan; Ray keeps them."""
    suggest_plan(trial, digits.BLOCKS)


def train(config: dict[str, Any], weights: digits.Weights, epochs: int) -> dict[str, Any]:
    """Train the plan of a configuration, in a process of its own.

    Args:
        config: The parameters. Ray splits their names at slashes, so the importances are in a
            dictionary of their own.
        weights: Pre-trained weights.
        epochs: Most epochs of a training.
    """
    torch.set_num_threads(1)
    objective = digits.build_objective(weights, epochs)
    params = {f"importance/{block}": config["importance"][block] for block in digits.BLOCKS}
    trial = FixedTrial({**params, "freeze_threshold": config["freeze_threshold"]})
    return {"balanced_accuracy": objective(trial)}


def main() -> None:
    """Search, and print the best plan."""
    parser = argparse.ArgumentParser(description="Search with Ray Tune.")
    parser.add_argument("--trials", type=int, default=36, help="trials (default: 36)")
    parser.add_argument("--concurrent", type=int, default=2, help="at once (default: 2)")
    parser.add_argument("--epochs", type=int, default=20, help="most epochs of a training")
    parser.add_argument("--storage", help="URL of a database; default: in memory")
    parser.add_argument(
        "--results", type=Path, default=Path("ray_results"), help="directory of Ray's own records"
    )
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)

    # Ray asks and tells, and Optuna's heartbeats need `study.optimize`.
    storage = (
        make_storage(options.storage, heartbeat_interval=None)
        if options.storage
        else InMemoryStorage()
    )
    search = OptunaSearch(
        space,
        metric="balanced_accuracy",
        mode="max",
        sampler=BioTuneSampler(seed=0),
        study_name="digits",
        storage=storage,
    )
    ray.init(num_cpus=options.concurrent, include_dashboard=False)
    trainable = tune.with_parameters(
        train, weights=digits.pretrained_weights(), epochs=options.epochs
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=search,
            num_samples=options.trials,
            max_concurrent_trials=options.concurrent,
            reuse_actors=True,  # else every trial starts a process and imports torch
        ),
        run_config=tune.RunConfig(storage_path=str(options.results.absolute()), verbose=1),
    )
    results = tuner.fit()
    ray.shutdown()
    if results.num_errors:
        raise RuntimeError(f"{results.num_errors} of {options.trials} trials failed.")

    study = optuna.load_study(study_name="digits", storage=storage)
    plan = FineTuningPlan.from_trial(study.best_trial)
    print(f"\n{len(study.trials)} trials. Best: {study.best_value:.3f}, {plan.mask}")
    for name, rate in plan.learning_rates(digits.LEARNING_RATE).items():
        print(f"  {name:8}{f'{rate:.5f}' if rate else 'frozen'}")


if __name__ == "__main__":
    main()
