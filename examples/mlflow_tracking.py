"""Track a search in MLflow: a run for each trial, and one for the network of the best plan.

    pip install mlflow-skinny optuna-integration
    python examples/mlflow_tracking.py

Everything goes into ``mlflow.db`` and the folder ``mlruns``; ``pip install mlflow`` and
``mlflow ui --backend-store-uri sqlite:///mlflow.db`` show it. optuna-integration's callback logs
parameters and value of each trial and, as tags, its attributes, such as the mask and the learning
rates. Optuna 6 is to drop it in favour of OptunaHub; Optuna 5 says so in a warning.
"""

from __future__ import annotations

import argparse
from statistics import fmean

import mlflow
import optuna
import torch
from optuna_integration import MLflowCallback
from own_training_loop import TRAIN, VAL, Objective, build_model
from torch import nn
from torch.utils.data import TensorDataset

from optuna_biotune import BioTuneSampler, FineTuningObjective, best_trial

TRACKING = "sqlite:///mlflow.db"
STUDY = "digits"


def fine_tuning() -> tuple[FineTuningObjective, TensorDataset]:
    """Return the objective, which tells odd digits from even ones, and test data."""
    task = Objective()  # the digits, and a network that was trained to read them

    def build() -> nn.Module:
        model = build_model(n_classes=2)
        model[:-1].load_state_dict(task.pretrained)
        return model

    train, val, test = (
        TensorDataset(task.images[part], task.labels[part] % 2)
        for part in (TRAIN, VAL, slice(VAL.stop, None))
    )
    return FineTuningObjective(model=build, train=train, val=val, epochs=8, batch_size=20), test


def main() -> None:
    """Search, train by the best plan, and log both."""
    parser = argparse.ArgumentParser(description="Track a search in MLflow.")
    parser.add_argument("--trials", type=int, default=20)
    trials = parser.parse_args().trials
    torch.set_num_threads(1)  # The network is too small to gain from more.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objective, test = fine_tuning()
    callback = MLflowCallback(tracking_uri=TRACKING, metric_name="balanced_accuracy")
    study = optuna.create_study(
        study_name=STUDY,
        direction="maximize",
        sampler=BioTuneSampler(seed=0),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=3, reduction_factor=2),
    )
    study.optimize(objective, n_trials=trials, callbacks=[callback])

    best = best_trial(study)
    result = objective.refit(best, test=test)
    with mlflow.start_run(run_name="best plan"):
        mlflow.set_tag("number", best.number)
        mlflow.log_params({f"multiplier/{k}": v for k, v in result.plan.multipliers.items()})
        mlflow.log_metrics({f"test_{k}": fmean(v) for k, v in result.metrics.items()})
        mlflow.log_text(result.plan.to_json(), "plan.json")
    print(
        f"Test accuracy {fmean(result.metrics['accuracy']):.3f} by the plan of trial {best.number}"
    )


if __name__ == "__main__":
    main()
