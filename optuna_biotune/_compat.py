"""Every private part of Optuna that this package uses, in one place."""

from __future__ import annotations

from typing import Any

from optuna import Study, Trial
from optuna._transform import _SearchSpaceTransform as SearchSpaceTransform
from optuna.trial import FrozenTrial

__all__ = [
    "SearchSpaceTransform",
    "get_trials",
    "get_trial_system_attrs",
    "set_trial_system_attr",
]


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
