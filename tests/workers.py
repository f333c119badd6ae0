"""Worker processes that share a study, and what must hold of the study that they leave."""

from __future__ import annotations

import copy
import multiprocessing
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalRedisBackend
from optuna.study import MaxTrialsCallback, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optuna_biotune import BioTuneSampler, make_storage, suggest_plan
from optuna_biotune.breeding import Breeder
from optuna_biotune.generations import EvolutionHistory, EvolutionState
from optuna_biotune.tags import Tag

BLOCKS = ("stem", "layer1", "layer2", "layer3", "fc")
STUDY = "shared"
POPULATION_SIZE = 10
ELITE_SIZE = 3


@dataclass(frozen=True)
class StorageAddress:
    """Where a worker finds the study; ``kind`` is rdb, journal_file, journal_redis or grpc."""

    kind: str
    location: str
    heartbeat_interval: int = 60
    grace_period: int | None = None

    def open(self) -> BaseStorage:
        if self.kind == "rdb":
            return open_storage(
                lambda: make_storage(
                    self.location,
                    heartbeat_interval=self.heartbeat_interval,
                    grace_period=self.grace_period,
                )
            )
        if self.kind == "journal_file":
            return JournalStorage(JournalFileBackend(self.location))
        if self.kind == "journal_redis":
            return JournalStorage(JournalRedisBackend(self.location))
        host, port = self.location.split(":")
        return GrpcStorageProxy(host=host, port=int(port))


def open_storage(make: Callable[[], BaseStorage]) -> BaseStorage:
    """Open a storage as whatever starts a worker again would: later, if the database is away."""
    for _ in range(20):
        try:
            return make()
        except ConnectionError:
            time.sleep(0.5)
    return make()


def create_study(address: StorageAddress) -> optuna.Study:
    return optuna.create_study(storage=address.open(), study_name=STUDY, direction="maximize")


class RecordingSampler(BioTuneSampler):
    """Remembers its last proposal, and which trials it had read for that."""

    proposed: int | None = None
    n_read = 0
    unfinished: tuple[int, ...] = ()

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self.proposed = trial.number
        return super().sample_relative(study, trial, search_space)

    def _breeder(self, *args: Any) -> Breeder:
        breeder = super()._breeder(*args)
        self.n_read = len(breeder.trials)
        self.unfinished = tuple(t.number for t in breeder.trials if not t.state.is_finished())
        return breeder


def objective(trial: optuna.Trial) -> float:
    """Score a plan after a few milliseconds, and leave what the check needs to know."""
    plan = suggest_plan(trial, BLOCKS)
    trial.set_user_attr("sampled", time.time())
    sampler = trial.study.sampler
    if isinstance(sampler, RecordingSampler) and sampler.proposed == trial.number:
        trial.set_user_attr("read", [sampler.n_read, sampler.unfinished])
    time.sleep(random.Random(trial.number).uniform(0.0, 0.02))
    value = 1.0 - sum(abs(m - 1.0) for m in plan.multipliers.values()) / 50.0
    trial.set_user_attr("ended", time.time())
    return value


def work(address: StorageAddress, n_trials: int, prescreen: str | None = None) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = RecordingSampler(seed=0, prescreen=prescreen)
    study = optuna.load_study(storage=address.open(), study_name=STUDY, sampler=sampler)
    study.optimize(objective, n_trials=n_trials)


def run_workers(
    address: StorageAddress, n_workers: int, n_trials: int, prescreen: str | None
) -> None:
    """Run workers in spawned processes, each for a number of trials."""
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=work, args=(address, n_trials, prescreen)) for _ in range(n_workers)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * n_workers


def work_until(address: StorageAddress, n_complete: int) -> None:
    """Work until the study has a number of complete trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(
        storage=address.open(), study_name=STUDY, sampler=RecordingSampler.paper(seed=0)
    )
    enough = MaxTrialsCallback(n_complete, states=(TrialState.COMPLETE,))
    study.optimize(objective, callbacks=[enough])


def tag_of(trial: FrozenTrial) -> Tag:
    tag = Tag.of(trial)
    assert tag is not None, f"trial {trial.number} has no place in the evolution"
    return tag


def regular_size(generation: int) -> int:
    return POPULATION_SIZE + (ELITE_SIZE if generation else 0)


def check_evolution(trials: Sequence[FrozenTrial], n_workers: int) -> None:
    """Check that the paper's evolution is one that a single process could have run.

    As :func:`check_generations`; and no place of an elite's pair is taken twice, and every proposal
    follows from the results that its worker had read.
    """
    check_generations(trials, n_workers)
    finished = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    halves = Counter(tag_of(t) for t in finished if tag_of(t).is_half)
    assert max(halves.values(), default=1) == 1
    _check_proposals(trials, finished)


def check_generations(trials: Sequence[FrozenTrial], n_workers: int) -> None:
    """Check that the generations are such as a single process could have run.

    Generations are full and in order, with at most one extra trial for each further worker and
    for each trial that ran again because its worker was dead; no two individuals are the same; and
    parents were known to the workers that bred from them.
    """
    finished = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    members: defaultdict[int, list[FrozenTrial]] = defaultdict(list)
    for trial in finished:
        members[tag_of(trial).generation].append(trial)
    last = max(members)
    assert sorted(members) == list(range(last + 1))
    for generation in range(last):
        size = len(members[generation])
        n_retried = sum("retry_history" in t.system_attrs for t in members[generation])
        assert regular_size(generation) <= size < regular_size(generation) + n_workers + n_retried
        started_next = min(t.user_attrs["sampled"] for t in members[generation + 1])
        ended = sum(t.user_attrs["ended"] <= started_next for t in members[generation])
        assert ended >= regular_size(generation), f"generation {generation + 1} began too early"

    genotypes = Counter(tuple(sorted(t.params.items())) for t in finished)
    assert max(genotypes.values()) == 1
    for trial in (t for t in finished if "read" in t.user_attrs):
        n_read, unfinished = trial.user_attrs["read"]
        assert set(tag_of(trial).parents) <= set(range(n_read)).difference(unfinished)


def _check_proposals(trials: Sequence[FrozenTrial], finished: Sequence[FrozenTrial]) -> None:
    """Check that what a worker had read explains what it proposed."""
    sampled = [t for t in finished if "read" in t.user_attrs]
    for trial in random.Random(0).sample(sampled, min(len(sampled), 100)):
        n_read, unfinished = trial.user_attrs["read"]
        known = set(range(n_read)).difference(unfinished)
        state = _state(trials, known)
        assert _explains(state, tag_of(trial)), f"trial {trial.number} does not follow from {state}"


def _explains(state: EvolutionState, tag: Tag) -> bool:
    if state.generation != tag.generation or not tag.parents:
        return state.generation == tag.generation
    if tag.is_half:
        return tag.parents[0] in {one.number for one in state.elites}
    return set(tag.parents) <= {one.number for one in state.pool}


def _state(trials: Sequence[FrozenTrial], known: set[int]) -> EvolutionState:
    """Return where the evolution stood when only some results were known."""
    then = []
    for trial in trials:
        seen = copy.copy(trial)
        if trial.number not in known:
            seen.state = TrialState.RUNNING
            seen.system_attrs = {}
        then.append(seen)
    history = EvolutionHistory(
        population_size=POPULATION_SIZE,
        elite_size=ELITE_SIZE,
        directions=[StudyDirection.MAXIMIZE],
    )
    history.update(then)
    return history.state()
