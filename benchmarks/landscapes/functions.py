"""Noisy functions of a genotype whose true values are known.

One kind describes recordings of real fine-tuning by a regression; the other is made up, with as
many blocks as wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict

from landscapes.recorded import RECORDINGS, Recording

FloatArray = npt.NDArray[np.float64]

WORST = 0.0
"""Value of a genotype that freezes every block."""

_N_CLIMBS, _N_STEPS, _N_NEIGHBOURS = 50, 40, 40


class Landscape(Protocol):
    """What samplers are compared on."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        ...

    @property
    def noise(self) -> float:
        """Standard deviation of one evaluation."""
        ...

    def true_values(self, genes: FloatArray) -> FloatArray:
        """Return the values of valid genotypes, to be maximised.

        Args:
            genes: Shape [n, blocks + 1], the threshold last.
        """
        ...


def phenotypes(genes: FloatArray) -> FloatArray:
    """Return what genotypes express: for each block, whether it is selected, and its multiplier.

    Args:
        genes: Shape [n, blocks + 1], the threshold last.

    Returns:
        Shape [n, 2 blocks]: ``S`` (0 or 1), then ``S`` times the decimal logarithm of the
        learning-rate multiplier, from -1 to 1.
    """
    selected = (genes[:, :-1] > genes[:, -1:]).astype(np.float64)
    return np.concatenate([selected, selected * (2.0 * genes[:, :-1] - 1.0)], axis=1)


def _gaussian_process(n_features: int) -> GaussianProcessRegressor:
    kernel = ConstantKernel(1.0) * Matern(np.full(n_features, 2.0), (0.1, 30.0), nu=2.5)
    return GaussianProcessRegressor(
        kernel + WhiteKernel(0.05, (1e-4, 1.0)), normalize_y=True, random_state=0
    )


def _forest(_: int) -> ExtraTreesRegressor:
    return ExtraTreesRegressor(300, min_samples_leaf=2, random_state=0)


REGRESSIONS = {"gp": _gaussian_process, "forest": _forest}
"""Regressions that can describe a recording, by name."""


class RecordedLandscape:
    """A recording of real fine-tuning, made continuous by a regression over phenotypes.

    Args:
        name: Name of the landscape.
        recording: Real evaluations.
        regression: ``"gp"``, smooth, or ``"forest"``, extremely randomised trees: steps instead of
            slopes, and nothing in common with the surrogate of a sampler.
    """

    def __init__(self, name: str, recording: Recording, regression: str = "gp") -> None:
        self.name = name
        self.n_blocks = recording.genes.shape[1] - 1
        # A trial's value is the mean over as many seeds as were recorded.
        self.noise = recording.seed_deviation / np.sqrt(recording.val.shape[1])
        self._recording = recording
        self._regression = regression

    @cached_property
    def _regressor(self) -> Any:
        features = phenotypes(self._recording.genes)
        return REGRESSIONS[self._regression](features.shape[1]).fit(features, self._recording.mean)

    @property
    def epochs(self) -> int:
        """Epochs that an evaluation of the recording trained, over all its seeds."""
        return int(np.prod(self._recording.curve.shape[1:]))

    def true_values(self, genes: FloatArray) -> FloatArray:
        """Return the regression's values."""
        return np.asarray(self._regressor.predict(phenotypes(genes)))

    def validation(self) -> dict[str, float]:
        """Return ``r2`` and ``rank_correlation`` of the regression in 10-fold cross-validation."""
        features = phenotypes(self._recording.genes)
        predicted = cross_val_predict(
            REGRESSIONS[self._regression](features.shape[1]),
            features,
            self._recording.mean,
            cv=KFold(10, shuffle=True, random_state=0),
        )
        return {
            "r2": round(float(r2_score(self._recording.mean, predicted)), 3),
            "rank_correlation": round(
                float(spearmanr(self._recording.mean, predicted).statistic), 3
            ),
        }


