"""Search a plan for a target set, and refit it beside the usual ways to fine-tune."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from checkpoints import PretrainingRecord
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from paper_targets import PaperTarget
from targets import Target
from torch import nn
from tqdm import tqdm

from optuna_biotune import BioTuneSampler, FineTuningObjective, FineTuningPlan

PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "none": NopPruner,
    "median": lambda: MedianPruner(n_startup_trials=10, n_warmup_steps=3),
}
"""Pruners of the search, by name."""

BASELINE_RATES = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Multiples of the base learning rate that the tuned baselines choose from."""


@dataclass(frozen=True)
class Setting:
    """What decides the course of a search and of the refits.

    Attributes:
        target: Name of the target set.
        network: Name of the network.
        size: Height and width of the images.
        max_train: Most training images; None for all.
        lr: Base learning rate of Adam.
        epochs: Most epochs of a training.
        patience: Epochs without improvement after which a training stops.
        batch_size: Images a step.
        search_seeds: Networks trained for each trial.
        refit_seeds: Networks trained on training and validation data in the end.
        pruner: One of :data:`PRUNERS`.
        seed: Seed of the sampler.
    """

    target: str
    network: str
    size: int = 32
    max_train: int | None = 400
    lr: float = 3e-3
    epochs: int = 8
    patience: int = 3
    batch_size: int = 32
    search_seeds: int = 2
    refit_seeds: int = 5
    pruner: str = "median"
    seed: int = 0

    def objective(
        self,
        model: Callable[[], nn.Module],
        target: Target | PaperTarget,
        *,
        refit: bool,
        device: str,
    ) -> FineTuningObjective:
        """Return the objective of the search, or that of the refits.

        They differ by their seeds only. Those of the refits are new, so that no plan is measured
        on the networks that it was chosen by.

        Args:
            model: Builds the pre-trained network.
            target: The target set.
            refit: Whether it is to refit with.
            device: ``"auto"`` or a torch device.

        Raises:
            ValueError: If the setting is out of range.
        """
        last = self.search_seeds + self.refit_seeds
        seeds = range(self.search_seeds, last) if refit else range(self.search_seeds)
        return FineTuningObjective(
            model=model,
            train=target.train,
            val=target.val,
            transform=target.transform,
            lr=self.lr,
            epochs=self.epochs,
            patience=self.patience,
            seeds=tuple(seeds),
            batch_size=self.batch_size,
            device=device,
        )


def search(
    setting: Setting,
    record: PretrainingRecord,
    objective: FineTuningObjective,
    storage: BaseStorage,
    n_trials: int,
) -> optuna.Study:
    """Search until the study has a number of trials; a study that exists is continued.

    Args:
        setting: The setting.
        record: How the network was pre-trained.
        objective: The objective of the search.
        storage: Where the study is kept.
        n_trials: Complete and pruned trials that the study is to have.

    Raises:
        ValueError: If the stored study was made with another setting or other weights.
    """
    identity = _identity(setting, record)
    study = optuna.create_study(
        study_name=f"{setting.target}-{setting.network}",
        direction="maximize",
        sampler=BioTuneSampler(seed=setting.seed),
        pruner=PRUNERS[setting.pruner](),
        storage=storage,
        load_if_exists=True,
    )
    stored = study.user_attrs.get("setting")
    if stored is None:
        study.set_user_attr("setting", identity)
    elif stored != identity:
        changed = [key for key, value in identity.items() if stored.get(key) != value]
        raise ValueError(
            f"The stored study {study.study_name} was made with other values of "
            f"{', '.join(changed)}: give the same ones to resume it, or another `--out`."
        )
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    if len(finished) < n_trials:
        study.optimize(objective, n_trials=n_trials - len(finished), show_progress_bar=True)
    return study


def _identity(setting: Setting, record: PretrainingRecord) -> dict[str, Any]:
    """Return what must be the same for a search to be resumed, as JSON gives it back."""
    fields = {**asdict(setting), "checkpoint": asdict(record)}
    del fields["refit_seeds"]
    identity: dict[str, Any] = json.loads(json.dumps(fields))
    return identity


def measure(objective: FineTuningObjective, plan: FineTuningPlan) -> FrozenTrial:
    """Train a plan exactly as a trial of the search, outside of its study.

    Args:
        objective: The objective of the search.
        plan: Multipliers above 0.1 and up to 10, or 0.
    """
    study = optuna.create_study(direction="maximize", pruner=NopPruner())
    study.enqueue_trial(plan.to_params())
    study.optimize(objective, n_trials=1)
    return study.best_trial


def baseline_trials(objective: FineTuningObjective) -> dict[str, FrozenTrial]:
    """Train the usual ways to fine-tune as trials: the head alone, and all blocks at one rate.

    Each at the base learning rate, and at the best of :data:`BASELINE_RATES`, by the validation
    data.

    Args:
        objective: The objective of the search.
    """
    names = objective.block_names
    plans = {
        (label, rate): _scaled(plan, rate)
        for label, plan in {
            "linear probe": FineTuningPlan.linear_probe(names),
            "full fine-tuning": FineTuningPlan.full(names),
        }.items()
        for rate in BASELINE_RATES
    }
    measured = {key: measure(objective, plans[key]) for key in tqdm(plans, desc="baselines")}
    chosen: dict[str, FrozenTrial] = {}
    for label in dict.fromkeys(label for label, _ in plans):
        chosen[label] = measured[label, 1.0]
        chosen[f"{label}, tuned rate"] = max(
            (measured[label, rate] for rate in BASELINE_RATES), key=_value
        )
    return chosen


def _scaled(plan: FineTuningPlan, rate: float) -> FineTuningPlan:
    """Return the plan with all its multipliers times ``rate``."""
    return FineTuningPlan({name: rate * value for name, value in plan.multipliers.items()})


def _value(trial: FrozenTrial) -> float:
    """Return the value of a complete trial."""
    value = trial.value
    assert value is not None
    return value


def refit_all(
    objective: FineTuningObjective,
    trials: Mapping[str, FrozenTrial],
    target: Target | PaperTarget,
) -> dict[str, dict[str, Any]]:
    """Train the plan of each trial on training and validation data, and test it.

    Args:
        objective: The objective of the refits.
        trials: A complete trial for each name.
        target: The target set.

    Returns:
        For each name: ``multipliers``, ``mask``, ``validation`` (the trial's value), ``epochs``,
        ``seconds`` and ``test``, a list with one value a seed for each metric.
    """
    refitted: dict[str, dict[str, Any]] = {}
    for name in tqdm(trials, desc="refits"):
        trial = trials[name]
        start = time.perf_counter()
        result = objective.refit(trial, test=target.test)
        refitted[name] = {
            "multipliers": dict(result.plan.multipliers),
            "mask": result.plan.mask,
            "validation": _value(trial),
            "epochs": result.epochs,
            "seconds": round(time.perf_counter() - start, 1),
            "test": result.metrics,
        }
    return refitted


def describe_search(study: optuna.Study) -> dict[str, Any]:
    """Return what the search did: its trials by state, seconds of training, and best trial."""
    trials = study.get_trials(deepcopy=False)
    states = {
        state.name.lower(): sum(trial.state == state for trial in trials)
        for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    }
    seconds = sum(trial.user_attrs.get("seconds", 0.0) for trial in trials)
    return {**states, "seconds": round(seconds, 1), "best_trial": study.best_trial.number}
