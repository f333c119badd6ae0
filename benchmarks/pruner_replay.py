"""Learning curves given to Optuna's pruners, to see what each would have pruned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import optuna
from comparison import Setting
from landscapes.recorded import Recording
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
    WilcoxonPruner,
)
from optuna.trial import TrialState
from tqdm import tqdm

WARM_UP = 3

PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    "none": lambda epochs: NopPruner(),
    "median": lambda epochs: MedianPruner(n_startup_trials=10, n_warmup_steps=WARM_UP),
    "successive halving": lambda epochs: SuccessiveHalvingPruner(
        min_resource=WARM_UP, reduction_factor=2
    ),
    "hyperband": lambda epochs: HyperbandPruner(
        min_resource=2, max_resource=epochs, reduction_factor=2
    ),
    "wilcoxon over epochs": lambda epochs: WilcoxonPruner(),
}
"""The pruners by name, given the most epochs of a training. None prunes before the third epoch."""


def replay(
    curves: Sequence[Sequence[float]], name: str, epochs: int, study_name: str
) -> dict[str, Any]:
    """Give learning curves of a search without a pruner to a pruner, trial by trial.

    Args:
        curves: Best value so far after each epoch, a list a trial.
        name: One of :data:`PRUNERS`.
        epochs: Most epochs of a training.
        study_name: Name of the study.

    Returns:
        ``epochs``: how many it would have left; ``best_pruned``: whether it would have pruned the
        best trial; ``top_pruned``: how many of the best three; ``lost``: by how much the best one
        that it would have left is worse than the best.
    """
    study = optuna.create_study(
        study_name=study_name, direction="maximize", pruner=PRUNERS[name](epochs)
    )
    for curve in curves:
        trial = study.ask()
        state = TrialState.COMPLETE
        for step, value in enumerate(curve):
            trial.report(value, step)
            # As the objective does: nothing is saved by pruning after the last epoch.
            if step + 1 < len(curve) and trial.should_prune():
                state = TrialState.PRUNED
                break
        # A plan that trains nothing has no curve, and the worst value.
        last = 0.0 if not curve else curve[-1]
        study.tell(trial, last if state == TrialState.COMPLETE else None, state=state)
    trials = study.get_trials(deepcopy=False)
    values = [max(curve, default=0.0) for curve in curves]
    ranked = sorted(range(len(curves)), key=lambda i: (-values[i], i))
    pruned = [trials[i].state == TrialState.PRUNED for i in ranked]
    return {
        "epochs": sum(len(trial.intermediate_values) for trial in trials),
        "best_pruned": pruned[0],
        "top_pruned": sum(pruned[:3]),
        "lost": values[ranked[0]] - values[ranked[pruned.index(False)]],
    }


def reported_curves(recording: Recording, patience: int) -> list[list[float]]:
    """Return what ``FineTuningObjective`` would have reported of recorded trainings.

    That is the mean over the seeds of the best value so far; a seed stops after ``patience`` epochs
    without improvement.

    Args:
        recording: Values after each epoch, of each genotype and seed.
        patience: Epochs without improvement.
    """
    return [
        _reported([_until_patience(values, patience) for values in genotype])
        for genotype in recording.curve.tolist()
    ]


def _until_patience(values: Sequence[float], patience: int) -> list[float]:
    """Return the best value so far after each epoch, up to where a seed stops."""
    best: list[float] = []
    since = 0
    for value in values:
        since = 0 if not best or value > best[-1] else since + 1
        best.append(max([value, *best[-1:]]))
        if since == patience:
            break
    return best


def _reported(seeds: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean over the seeds after each epoch; a seed that has stopped keeps its value."""
    n_epochs = max(map(len, seeds))
    return [fmean(seed[min(epoch, len(seed) - 1)] for seed in seeds) for epoch in range(n_epochs)]


def replay_recordings(directory: Path, n_studies: int, n_trials: int) -> list[dict[str, Any]]:
    """Give recorded learning curves, in random order, to each pruner.

    Args:
        directory: Where the recordings lie.
        n_studies: Studies for each recording.
        n_trials: Trials a study.

    Returns:
        For each recording and pruner, over all studies: the share of the epochs that was saved,
        the share of the studies whose best trial was pruned, and the mean accuracy lost by that.
    """
    rows = []
    for path in sorted(directory.glob("*.npz")):
        curves = reported_curves(Recording.load(path), Setting("", "").patience)
        n_epochs = max(map(len, curves))
        drawn = [
            np.random.default_rng(seed).choice(len(curves), n_trials, replace=False)
            for seed in range(n_studies)
        ]
        for name in list(PRUNERS)[1:]:
            seen = [
                replay([curves[i] for i in indices], name, n_epochs, f"{path.stem}, {seed}")
                for seed, indices in enumerate(tqdm(drawn, f"{path.stem}, {name}", leave=False))
            ]
            whole = sum(len(curves[i]) for indices in drawn for i in indices)
            rows.append(
                {
                    "recording": path.stem,
                    "pruner": name,
                    "studies": n_studies,
                    "trials": n_trials,
                    "epochs_saved": 1 - sum(study["epochs"] for study in seen) / whole,
                    "best_pruned": fmean(study["best_pruned"] for study in seen),
                    "lost": fmean(study["lost"] for study in seen),
                }
            )
    return rows