@dataclass(frozen=True)
class SyntheticLandscape:
    """Blocks that are better frozen, best importances of the others, and interactions.

    A block that is better frozen costs its weight times ``0.3 + 0.7 nu`` if it is selected; any
    other costs its weight if it is frozen, and else four times the squared distance from its best
    importance, at most all of it. Neighbours that train at very different rates cost a little more.

    Attributes:
        n_blocks: Number of blocks.
        seed: Seed of all that differs between landscapes of this kind.
        noise: Standard deviation of one evaluation.
    """

    n_blocks: int
    seed: int
    noise: float = 0.01

    @property
    def name(self) -> str:
        """Name of the landscape."""
        return f"synthetic{self.n_blocks}-{self.seed}"

    @cached_property
    def _parts(self) -> dict[str, FloatArray]:
        rng = np.random.default_rng([self.n_blocks, self.seed])
        frozen = rng.random(self.n_blocks) < 0.4
        frozen[-1] = False  # a fresh head has to be trained
        return {
            "frozen": frozen.astype(np.float64),
            "best": rng.uniform(0.15, 0.95, self.n_blocks),
            "weight": 0.5 * rng.dirichlet(np.ones(self.n_blocks)),
            "interaction": rng.uniform(0.0, 0.06, self.n_blocks - 1),
        }

    def true_values(self, genes: FloatArray) -> FloatArray:
        """Return the values."""
        parts = self._parts
        importance, selected = genes[:, :-1], genes[:, :-1] > genes[:, -1:]
        off = np.minimum(4.0 * (importance - parts["best"]) ** 2, 1.0)
        cost = np.where(
            parts["frozen"] > 0.0,
            np.where(selected, 0.3 + 0.7 * importance, 0.0),
            np.where(selected, off, 1.0),
        )
        level = np.where(selected, importance, 0.0)
        strain = parts["interaction"] * (level[:, 1:] - level[:, :-1]) ** 2
        values: FloatArray = 0.95 - cost @ parts["weight"] - strain.sum(axis=1)
        return values


def plateau(landscape: Landscape) -> float:
    """Return the greatest true value that climbing from many places reaches."""
    rng = np.random.default_rng(0)
    genes = _valid(rng.random((20_000, landscape.n_blocks + 1)))
    values = landscape.true_values(genes)
    top = np.argsort(-values)[:_N_CLIMBS]
    genes, values = genes[top], values[top]
    for _ in range(_N_STEPS):
        shape = (_N_CLIMBS * _N_NEIGHBOURS, landscape.n_blocks + 1)
        steps = np.where(rng.random(shape) < 0.4, 0.1 * rng.standard_normal(shape), 0.0)
        moved = _valid(np.clip(np.repeat(genes, _N_NEIGHBOURS, axis=0) + steps, 0.0, 1.0))
        genes = np.concatenate([genes, moved])
        values = np.concatenate([values, landscape.true_values(moved)])
        top = np.argsort(-values)[:_N_CLIMBS]
        genes, values = genes[top], values[top]
    return float(values[0])


def _valid(genes: FloatArray) -> FloatArray:
    """Return the genotypes that select a block."""
    return genes[(genes[:, :-1] > genes[:, -1:]).any(axis=1)]


def load_landscape(name: str, directory: Path = RECORDINGS) -> Landscape:
    """Return a landscape by its name.

    Args:
        name: ``synthetic<blocks>-<seed>``, or the name of a recording without its ending, with
            ``:forest`` behind it for the other regression.
        directory: Where the recordings are.

    Raises:
        ValueError: If there is no such landscape.
    """
    if name.startswith("synthetic"):
        n_blocks, _, seed = name.removeprefix("synthetic").partition("-")
        if n_blocks.isdigit() and seed.isdigit() and int(n_blocks) > 1:
            return SyntheticLandscape(int(n_blocks), int(seed))
    stem, _, regression = name.partition(":")
    path = directory / f"{stem}.npz"
    if not path.is_file() or regression not in ("", *REGRESSIONS):
        raise ValueError(
            f"`--landscapes` must name recordings in {directory.name} or synthetic<blocks>-<seed>, "
            f"but got {name!r}."
        )
    return RecordedLandscape(name, Recording.load(path), regression or "gp")
