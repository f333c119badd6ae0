"""Genes and what they express: the fine-tuning plan of a network.

A genotype gives every block ``b`` of a network an importance ``nu_b`` and the network a freezing
threshold ``eps_f``, all in [0, 1]. It expresses a plan: blocks whose importance does not exceed
the threshold are frozen, and the others train at a multiple of the base learning rate.

Reference: Davila, Colan, Hasegawa, "Bio-Inspired Fine-Tuning for Selective Transfer Learning in
Image Classification", IEEE Access 13, 2025, doi 10.1109/ACCESS.2025.3587524.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

IMPORTANCE_PREFIX = "importance/"
THRESHOLD_NAME = "freeze_threshold"

_JSON_VERSION = 1

# An importance just above 0 has a multiplier that rounds to 0.1; this one stands for all of them.
_LEAST_IMPORTANCE = 2.0**-60


class SupportsSuggestFloat(Protocol):
    """What :func:`suggest_plan` needs of a trial; every Optuna trial class has it."""

    def suggest_float(self, name: str, low: float, high: float) -> float:
        """Suggest a float in [low, high]."""
        ...


class SupportsParams(Protocol):
    """What :meth:`FineTuningPlan.from_trial` needs of a trial."""

    @property
    def params(self) -> dict[str, Any]:
        """The suggested parameters by name."""
        ...


def selected(importance: npt.NDArray[np.float64], threshold: float) -> npt.NDArray[np.bool_]:
    """Tell which blocks are trained: ``S_b = 1 if nu_b > eps_f else 0``.

    Args:
        importance: Importances ``nu_b``, any shape.
        threshold: Freezing threshold ``eps_f``.

    Returns:
        Booleans of the same shape, True where the block is trained.
    """
    return importance > threshold


def learning_rate_multipliers(
    importance: npt.NDArray[np.float64], threshold: float
) -> npt.NDArray[np.float64]:
    """Return ``S_b W_b`` with ``W_b = 10^(2 (nu_b - 0.5))``: 0.0 if frozen, else 0.1 to 10.

    Args:
        importance: Importances ``nu_b`` in [0, 1], any shape.
        threshold: Freezing threshold ``eps_f`` in [0, 1].

    Returns:
        Multipliers of the base learning rate, of the same shape.
    """
    weights: npt.NDArray[np.float64] = 10.0 ** (2.0 * (importance - 0.5))
    return np.where(selected(importance, threshold), weights, 0.0)


def block_names(parameters: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the blocks whose importances are among parameters, in their order.

    Args:
        parameters: Names of Optuna parameters.
    """
    return tuple(
        name.removeprefix(IMPORTANCE_PREFIX)
        for name in parameters
        if name.startswith(IMPORTANCE_PREFIX)
    )


