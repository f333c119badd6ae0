"""The study of a search: opening it, guarding its settings, counting its trials."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optuna_biotune.commands.errors import CommandError
from optuna_biotune.genotype import FineTuningPlan
from optuna_biotune.sampler import BioTuneSampler
from optuna_biotune.storage import make_storage

SETTINGS_KEY = "settings"

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
"""States that count as trials; failed ones are made up for."""

_SECONDS_TO_CREATE = 10.0


def open_study(
    storage: BaseStorage,
    name: str,
    settings: Mapping[str, Any],
    block_names: Iterable[str],
    pruner: optuna.pruners.BasePruner,
) -> optuna.Study:
    """Create a study or go on with it.

    The process that creates the study writes its settings, once; another one only compares.

    Args:
        storage: The storage.
        name: Name of the study.
        settings: What must be the same in each process: option to value, as JSON takes it.
        block_names: Names of the network's blocks, in order: knowing them, the sampler begins with
            the usual plans, however many processes there are.
        pruner: The pruner.

    Raises:
        CommandError: If the study was made with other settings or by other means.
    """
    parameters = FineTuningPlan.full(tuple(block_names)).to_params()
    sampler = BioTuneSampler(
        seed=0, search_space={parameter: FloatDistribution(0.0, 1.0) for parameter in parameters}
    )
    try:
        study = optuna.create_study(
            study_name=name, storage=storage, direction="maximize", sampler=sampler, pruner=pruner
        )
    except DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
        _check_settings(study, settings)
    else:
        study.set_user_attr(SETTINGS_KEY, dict(settings))
    return study


def read_study(storage: str, name: str | None) -> optuna.Study:
    """Open a study to read it.

    Args:
        storage: Its database.
        name: Its name; None: the only one that there is.

    Raises:
        CommandError: If there is no such study, or no only one.
        OSError: If the database cannot be used.
    """
    if not _may_exist(storage):
        raise CommandError(f"There is no file {storage}: give the --storage of the search.")
    database = make_storage(storage)
    names = optuna.get_all_study_names(database)
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        if not names:
            raise CommandError(f"{storage} has no study yet: give the --storage of the search.")
        missing = "There are several studies" if name is None else f"There is no study {name}"
        raise CommandError(f"{missing}; {storage} has {', '.join(names)}: give one as --study.")
    return optuna.load_study(study_name=name, storage=database)


def _may_exist(storage: str) -> bool:
    """Tell whether a storage is a server or a file that exists: reading must not create one."""
    file = storage.removeprefix("sqlite:///")
    return "://" in file or file.startswith("file:") or Path(file).exists()


def default_pruner() -> optuna.pruners.BasePruner:
    """Return a pruner that lets the better half go on from the fourth epoch, and ever again."""
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=3, reduction_factor=2)


def _check_settings(study: optuna.Study, settings: Mapping[str, Any]) -> None:
    """Raise CommandError, naming the first difference, unless a study has these settings."""
    if study.directions != [StudyDirection.MAXIMIZE]:
        raise CommandError(
            f"The study {study.study_name} does not maximise one value: give another --study NAME."
        )
    stored = _stored_settings(study)
    for option, value in settings.items():
        if stored.get(option) == value:
            continue
        if option.startswith("--"):
            difference = f"{option} {stored.get(option)}, not {value}"
        else:
            difference = f"other {option}"
        raise CommandError(
            f"The study {study.study_name} was begun with {difference}: give the same again, or "
            "another --study NAME."
        )


def _stored_settings(study: optuna.Study) -> Mapping[str, Any]:
    """Return a study's settings; waits for the process that is just creating it."""
    end = time.monotonic() + _SECONDS_TO_CREATE
    while True:
        stored = study.user_attrs.get(SETTINGS_KEY)
        if isinstance(stored, dict):
            return stored
        if study.get_trials(deepcopy=False) or time.monotonic() > end:
            raise CommandError(
                f"The study {study.study_name} was not made by this command: give another "
                "--study NAME."
            )
        time.sleep(0.1)


def trial_of(study: optuna.Study, plan: FineTuningPlan) -> FrozenTrial | None:
    """Return the first trial of exactly a plan that has not failed."""
    params = plan.to_params()
    for trial in study.get_trials(deepcopy=False):
        if trial.state != TrialState.FAIL and trial.params == params:
            return trial
    return None


def n_finished(study: optuna.Study) -> int:
    """Return how many trials count."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def best_complete_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the best trial, None if none is complete."""
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        return None
    return study.best_trial
