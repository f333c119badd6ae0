"""Checks of arguments, made before any training starts."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import BaseTrial

from optuna_biotune.finetune.metrics import METRIC_NAMES

DEFAULT_METRIC = "balanced_accuracy"

COSTS = ("trainable_params", "seconds")
"""What a trial can return beside its metric; of each, less is better."""


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number that is not too small.

    Args:
        name: Name of the argument.
        value: What was given.
        least: The least that is allowed.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is below ``least``.
    """
    number = _integer(name, value, "an integer")
    if number < least:
        raise ValueError(f"`{name}` must be at least {least}, but got {number}.")
    return number


def check_learning_rate(name: str, value: Any) -> float:
    """Return an absolute learning rate: a finite number above 0.

    Args:
        name: Name of the argument.
        value: What was given.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not finite and above 0.
    """
    if not _is_number(value):
        raise TypeError(f"`{name}` must be a number, but got {value!r}.")
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"`{name}` must be finite and above 0, but got {value}.")
    return float(value)


def check_weight_decay(value: Any) -> float | tuple[float, float]:
    """Return a weight decay, or the range in which it is searched.

    Args:
        value: What was given.

    Raises:
        TypeError: If it is neither a number nor a pair of numbers.
        ValueError: If a number is not finite and at least 0, or a pair not finite, above 0 and
            ascending.
    """
    if _is_number(value):
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"`weight_decay` must be finite and at least 0, but got {value}.")
        return float(value)
    pair = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2
    if not pair or not all(map(_is_number, value)):
        raise TypeError(
            f"`weight_decay` must be a number or a pair (low, high) of numbers, but got {value!r}."
        )
    low, high = map(float, value)
    if not 0 < low < high < math.inf:
        raise ValueError(
            f"`weight_decay` as a range must have 0 < low < high, on a logarithmic scale, but got "
            f"{value!r}."
        )
    return low, high


def check_seeds(seeds: Any) -> tuple[int, ...]:
    """Return the seeds: distinct integers from 0, at least one.

    Args:
        seeds: What was given.

    Raises:
        TypeError: If it is not a sequence of integers.
        ValueError: If there is none, a negative one, or one that occurs twice.
    """
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise TypeError(f"`seeds` must be a sequence of integers, but got {seeds!r}.")
    checked = tuple(_integer("seeds", seed, "integers") for seed in seeds)
    if not checked:
        raise ValueError("`seeds` must hold at least one seed, but it is empty.")
    if min(checked) < 0 or len(set(checked)) < len(checked):
        raise ValueError(f"`seeds` must be distinct and not negative, but got {checked}.")
    return checked


def check_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return one of the choices.

    Args:
        name: Name of the argument.
        value: What was given.
        choices: What is allowed.

    Raises:
        ValueError: If it is none of them.
    """
    allowed = tuple(choices)
    if value not in allowed:
        shown = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(f"`{name}` must be one of {shown}, but got {value!r}.")
    return str(value)


def check_callable(name: str, value: Any, *, optional: bool = True) -> None:
    """Raise TypeError if a value cannot be called; None can be allowed.

    Args:
        name: Name of the argument.
        value: What was given.
        optional: Allow None.

    Raises:
        TypeError: If it cannot be called.
    """
    if not callable(value) and not (optional and value is None):
        allowed = "callable or None" if optional else "callable"
        raise TypeError(f"`{name}` must be {allowed}, but got {value!r}.")


def check_objectives(objectives: Any, metric: str) -> tuple[str, tuple[str, ...]]:
    """Return the metric of a trial, and the costs that it returns beside it.

    Args:
        objectives: What was given: None, or names of a metric and of costs.
        metric: The metric if ``objectives`` is None.

    Raises:
        TypeError: If ``objectives`` is not a sequence of names.
        ValueError: If a name is unknown or occurs twice, if there is not exactly one metric, in
            the first place, or if ``metric`` names another one.
    """
    check_choice("metric", metric, METRIC_NAMES)
    if objectives is None:
        return metric, ()
    if isinstance(objectives, str) or not isinstance(objectives, Sequence):
        raise TypeError(f"`objectives` must be a sequence of names, but got {objectives!r}.")
    chosen, costs = tuple(objectives[:1]), tuple(objectives[1:])
    if chosen[:1] not in [(name,) for name in METRIC_NAMES]:
        raise ValueError(
            f"`objectives` must begin with a metric, one of {', '.join(METRIC_NAMES)}, but got "
            f"{objectives!r}."
        )
    if any(cost not in COSTS for cost in costs) or len(set(costs)) < len(costs):
        raise ValueError(
            f"`objectives` may hold, after the metric, each of {', '.join(COSTS)} once, but got "
            f"{objectives!r}."
        )
    if metric not in (DEFAULT_METRIC, chosen[0]):
        raise ValueError(
            f"`metric` is {metric!r}, but `objectives` begins with {chosen[0]!r}: give one of them."
        )
    return chosen[0], costs


def check_directions(trial: BaseTrial, n_costs: int) -> None:
    """Check that the study of a trial maximises a metric, and minimises the costs after it.

    Args:
        trial: A running trial; one without a study, such as a ``FixedTrial``, passes.
        n_costs: Number of costs.

    Raises:
        ValueError: If its directions are others.
    """
    study = getattr(trial, "study", None)
    if study is None:
        return
    expected = [StudyDirection.MAXIMIZE] + [StudyDirection.MINIMIZE] * n_costs
    if study.directions == expected:
        return
    given = [direction.name.lower() for direction in study.directions]
    if n_costs == 0:
        raise ValueError(
            'The study must maximise one value: `optuna.create_study(direction="maximize")`, '
            f"but its directions are {given}. Several values need `objectives`."
        )
    names = [direction.name.lower() for direction in expected]
    raise ValueError(
        "The study must maximise the metric and minimise the costs of `objectives`: "
        f"`optuna.create_study(directions={names})`, but its directions are {given}."
    )


def _is_number(value: Any) -> bool:
    """Tell whether a value is a number, which a boolean is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _integer(name: str, value: Any, wanted: str) -> int:
    """Return an int from an int or a NumPy integer."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be {wanted}, but got {value!r}.") from None