def check_block_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names as a tuple if they can name the blocks of a network.

    Raises:
        TypeError: If a name is not a string, or all are given as one string.
        ValueError: If there is no name, an empty one, or one that occurs twice.
    """
    if isinstance(names, str):
        raise TypeError(f"`names` must be a sequence of block names, but got the string {names!r}.")
    checked = tuple(names)
    if not checked:
        raise ValueError("`names` must hold at least one block name, but it is empty.")
    for name in checked:
        if not isinstance(name, str):
            raise TypeError(f"`names` must hold strings, but got {name!r}.")
        if not name:
            raise ValueError("`names` must not hold an empty block name.")
    repeated = sorted({name for name in checked if checked.count(name) > 1})
    if repeated:
        raise ValueError(f"`names` must be distinct, but {', '.join(repeated)} occur(s) twice.")
    return checked


@dataclass(frozen=True)
class FineTuningPlan:
    """How to fine-tune a network: a learning-rate multiplier for each of its blocks.

    Attributes:
        multipliers: Block name to multiplier of the base learning rate, in block order (input
            side first). 0.0 means that the block is frozen. Read-only.

    Raises:
        ValueError: If there is no block, or a multiplier is negative, infinite or NaN.
        TypeError: If a multiplier is not a number or a name is not a string.
    """

    multipliers: Mapping[str, float]

    def __post_init__(self) -> None:
        """Check the multipliers and keep a read-only copy of them."""
        check_block_names(self.multipliers)
        multipliers: dict[str, float] = {}
        for name, value in self.multipliers.items():
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
                raise TypeError(
                    f"`multipliers` must hold numbers, but block {name!r} has {value!r}."
                )
            if not math.isfinite(value) or value < 0:
                raise ValueError(
                    "`multipliers` must be finite and not negative (0.0 freezes the block), "
                    f"but block {name!r} has {value!r}."
                )
            multipliers[name] = float(value)
        object.__setattr__(self, "multipliers", MappingProxyType(multipliers))

    def __hash__(self) -> int:
        """Hash by the blocks and their multipliers, in order."""
        return hash(tuple(self.multipliers.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a plain dictionary: a read-only mapping cannot be pickled."""
        return type(self), (dict(self.multipliers),)

    @property
    def names(self) -> tuple[str, ...]:
        """All block names, in order."""
        return tuple(self.multipliers)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the frozen blocks, in order."""
        return tuple(name for name, value in self.multipliers.items() if value == 0.0)

    @property
    def trainable(self) -> tuple[str, ...]:
        """Names of the blocks that train, in order. Empty if the plan trains nothing."""
        return tuple(name for name, value in self.multipliers.items() if value > 0.0)

    @property
    def mask(self) -> str:
        """One letter for each block in order, F for a frozen one and T for a tuned one."""
        return "".join("F" if value == 0.0 else "T" for value in self.multipliers.values())

    def learning_rates(self, lr: float) -> dict[str, float]:
        """Return the absolute learning rate of each block, 0.0 where it is frozen.

        Args:
            lr: Base learning rate ``lambda_0``.
        """
        return {name: value * lr for name, value in self.multipliers.items()}

    @classmethod
    def from_genes(
        cls, names: Sequence[str], importance: Sequence[float], threshold: float
    ) -> FineTuningPlan:
        """Express a genotype.

        Args:
            names: Block names, in order.
            importance: One importance in [0, 1] a block, in the same order.
            threshold: Freezing threshold in [0, 1].

        Raises:
            ValueError: If the lengths differ or a gene lies outside [0, 1].
        """
        blocks = check_block_names(names)
        genes = np.asarray(importance, dtype=np.float64)
        if genes.shape != (len(blocks),):
            raise ValueError(
                f"`importance` must hold one number for each of the {len(blocks)} blocks, "
                f"but its shape is {genes.shape}."
            )
        if not np.all((genes >= 0.0) & (genes <= 1.0)):
            raise ValueError(f"`importance` must lie in [0, 1], but got {genes.tolist()}.")
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"`threshold` must lie in [0, 1], but got {threshold}.")
        values = learning_rate_multipliers(genes, threshold)
        return cls(dict(zip(blocks, values.tolist(), strict=True)))

    @classmethod
    def from_trial(cls, trial: SupportsParams) -> FineTuningPlan:
        """Express the genotype of a trial whose plan was suggested by :func:`suggest_plan`.

        Args:
            trial: A running or finished Optuna trial.

        Raises:
            ValueError: If the trial has no such parameters.
        """
        params = trial.params
        importance = {
            name.removeprefix(IMPORTANCE_PREFIX): value
            for name, value in params.items()
            if name.startswith(IMPORTANCE_PREFIX)
        }
        if not importance or THRESHOLD_NAME not in params:
            raise ValueError(
                f"The trial has no fine-tuning plan: it needs parameters `{IMPORTANCE_PREFIX}"
                f"<block>` and `{THRESHOLD_NAME}`, but has {sorted(params) or 'none'}."
            )
        return cls.from_genes(
            list(importance), list(importance.values()), float(params[THRESHOLD_NAME])
        )

    @classmethod
    def full(cls, names: Sequence[str]) -> FineTuningPlan:
        """Train every block at the base learning rate."""
        return cls(dict.fromkeys(check_block_names(names), 1.0))

    @classmethod
    def linear_probe(cls, names: Sequence[str]) -> FineTuningPlan:
        """Train the last block (the head) at the base learning rate and freeze the others."""
        return cls.last_blocks(names, 1)

    @classmethod
    def last_blocks(cls, names: Sequence[str], n_blocks: int) -> FineTuningPlan:
        """Train the last blocks at the base learning rate and freeze the others.

        Args:
            names: Block names, in order.
            n_blocks: How many train; with 1, a linear probe, with all of them, full fine-tuning.

        Raises:
            ValueError: If ``n_blocks`` is below 1 or above the number of blocks.
        """
        blocks = check_block_names(names)
        if not 1 <= n_blocks <= len(blocks):
            raise ValueError(
                f"`n_blocks` must lie in 1..{len(blocks)}, the number of blocks, "
                f"but got {n_blocks}."
            )
        return cls({name: float(name in blocks[-n_blocks:]) for name in blocks})

    def to_params(self) -> dict[str, float]:
        """Return Optuna parameters that express this plan, for ``study.enqueue_trial``.

        Frozen blocks get importance 0, and the threshold lies half way between 0 and the least
        importance of the trained ones. :meth:`from_trial` gives the plan back up to rounding.

        Raises:
            ValueError: If a trained block's multiplier lies outside [0.1, 10], which no genotype
                expresses.
        """
        importance = {name: 0.0 for name in self.multipliers}
        for name in self.trainable:
            value = 0.5 + 0.5 * math.log10(self.multipliers[name])
            if not 0.0 <= value <= 1.0:
                raise ValueError(
                    "Only multipliers from 0.1 to 10 (or 0.0, frozen) can be written as "
                    f"parameters, but block {name!r} has {self.multipliers[name]}."
                )
            importance[name] = max(value, _LEAST_IMPORTANCE)
        least = min((importance[name] for name in self.trainable), default=1.0)
        params = {f"{IMPORTANCE_PREFIX}{name}": value for name, value in importance.items()}
        return {**params, THRESHOLD_NAME: 0.5 * least}

    def to_json(self) -> str:
        """Return the plan as a JSON object; :meth:`from_json` gives an equal plan back."""
        return json.dumps({"version": _JSON_VERSION, "multipliers": dict(self.multipliers)})

    @classmethod
    def from_json(cls, text: str) -> FineTuningPlan:
        """Read a plan that :meth:`to_json` wrote.

        Raises:
            ValueError: If the text is not JSON, or not a plan of a known version.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"`text` must be a plan in JSON, but is not JSON: {error}.") from error
        if not isinstance(data, dict) or not isinstance(data.get("multipliers"), dict):
            raise ValueError(
                '`text` must be a JSON object with "multipliers", one number a block name.'
            )
        if data.get("version") != _JSON_VERSION:
            raise ValueError(
                f"`text` has plan version {data.get('version')!r}; "
                f"this package reads version {_JSON_VERSION}."
            )
        return cls(data["multipliers"])


def suggest_plan(trial: SupportsSuggestFloat, names: Iterable[str]) -> FineTuningPlan:
    """Suggest a fine-tuning plan in a user's own objective, with any sampler.

    Suggests ``importance/<block>`` for each block and ``freeze_threshold``, floats in [0, 1].

    Args:
        trial: The Optuna trial. The parameters are added to it.
        names: Block names in order, as in ``BlockPartition.names``.

    Returns:
        The plan. With samplers other than ``BioTuneSampler`` it may freeze every block:
        ``plan.trainable`` is then empty and there is nothing to train.
    """
    blocks = check_block_names(names)
    importance = [trial.suggest_float(f"{IMPORTANCE_PREFIX}{name}", 0.0, 1.0) for name in blocks]
    threshold = trial.suggest_float(THRESHOLD_NAME, 0.0, 1.0)
    return FineTuningPlan.from_genes(blocks, importance, threshold)
