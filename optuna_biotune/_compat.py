"""Every private part of Optuna that this package uses, in one place."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from optuna import Study, Trial
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore

__all__ = [
    "ArtifactStore",
    "constraints",
    "contains",
    "fail_running_trial",
    "first_heartbeat",
    "get_study_system_attrs",
    "get_trial_system_attrs",
    "rdb_session",
    "read_trials",
    "running_trials_alive_since",
    "set_study_system_attr",
    "set_trial_system_attr",
    "study_key",
    "trial_id_column",
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


def read_trials(
    study: Study, known: list[FrozenTrial], unfinished: Iterable[int]
) -> list[FrozenTrial]:
    """Return all trials of a study by number, as they are now: they must not be changed.

    Args:
        study: The study. Hyperband's bracket study gives the trials of all brackets.
        known: What was returned the last time, at first an empty list. It may be brought up to
            date and returned.
        unfinished: Numbers of those of the known trials that may have changed since.
    """
    storage = study._storage
    if not isinstance(storage, InMemoryStorage):
        return study._get_trials(deepcopy=False)
    # This storage makes a new list of all trials each time, which takes longer than a proposal.
    for number in unfinished:
        known[number] = storage.get_trial(known[number]._trial_id)
    while True:
        try:
            trial_id = storage.get_trial_id_from_study_id_trial_number(study._study_id, len(known))
        except KeyError:
            return known
        known.append(storage.get_trial(trial_id))


def get_trial_system_attrs(trial: Trial) -> dict[str, Any]:
    """Return the system attributes of a running trial as the storage holds them."""
    return trial.storage.get_trial_system_attrs(trial._trial_id)


def get_study_system_attrs(study: Study) -> dict[str, Any]:
    """Return the system attributes of a study as the storage holds them."""
    return study._storage.get_study_system_attrs(study._study_id)


def set_study_system_attr(study: Study, key: str, value: Any) -> None:
    """Write a system attribute of a study, in one step."""
    study._storage.set_study_system_attr(study._study_id, key, value)


def set_trial_system_attr(study: Study, trial: FrozenTrial, key: str, value: Any) -> None:
    """Write a system attribute of an unfinished trial."""
    study._storage.set_trial_system_attr(trial._trial_id, key, value)


def study_key(study: Study) -> tuple[object, int]:
    """Return the storage and the identifier that together tell a study from any other."""
    return study._storage, study._study_id


def first_heartbeat(trial_row: Any) -> Any:
    """Return the row that the first heartbeat makes of a trial in an ``RDBStorage``."""
    from optuna.storages._rdb import models  # only with a database, because it loads SQLAlchemy

    return models.TrialHeartbeatModel(trial_id=trial_row.trial_id)


def rdb_session(storage: RDBStorage) -> AbstractContextManager[Any]:
    """Return a transaction of an ``RDBStorage`` that is committed at its end."""
    from optuna.storages._rdb.storage import _create_scoped_session

    return _create_scoped_session(storage.scoped_session)


def fail_running_trial(session: Any, study_id: int, trial_id: int) -> bool:
    """Fail a trial of an ``RDBStorage`` and lock its study; False if the trial does not run."""
    from optuna.storages._rdb import models

    models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
    running = session.query(models.TrialModel).filter(
        models.TrialModel.trial_id == trial_id, models.TrialModel.state == TrialState.RUNNING
    )
    failed = {"state": TrialState.FAIL, "datetime_complete": datetime.now()}
    return bool(running.update(failed, synchronize_session=False))


def running_trials_alive_since(session: Any, study_id: int, time: datetime) -> list[int]:
    """Return the identifiers of a study's running trials with a heartbeat after a time."""
    from optuna.storages._rdb import models

    alive = (
        session.query(models.TrialModel.trial_id)
        .join(models.TrialHeartbeatModel)
        .filter(
            models.TrialModel.study_id == study_id,
            models.TrialModel.state == TrialState.RUNNING,
            models.TrialHeartbeatModel.heartbeat > time,
        )
    )
    return [row.trial_id for row in alive]


def trial_id_column() -> Any:
    """Return the column of an ``RDBStorage`` that holds the identifiers of the trials."""
    from optuna.storages._rdb import models

    return models.TrialModel.trial_id


def unit_transform(search_space: dict[str, BaseDistribution]) -> _SearchSpaceTransform:
    """Return Optuna's transform of a search space to the unit cube; it must not be empty."""
    return _SearchSpaceTransform(search_space, transform_0_1=True)
