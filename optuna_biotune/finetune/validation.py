"""Checks of arguments, made before any training starts."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import BaseTrial


def check_count(name: str, value: Any) -> int:
    """Return a whole number of at least 1.

    Args:
        name: Name of the argument.
        value: What was given.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is below 1.
    """
    number = _integer(name, value, "an integer")
    if number < 1:
        raise ValueError(f"`{name}` must be at least 1, but got {number}.")
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
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"`{name}` must be a number, but got {value!r}.")
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"`{name}` must be finite and above 0, but got {value}.")
    return float(value)


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


def check_study_maximises(trial: BaseTrial) -> None:
    """Check that the study of a trial maximises one value.

    Args:
        trial: A running trial; one without a study, such as a ``FixedTrial``, passes.

    Raises:
        ValueError: If it minimises, or has several values.
    """
    study = getattr(trial, "study", None)
    if study is not None and study.directions != [StudyDirection.MAXIMIZE]:
        raise ValueError(
            'The study must maximise one value: `optuna.create_study(direction="maximize")`, '
            f"but its directions are {[direction.name for direction in study.directions]}."
        )


def _integer(name: str, value: Any, wanted: str) -> int:
    """Return an int from an int or a NumPy integer."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be {wanted}, but got {value!r}.") from None
