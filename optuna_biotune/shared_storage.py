"""The storage behind :func:`optuna_biotune.make_storage`: it outlives faults of its database."""

from __future__ import annotations

import copy
import functools
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from optuna_biotune import _compat
from optuna_biotune.database_errors import translate_errors
from optuna_biotune.patience import Patience
from optuna_biotune.sqlite_sharing import SharingWatch

_logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def _patiently(
    method: Callable[Concatenate[RDBStorage, P], T],
) -> Callable[Concatenate[SharedStorage, P], T]:
    """Repeat a method of ``RDBStorage``, one that may safely run twice, during an outage."""

    def repeat(self: SharedStorage, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.patience.call(lambda repeated: method(self, *args, **kwargs))

    functools.update_wrapper(repeat, method)
    return repeat


class SharedStorage(RDBStorage):
    """An ``RDBStorage`` that waits for a database that is away for a while.

    Every operation is repeated until the database answers, or fails with one sentence; see
    :class:`optuna_biotune.patience.Patience`. What the lost answer of an earlier attempt had
    already changed is not changed twice.

    Over SQLite it warns once if several processes share the file.

    A trial that ``study.optimize`` starts has a heartbeat from its first moment. With
    ``RDBStorage`` it has none before its worker's first heartbeat, and a worker killed in between
    leaves a trial that runs forever.

    Args:
        args: Positional arguments of ``RDBStorage``.
        max_retry: How often the trial of a dead worker is enqueued again.
        kwargs: Keyword arguments of ``RDBStorage``.
    """

    def __init__(self, *args: Any, max_retry: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_retry = max_retry
        self._prepare()

    def __getstate__(self) -> dict[Any, Any]:
        """Leave out what belongs to this process."""
        state = super().__getstate__()
        del state["patience"], state["_thread"], state["_sharing"]
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Open the database again."""
        super().__setstate__(state)
        self._prepare()

    def _prepare(self) -> None:
        translate_errors(self.engine)
        self.patience = Patience(self.engine.url)
        self._thread = _ThreadState()
        self._sharing = SharingWatch(self)

    create_new_study = _patiently(RDBStorage.create_new_study)
    delete_study = _patiently(RDBStorage.delete_study)
    set_study_user_attr = _patiently(RDBStorage.set_study_user_attr)
    set_study_system_attr = _patiently(RDBStorage.set_study_system_attr)
    get_study_id_from_name = _patiently(RDBStorage.get_study_id_from_name)
    get_study_name_from_id = _patiently(RDBStorage.get_study_name_from_id)
    get_study_directions = _patiently(RDBStorage.get_study_directions)
    get_study_user_attrs = _patiently(RDBStorage.get_study_user_attrs)
    get_study_system_attrs = _patiently(RDBStorage.get_study_system_attrs)
    get_all_studies = _patiently(RDBStorage.get_all_studies)
    _set_trial_param = _patiently(RDBStorage._set_trial_param)
    set_trial_intermediate_value = _patiently(RDBStorage.set_trial_intermediate_value)
    set_trial_user_attr = _patiently(RDBStorage.set_trial_user_attr)
    set_trial_system_attr = _patiently(RDBStorage.set_trial_system_attr)
    get_trial_param = _patiently(RDBStorage.get_trial_param)
    get_trial_user_attrs = _patiently(RDBStorage.get_trial_user_attrs)
    get_trial_system_attrs = _patiently(RDBStorage.get_trial_system_attrs)
    get_trial_id_from_study_id_trial_number = _patiently(
        RDBStorage.get_trial_id_from_study_id_trial_number
    )
    _get_trials = _patiently(RDBStorage._get_trials)
    _get_best_trial_id = _patiently(RDBStorage._get_best_trial_id)

    # Heartbeats

    def record_heartbeat(self, trial_id: int) -> None:
        """Record a heartbeat; if the database fails for good, warn and leave it to the next one.

        Optuna's heartbeat thread ends at the first error. The trial would train on, and another
        worker would take it for dead.
        """
        try:
            self.patience.call(
                lambda repeated: super(SharedStorage, self).record_heartbeat(trial_id)
            )
        except StorageInternalError as error:
            _logger.warning("A heartbeat was not recorded; trying again later. %s", error)

    def get_heartbeat_interval(self) -> int | None:
        """Return the seconds between two heartbeats, or None."""
        # `study.ask` outside of `study.optimize` asks for this before it starts a trial, which
        # will have no heartbeats.
        self._thread.starts_with_heartbeat = False
        return super().get_heartbeat_interval()

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """Fail the trials of dead workers, and enqueue each again.

        Optuna does the one, then the other: a worker killed in between loses the trial, and a
        sampler that looks in between gives its place to another one.
        """
        # `study.optimize` looks for these right before it starts a trial.
        self._thread.starts_with_heartbeat = True
        read = super()._get_stale_trial_ids
        stale = self.patience.call(lambda repeated: read(study_id))
        self.patience.call(lambda repeated: self._sharing.look(study_id))
        # While the database was away, no worker could record a heartbeat.
        assert self.heartbeat_interval is not None
        grace_period = self.grace_period or 2 * self.heartbeat_interval
        if self.patience.seconds_since_failure() > grace_period:
            for trial_id in stale:
                self._fail_and_retry(study_id, trial_id)
        return []

    def _fail_and_retry(self, study_id: int, trial_id: int) -> None:
        trial = self.get_trial(trial_id)
        history = [*trial.system_attrs.get("retry_history", ()), trial.number]
        again = None
        if len(history) <= self._max_retry:
            # The attributes by which Optuna's RetryHeartbeatStaleTrialCallback tells retries.
            attrs = {"failed_trial": trial.number, **trial.system_attrs, "retry_history": history}
            again = create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs=trial.user_attrs,
                system_attrs=attrs,
            )

        def fail_once(repeated: bool) -> None:
            with _compat.rdb_session(self) as session:
                if _compat.fail_running_trial(session, study_id, trial_id) and again is not None:
                    self._get_prepared_new_trial(study_id, again, session)

        self.patience.call(fail_once)

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Session
    ) -> Any:
        trial = super()._get_prepared_new_trial(study_id, template_trial, session)
        if template_trial is None:
            self._sharing.started(int(trial.trial_id))
            if self._thread.starts_with_heartbeat:
                session.add(_compat.first_heartbeat(trial))
        return trial

    # Operations that must not take effect twice

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        create = super()._create_new_trial
        if template_trial is None:
            # A trial whose creation was not answered stays RUNNING until its heartbeat is stale.
            return self.patience.call(lambda repeated: create(study_id))
        template = template_trial
        newest = self.patience.call(lambda repeated: self._newest_trial_id())

        def create_once(repeated: bool) -> FrozenTrial:
            for trial in self._get_trials(study_id, None, set(), newest) if repeated else ():
                if _is_made_from(trial, template):
                    return trial
            return create(study_id, template)

        return self.patience.call(create_once)

    def _newest_trial_id(self) -> int:
        with self.engine.connect() as connection:
            newest = connection.execute(select(func.max(_compat.trial_id_column()))).scalar()
        return -1 if newest is None else int(newest)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Store the state and the values of a trial.

        Returns:
            False if the trial was to be started and another worker has done so.

        Raises:
            UpdateFinishedTrialError: If the trial is already finished.
            StorageInternalError: If the database fails for good.
        """
        store = super().set_trial_state_values
        read = super().get_trial
        if state == TrialState.RUNNING:
            self._sharing.started(trial_id)
            if self._thread.starts_with_heartbeat:
                self.record_heartbeat(trial_id)

        def store_once(repeated: bool) -> bool:
            try:
                return store(trial_id, state, values)
            except UpdateFinishedTrialError:
                if not repeated or not _has_result(read(trial_id), state, values):
                    raise
                return True

        try:
            return self.patience.call(store_once)
        except StorageInternalError:
            self._thread.not_stored = (trial_id, state, values)
            raise

    # What a worker sees of a trial whose result cannot be stored

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Read a trial.

        When a trial's result cannot be stored, ``study.optimize`` reads the trial once more, and
        hides the reason behind an ``AssertionError`` or an ``UnboundLocalError`` unless it gets a
        finished one. That one read gives the trial with the result that was not stored.
        """
        read = super().get_trial
        try:
            trial = self.patience.call(lambda repeated: read(trial_id))
            self._thread.last_read = (trial_id, trial)
        except StorageInternalError:
            if self._thread.last_read is None or self._thread.last_read[0] != trial_id:
                raise
            trial = self._thread.last_read[1]
        not_stored = self._thread.not_stored
        self._thread.not_stored = None
        if not_stored is None or not_stored[0] != trial_id:
            return trial
        unsaved = copy.copy(trial)
        unsaved.state = not_stored[1]
        unsaved.values = not_stored[2]
        return unsaved


class _ThreadState(threading.local):
    """What one thread of a worker is about.

    Attributes:
        starts_with_heartbeat: Whether the next trial that it starts will have heartbeats.
        last_read: The last trial that it read, with its identifier.
        not_stored: Identifier, state and values of a trial that could not be stored.
    """

    starts_with_heartbeat = False
    last_read: tuple[int, FrozenTrial] | None = None
    not_stored: tuple[int, TrialState, Sequence[float] | None] | None = None


def _has_result(trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> bool:
    return trial.state == state and list(trial.values or ()) == list(values or ())


def _is_made_from(trial: FrozenTrial, template: FrozenTrial) -> bool:
    """Tell whether a stored trial is one made from a template, be it started since or not."""
    return (
        template.params.items() <= trial.params.items()
        and all(trial.user_attrs.get(key) == value for key, value in template.user_attrs.items())
        and all(
            trial.system_attrs.get(key) == value for key, value in template.system_attrs.items()
        )
        and (template.state == TrialState.WAITING or trial.state == template.state)
        and (template.values is None or trial.values == template.values)
    )
