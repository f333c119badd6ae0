"""Optuna parameters to genes, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)

from optuna_biotune import _compat
from optuna_biotune.evolution import FloatArray, GeneLayout, IntArray
from optuna_biotune.genotype import IMPORTANCE_PREFIX, THRESHOLD_NAME

_UNIT_INTERVAL = FloatDistribution(0.0, 1.0)


class Encoding:
    """Maps a search space's parameters to an individual's genes and categorical choices.

    Each numeric parameter is one gene: its place between the bounds of its range, in [0, 1], on a
    logarithmic scale if the parameter is. Each categorical parameter is the index of its choice.

    Args:
        search_space: Parameter names and distributions; none may have a single value only.

    Attributes:
        layout: Which genes are block importances and which is the freezing threshold. Only floats
            in [0, 1] under the names of :func:`optuna_biotune.suggest_plan` count as such.
        names: Names of all parameters.
        n_choices: Number of categorical parameters.
        n_options: Number of options of each categorical parameter.
        is_empty: Whether there is no parameter at all.
    """

    def __init__(self, search_space: Mapping[str, BaseDistribution]) -> None:
        names = sorted(search_space)
        self._search_space = {name: search_space[name] for name in names}
        self._categorical = {
            name: distribution
            for name, distribution in self._search_space.items()
            if isinstance(distribution, CategoricalDistribution)
        }
        self._numeric = {
            name: distribution
            for name, distribution in self._search_space.items()
            if name not in self._categorical
        }
        self._transform = _compat.unit_transform(self._numeric) if self._numeric else None
        self.layout = _layout(self._numeric)
        self.names = frozenset(names)
        self.n_options = tuple(len(one.choices) for one in self._categorical.values())
        self.n_choices = len(self._categorical)
        self.is_empty = not self._search_space

    def encode(
        self, params: Mapping[str, Any], rng: np.random.Generator
    ) -> tuple[FloatArray, IntArray]:
        """Return the genes and choices of a trial's parameters.

        Args:
            params: The parameters. Where one is missing (the trial was pruned before it, or took
                another branch) or outside its range, a random value stands in for it.
            rng: Source of the values that stand in.
        """
        known = {
            name: params[name]
            for name, distribution in self._search_space.items()
            if name in params and _compat.contains(distribution, params[name])
        }
        if len(known) < len(self._search_space):
            known = {**self.decode(*self.random(rng)), **known}
        genes = (
            np.zeros(0)
            if self._transform is None
            else self._transform.transform({name: known[name] for name in self._numeric})
        )
        choices = [
            int(distribution.to_internal_repr(known[name]))
            for name, distribution in self._categorical.items()
        ]
        return np.clip(genes, 0.0, 1.0), np.asarray(choices, dtype=np.int64)

    def decode(self, genes: FloatArray, choices: IntArray) -> dict[str, Any]:
        """Return the parameters that genes and choices express, as Python's own types."""
        params: dict[str, Any] = {} if self._transform is None else self._numbers(genes)
        for (name, distribution), choice in zip(
            self._categorical.items(), choices.tolist(), strict=True
        ):
            params[name] = distribution.to_external_repr(choice)
        return params

    def _numbers(self, genes: FloatArray) -> dict[str, Any]:
        assert self._transform is not None
        values = self._transform.untransform(genes)
        # Optuna keeps floats below the upper bound; an importance or a threshold of 1 is as good.
        return {
            name: float(gene) if self._numeric[name] == _UNIT_INTERVAL else values[name]
            for name, gene in zip(self._numeric, genes.tolist(), strict=True)
        }

    def random(self, rng: np.random.Generator) -> tuple[FloatArray, IntArray]:
        """Draw uniform genes and choices, valid or not."""
        return rng.random((self.layout.n_genes,)), self.random_choices(rng)

    def random_choices(self, rng: np.random.Generator) -> IntArray:
        """Draw a uniform choice for each categorical parameter."""
        sizes = np.asarray(self.n_options, dtype=np.int64)
        return (rng.random(self.n_choices) * sizes).astype(np.int64)

    def phenotype(self, params: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return what parameters express; equal for individuals that train alike.

        A frozen block's importance expresses nothing, and the threshold nothing by itself.
        """
        threshold = params.get(THRESHOLD_NAME)
        if self.layout.threshold is None or threshold is None:
            return tuple(self._expressed(name, params) for name in self._search_space)
        names = list(self._numeric)
        importance = {names[index] for index in self.layout.importance}
        return tuple(
            None
            if name in importance and params.get(name, 0.0) <= threshold
            else self._expressed(name, params)
            for name in self._search_space
            if name != THRESHOLD_NAME
        )

    def _expressed(self, name: str, params: Mapping[str, Any]) -> Any:
        value = params.get(name)
        # A choice may be a list, which cannot be a key.
        return repr(value) if name in self._categorical else value


def _layout(numeric: Mapping[str, BaseDistribution]) -> GeneLayout:
    importance = []
    threshold = None
    for index, (name, distribution) in enumerate(numeric.items()):
        if distribution == _UNIT_INTERVAL and name.startswith(IMPORTANCE_PREFIX):
            importance.append(index)
        elif distribution == _UNIT_INTERVAL and name == THRESHOLD_NAME:
            threshold = index
    return GeneLayout(len(numeric), tuple(importance), threshold)
