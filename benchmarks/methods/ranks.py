"""Mean ranks and differences of methods over targets, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

FloatArray = npt.NDArray[np.float64]

_N_BOOTSTRAPS = 2000
_BOUNDS = (0.025, 0.975)


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """Test values of methods on the same targets, searches and seeds.

    Attributes:
        methods: Names of the methods.
        places: Target and number of the search, for each place.
        values: Shape [methods, places, seeds].
    """

    methods: tuple[str, ...]
    places: tuple[tuple[str, int], ...]
    values: FloatArray

    def of(self, method: str) -> FloatArray:
        """Return the values of one method, shape [places, seeds]."""
        return np.asarray(self.values[self.methods.index(method)])


def complete_scores(
    values: Mapping[tuple[str, str, int], Sequence[float]], methods: Sequence[str]
) -> Scores:
    """Gather the test values of the targets and searches that every method has run.

    Args:
        values: Test values by method, target and search.
        methods: Names of all methods that are compared.
    """
    found = dict.fromkeys((target, search) for _, target, search in values)
    places = [p for p in found if all((method, *p) in values for method in methods)]
    rows = [[values[method, place[0], place[1]] for place in places] for method in methods]
    return Scores(
        tuple(methods),
        tuple(places),
        np.asarray(rows, dtype=np.float64) if places else np.zeros((len(methods), 0, 0)),
    )


def mean_ranks(scores: Scores) -> dict[str, Interval]:
    """Rank the methods in each place by the mean of their seeds, 1 best, and average.

    Ties share their mean rank. The intervals are over targets, and the seeds within them.
    """
    drawn = [_mean_rank(scores.values[:, places, seeds]) for places, seeds in _draws(scores)]
    means = _mean_rank(scores.values)
    low, high = np.quantile(drawn, _BOUNDS, axis=0)
    return {
        name: Interval(float(means[i]), float(low[i]), float(high[i]))
        for i, name in enumerate(scores.methods)
    }


def _mean_rank(values: FloatArray) -> FloatArray:
    """Return the mean rank of each method, from values [methods, places, seeds]."""
    # Rounded, so that equal values do not differ by the order in which they were added up.
    ranks = rankdata(-values.mean(axis=2).round(12), axis=0)
    return np.asarray(ranks.mean(axis=1))


def difference(scores: Scores, method: str, other: str) -> Interval:
    """Return by how much one method is better than another, place by place and seed by seed."""
    values = scores.of(method) - scores.of(other)
    drawn = [values[places, seeds].mean() for places, seeds in _draws(scores)]
    low, high = np.quantile(drawn, _BOUNDS)
    return Interval(float(values.mean()), float(low), float(high))


def best_of(scores: Scores, methods: Sequence[str]) -> str:
    """Return the method with the greatest mean test value over all places."""
    return max(methods, key=lambda name: float(scores.of(name).mean()))


def _draws(
    scores: Scores,
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Draw targets with all their searches, and within each of them seeds, with replacement.

    Yields:
        Indices of places [n, 1] and of seeds [n, seeds], the same for all methods.
    """
    rng = np.random.default_rng(0)
    targets = list(dict.fromkeys(target for target, _ in scores.places))
    of_target = [
        [i for i, (name, _) in enumerate(scores.places) if name == target] for target in targets
    ]
    n_seeds = scores.values.shape[2]
    for _ in range(_N_BOOTSTRAPS):
        chosen = rng.integers(len(targets), size=len(targets))
        places = np.concatenate([of_target[i] for i in chosen])
        yield places[:, None], rng.integers(n_seeds, size=(len(places), n_seeds))
