"""Stored trials to generations: what has been evaluated, and what the evolution needs next.

Everything is derived from the trials themselves, so that a study can be left and resumed, and
shared by any number of workers, without any other memory. A trial belongs to the generation that
its tag names (:mod:`optuna_biotune.tags`); one without a tag belongs to the first.

A generation is closed once as many of its trials have finished as it has places, or a trial of a
later one has. Results that come in after that still count: the populations that follow are
selected again as though they had been on time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optuna_biotune.evolution import extinction_factors
from optuna_biotune.ranking import Merit, front_numbers, is_minimised, merit, ranking
from optuna_biotune.tags import ELITE_ROLES, Role, Tag

# A half of an elite's pair that failed once may have lost its worker; one that failed twice is
# more likely to fail always, and its place goes to an offspring.
_MAX_FAILURES_OF_A_HALF = 1


@dataclass(frozen=True)
class Individual:
    """An evaluated trial as the evolution sees it.

    Attributes:
        number: Trial number.
        tag: Its place in the evolution.
        merit: How good it is.
        fitness: ``Phi``, minimised: the value, or one minus it when maximising. None if pruned, or
            with several objectives.
        extinction: Extinction factor in its population.
    """

    number: int
    tag: Tag
    merit: Merit
    fitness: float | None
    extinction: float = 0.0

    def beats(self, other: Individual) -> bool:
        """Tell whether this individual is strictly better."""
        return self.merit.beats(other.merit)


@dataclass(frozen=True)
class EvolutionState:
    """Where the evolution stands.

    Attributes:
        generation: The generation that is open, from 0.
        population: The individuals that it breeds from, best first, each improved elite in the
            place of its elite. Empty in generation 0.
        elites: The elites as they stood before their exploitation, best first.
        pool: Those of the population that are still in the mating pool, best first.
        open_halves: The halves of the elites' pairs that nobody has taken yet.
    """

    generation: int
    population: tuple[Individual, ...] = ()
    elites: tuple[Individual, ...] = ()
    pool: tuple[Individual, ...] = ()
    open_halves: tuple[tuple[Individual, Role], ...] = ()


def individual(
    trial: FrozenTrial, directions: Sequence[StudyDirection], n_trials: int
) -> Individual:
    """See a complete or pruned trial of a study that has ``n_trials`` trials as an individual."""
    fitness = None
    if trial.state == TrialState.COMPLETE and len(directions) == 1:
        value = trial.values[0]
        fitness = value if is_minimised(directions[0]) else 1.0 - value
    tag = Tag.of(trial)
    if tag is None or tag.generation >= n_trials:
        tag = Tag(0, "adopted")
    return Individual(trial.number, tag, merit(trial, directions), fitness)


def ranked(individuals: Iterable[Individual]) -> list[Individual]:
    """Sort individuals best first, ties by trial number."""
    by_number = sorted(individuals, key=lambda one: one.number)
    return [by_number[rank] for rank in ranking([one.merit for one in by_number])]


def with_extinction(population: Sequence[Individual]) -> list[Individual]:
    """Give the individuals of a sorted population their extinction factors.

    An individual that ranks behind a worse fitness, because it was pruned or is infeasible, counts
    with that fitness. With several objectives the number of the front is the fitness.
    """
    if _has_several_objectives(population):
        losses = np.asarray([one.merit.losses for one in population])
        fitness: list[float | None] = [1.0 + front for front in front_numbers(losses).tolist()]
    else:
        fitness = [one.fitness for one in population]
    factors = extinction_factors(_not_decreasing(fitness)).tolist()
    return [replace(one, extinction=x) for one, x in zip(population, factors, strict=True)]


def _has_several_objectives(individuals: Sequence[Individual]) -> bool:
    return bool(individuals) and individuals[0].merit.has_several_objectives


def _not_decreasing(fitness: Sequence[float | None]) -> list[float]:
    result: list[float] = []
    for phi in fitness:
        worst = result[-1] if result else None
        if phi is None:
            result.append(1.0 if worst is None else worst)
        else:
            result.append(phi if worst is None else max(phi, worst))
    return result


def exploited(
    population: Sequence[Individual], members: Iterable[Individual], elite_size: int
) -> list[Individual]:
    """Replace each elite by the better half of its pair, if that beats it (step 2).

    The half takes the elite's rank and extinction factor.
    """
    best_half: dict[int, Individual] = {}
    for half in ranked(members):
        if half.tag.is_half and half.tag.parents:
            best_half.setdefault(half.tag.parents[0], half)
    result = list(population)
    for rank, elite in enumerate(population[:elite_size]):
        candidate = best_half.get(elite.number)
        if candidate is not None and candidate.beats(elite):
            result[rank] = replace(candidate, extinction=elite.extinction)
    return result


def mating_pool(
    population: Sequence[Individual], members: Iterable[Individual]
) -> list[Individual]:
    """Return the individuals of a population that no child of theirs has beaten yet (step 4)."""
    by_number = {one.number: one for one in population}
    left = {
        parent
        for child in members
        if child.tag.role == "offspring"
        for parent in child.tag.parents
        if parent in by_number and child.beats(by_number[parent])
    }
    return [one for one in population if one.number not in left]


def next_population(
    population: Sequence[Individual],
    members: Sequence[Individual],
    *,
    population_size: int,
    elite_size: int,
) -> list[Individual]:
    """Select the population that follows a generation (steps 3 to 5).

    The elites, improved by exploitation, survive; the best of the generation's other individuals
    fill the population up. In a generation of the regular size these are all of its offspring;
    with more of them, because workers ran in parallel, the worst are left out; with fewer, the
    best of the old population stay.

    With several objectives a few elites cannot hold a whole front, so the best of the old
    population and all of the generation survive, as in NSGA-II.

    Args:
        population: The population that the generation bred from, sorted; empty for the first.
        members: The generation's finished individuals, in any order.
        population_size: ``N_p``.
        elite_size: ``N_e``.
    """
    if not population:
        return ranked(members)[:population_size]
    if _has_several_objectives(population):
        return with_extinction(ranked([*population, *members])[:population_size])
    elites = exploited(population, members, elite_size)[:elite_size]
    old_elites = {one.number for one in population[:elite_size]}
    children = [
        one
        for one in members
        if not one.tag.is_half or not old_elites.intersection(one.tag.parents)
    ]
    places = population_size - len(elites)
    chosen = elites + ranked(children)[:places]
    chosen += population[elite_size:][: population_size - len(chosen)]
    return with_extinction(ranked(chosen))


class EvolutionHistory:
    """The generations of one study, kept up to date as trials finish.

    Reading a study's trials again costs only the trials that were unfinished or are new; the
    result is the same as that of reading all of them at once.

    Args:
        population_size: ``N_p``.
        elite_size: ``N_e``.
        directions: The study's directions, one an objective.
    """

    def __init__(
        self, *, population_size: int, elite_size: int, directions: Sequence[StudyDirection]
    ) -> None:
        self._population_size = population_size
        self._elite_size = elite_size
        self._directions = tuple(directions)
        self._n_read = 0
        self._unfinished: dict[int, Tag | None] = {}
        self._failures: Counter[Tag] = Counter()
        self._members: defaultdict[int, list[Individual]] = defaultdict(list)
        self._latest_generation = 0
        self._populations: list[list[Individual]] = [[]]

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Take in all trials of the study, in the order of their numbers."""
        unread = self.unread(trials)
        self._n_read = len(trials)
        for trial in unread:
            if not trial.state.is_finished():
                self._unfinished[trial.number] = Tag.of(trial)
                continue
            self._unfinished.pop(trial.number, None)
            if trial.state == TrialState.FAIL:
                self._take_in_failure(trial)
            else:
                self._take_in(individual(trial, self._directions, self._n_read))

    def unread(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return those of all trials that were unfinished or missing at the last update.

        Only these can have changed since.
        """
        numbers = [*self._unfinished, *range(self._n_read, len(trials))]
        return [trials[number] for number in numbers]

    def _take_in(self, one: Individual) -> None:
        self._members[one.tag.generation].append(one)
        self._latest_generation = max(self._latest_generation, one.tag.generation)
        # Populations that this result could change are selected again on demand.
        del self._populations[one.tag.generation + 1 :]

    def _take_in_failure(self, trial: FrozenTrial) -> None:
        tag = Tag.of(trial)
        if tag is not None and tag.is_half:
            self._failures[tag] += 1

    def state(self) -> EvolutionState:
        """Return where the evolution stands."""
        generation = self._open_generation()
        if generation == 0:
            return EvolutionState(0)
        before = self._population_of(generation)
        elites = before[: self._elite_size]
        members = self._members[generation]
        population = exploited(before, members, self._elite_size)
        return EvolutionState(
            generation,
            tuple(population),
            tuple(elites),
            tuple(mating_pool(population, members)),
            tuple(self._open_halves(generation, elites)),
        )

    def members(self, generation: int) -> list[Individual]:
        """Return the finished individuals of a generation, in the order of trial numbers."""
        return sorted(self._members.get(generation, []), key=lambda one: one.number)

    def _open_generation(self) -> int:
        latest = self._latest_generation
        regular = self._population_size + (self._elite_size if latest > 0 else 0)
        return latest + 1 if len(self._members[latest]) >= regular else latest

    def _population_of(self, generation: int) -> list[Individual]:
        while len(self._populations) <= generation:
            last = len(self._populations) - 1
            self._populations.append(
                next_population(
                    self._populations[last],
                    self._members[last],
                    population_size=self._population_size,
                    elite_size=self._elite_size,
                )
            )
        return self._populations[generation]

    def _open_halves(
        self, generation: int, elites: Sequence[Individual]
    ) -> list[tuple[Individual, Role]]:
        taken = {one.tag for one in self._members[generation]}
        taken.update(tag for tag in self._unfinished.values() if tag is not None)
        n_taken = sum(1 for tag in taken if tag.generation == generation and tag.is_half)
        halves: list[tuple[Individual, Role]] = []
        for elite in elites:
            for role in ELITE_ROLES:
                tag = Tag(generation, role, (elite.number,))
                if tag not in taken and self._failures[tag] <= _MAX_FAILURES_OF_A_HALF:
                    halves.append((elite, role))
        # After a late result the elites may be others than when the first halves were taken.
        return halves[: max(0, 2 * self._elite_size - n_taken)]
