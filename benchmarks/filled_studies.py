"""Studies that already have many trials, and quick ways to store them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, MetaData, func, insert, select

from optuna_biotune import BioTuneSampler

SAMPLERS: dict[str, Callable[[], BaseSampler]] = {
    "random": lambda: optuna.samplers.RandomSampler(seed=0),
    "BioTune": lambda: BioTuneSampler(seed=0),
    "BioTune, paper": lambda: BioTuneSampler.paper(seed=0),
    "CMA-ES": lambda: optuna.samplers.CmaEsSampler(seed=0),
    "NSGA-II": lambda: optuna.samplers.NSGAIISampler(seed=0),
    # The defaults of these two differ between Optuna 4 and 5.
    "TPE": lambda: optuna.samplers.TPESampler(seed=0, multivariate=True, constant_liar=False),
}
# TPE reads parameters and values only, so random trials do for it; its own would take hours. The
# paper's evolution writes what BioTune reads.
_FILLED_BY = {"BioTune": "BioTune, paper", "TPE": "random"}


@dataclass(frozen=True)
class History:
    """What a study holds after some trials.

    Attributes:
        trials: Finished trials, by number.
        parents: Study attributes ``<sampler>:parent:<generation>`` of Optuna's genetic samplers:
            the trial numbers of a generation's parents.
    """

    trials: tuple[FrozenTrial, ...]
    parents: Mapping[str, Sequence[int]]

    def first(self, n_trials: int) -> History:
        """Return what the study held after its first trials."""
        trials = self.trials[:n_trials]
        begun = {
            (name.partition(":")[0], generation)
            for trial in trials
            for name, generation in trial.system_attrs.items()
            if name.endswith(":generation")
        }
        parents = {}
        for key, ids in self.parents.items():
            sampler, _, generation = key.split(":")
            if (sampler, int(generation)) in begun:
                parents[key] = ids
        return History(trials, parents)


def parameter_names(n_params: int) -> list[str]:
    """Return names as of a network with one block less than there are parameters.

    Args:
        n_params: At least 2: the last parameter is the freezing threshold.
    """
    return [f"importance/block{i}" for i in range(n_params - 1)] + ["freeze_threshold"]


def run_trial(study: optuna.Study, names: Sequence[str]) -> None:
    """Ask for a trial, suggest floats in [0, 1], and tell a value that costs next to nothing."""
    trial = study.ask()
    value = sum((trial.suggest_float(name, 0.0, 1.0) - 0.7) ** 2 for name in names)
    study.tell(trial, value)


def run_history(sampler: str, n_trials: int, n_params: int) -> History:
    """Run a sampler in memory.

    Args:
        sampler: A name in :data:`SAMPLERS`. For TPE the trials are random ones.
        n_trials: How many trials.
        n_params: Parameters of each trial.
    """
    storage = InMemoryStorage()
    build = SAMPLERS[_FILLED_BY.get(sampler, sampler)]
    study = optuna.create_study(storage=storage, study_name="history", sampler=build())
    names = parameter_names(n_params)
    for _ in range(n_trials):
        run_trial(study, names)
    trials = study.get_trials(deepcopy=False)
    number_of = {trial._trial_id: trial.number for trial in trials}
    attributes = storage.get_study_system_attrs(storage.get_study_id_from_name("history"))
    parents = {
        key: [number_of[trial_id] for trial_id in ids]
        for key, ids in attributes.items()
        if ":parent:" in key
    }
    return History(tuple(trials), parents)


def store(history: History, storage: BaseStorage, name: str, sampler: str) -> optuna.Study:
    """Create a study that goes on from a history.

    Args:
        history: What the study is to hold.
        storage: Where.
        name: Name of the study, new in this storage.
        sampler: A name in :data:`SAMPLERS`, for the study's next trials.

    Returns:
        The study.
    """
    study = optuna.create_study(storage=storage, study_name=name, sampler=SAMPLERS[sampler]())
    study_id = storage.get_study_id_from_name(name)
    if isinstance(storage, RDBStorage):
        with storage.engine.begin() as connection:
            _insert(history, connection, study_id)
        return study
    study.add_trials(history.trials)
    ids = [trial._trial_id for trial in study.get_trials(deepcopy=False)]
    for key, numbers in history.parents.items():
        storage.set_study_system_attr(study_id, key, [ids[number] for number in numbers])
    return study


def _insert(history: History, connection: Connection, study_id: int) -> None:
    """Insert all rows of a history at once: Optuna itself commits each trial."""
    tables = MetaData()
    tables.reflect(connection)
    trial_id = tables.tables["trials"].c.trial_id
    first = 1 + (connection.execute(select(func.max(trial_id))).scalar() or 0)
    for table, rows in _rows(history, study_id, first).items():
        if rows:
            connection.execute(insert(tables.tables[table]), rows)
    if connection.dialect.name == "postgresql":
        # Explicit numbers do not advance the sequence that the next trial takes its own from.
        sequence = func.pg_get_serial_sequence("trials", "trial_id")
        connection.execute(select(func.setval(sequence, first + len(history.trials) - 1)))


def _rows(history: History, study_id: int, first: int) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each table; trial number i gets the identifier ``first + i``."""
    rows: dict[str, list[dict[str, Any]]] = {
        "trials": [],
        "trial_params": [],
        "trial_values": [],
        "trial_system_attributes": [],
        "study_system_attributes": [
            {
                "study_id": study_id,
                "key": key,
                "value_json": json.dumps([first + number for number in numbers]),
            }
            for key, numbers in history.parents.items()
        ],
    }
    for trial in history.trials:
        key = {"trial_id": first + trial.number}
        rows["trials"].append(
            {
                **key,
                "number": trial.number,
                "study_id": study_id,
                "state": trial.state.name,
                "datetime_start": trial.datetime_start,
                "datetime_complete": trial.datetime_complete,
            }
        )
        rows["trial_values"].append(
            {**key, "objective": 0, "value": trial.value, "value_type": "FINITE"}
        )
        for name, value in trial.params.items():
            distribution = trial.distributions[name]
            rows["trial_params"].append(
                {
                    **key,
                    "param_name": name,
                    "param_value": distribution.to_internal_repr(value),
                    "distribution_json": distribution_to_json(distribution),
                }
            )
        for name, value in trial.system_attrs.items():
            rows["trial_system_attributes"].append(
                {**key, "key": name, "value_json": json.dumps(value)}
            )
    return rows
