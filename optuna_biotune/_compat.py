"""Every private part of Optuna that this package uses, in one place."""

from __future__ import annotations

from typing import Any

from optuna import Study, Trial, storages
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

__all__ = [
    "constraints",
    "contains",
    "get_trial_system_attrs",
    "get_trials",
    "retry_arguments",
    "set_trial_system_attr",
    "study_key",
    "unit_transform",
]


def constraints(trial: FrozenTrial) -> list[float]:
    """Return a trial's constraint values, from Optuna's list and its key for each (from 5.0 on)."""
    values = list(trial.system_attrs.get("constraints") or ())
    values += [v for k, v in trial.system_attrs.items() if k.startswith("constraints:")]
    return [float(value) for value in values]


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Tell whether a distribution can give a parameter value."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:
        return False


def get_trials(study: Study, *, fresh: bool = False) -> list[FrozenTrial]:
    """Return all trials of a study by number, without copies: they must not be changed.

    Args:
        study: The study. Hyperband's bracket study gives the trials of all brackets.
        fresh: Read the storage again rather than the trials read at the beginning of this trial.
    """
    return study._get_trials(deepcopy=False, use_cache=not fresh)


def get_trial_system_attrs(trial: Trial) -> dict[str, Any]:
    """Return the system attributes of a running trial as the storage holds them."""
    return trial.storage.get_trial_system_attrs(trial._trial_id)


def set_trial_system_attr(study: Study, trial: FrozenTrial, key: str, value: Any) -> None:
    """Write a system attribute of an unfinished trial."""
    study._storage.set_trial_system_attr(trial._trial_id, key, value)


def study_key(study: Study) -> tuple[object, int]:
    """Return the storage and the identifier that together tell a study from any other."""
    return study._storage, study._study_id


def retry_arguments(max_retry: int) -> dict[str, Any]:
    """Return the argument of ``RDBStorage`` that retries the trials of dead workers.

    Optuna 4.9 renamed both the argument and the callback.
    """
    if hasattr(storages, "RetryHeartbeatStaleTrialCallback"):
        return {
            "heartbeat_stale_trial_callback": storages.RetryHeartbeatStaleTrialCallback(max_retry)
        }
    return {"failed_trial_callback": storages.RetryFailedTrialCallback(max_retry)}


def unit_transform(search_space: dict[str, BaseDistribution]) -> _SearchSpaceTransform:
    """Return Optuna's transform of a search space to the unit cube; it must not be empty."""
    return _SearchSpaceTransform(search_space, transform_0_1=True)
