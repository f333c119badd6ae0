"""The operators of BioTune's evolution, as pure functions of arrays and a random generator.

An individual's genes are one array of floats in [0, 1]. :class:`GeneLayout` says which of them are
block importances and which is the freezing threshold; genes that are neither (a user's further
numeric parameters) evolve beside them. Every function draws from the generator it is given with
``Generator.random`` alone, whose stream is the same on all platforms, and changes no argument.

The numbered steps are those of the algorithm in Davila, Colan, Hasegawa, IEEE Access 13, 2025,
doi 10.1109/ACCESS.2025.3587524; the operators descend from the memetic evolution of BioIK
(Starke, Hendrich, Zhang, 2017 and 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optuna_biotune.genotype import selected

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GeneLayout:
    """Which genes mean what.

    Attributes:
        n_genes: Number of genes.
        importance: Indices of the block importances.
        threshold: Index of the freezing threshold, or None if it does not evolve.
    """

    n_genes: int
    importance: tuple[int, ...] = ()
    threshold: int | None = None


@dataclass(frozen=True)
class Mates:
    """The two parents and the prototype of an offspring, as positions in the mating pool."""

    first: int
    second: int
    prototype: int


def selects_a_block(genes: FloatArray, layout: GeneLayout) -> bool:
    """Tell whether a genotype is valid: some block's importance exceeds the threshold.

    Genotypes without importances or without an evolving threshold are always valid.
    """
    if layout.threshold is None or not layout.importance:
        return True
    importance = genes[list(layout.importance)]
    return bool(selected(importance, float(genes[layout.threshold])).any())


def random_individual(rng: np.random.Generator, layout: GeneLayout) -> FloatArray:
    """Draw a uniform valid individual: ``nu ~ U(0, 1)``, drawn again until valid (step 1)."""
    while True:
        genes = rng.random((layout.n_genes,))
        if selects_a_block(genes, layout):
            return genes


def exploitable_genes(genes: FloatArray, layout: GeneLayout) -> tuple[int, ...]:
    """Return the indices of the genes that elite exploitation may step along.

    These are the importances of the selected blocks, since a frozen block's importance expresses
    nothing, and the genes of further parameters; never the threshold.
    """
    importance = set(layout.importance)
    threshold = -np.inf if layout.threshold is None else float(genes[layout.threshold])
    return tuple(
        index
        for index in range(layout.n_genes)
        if index != layout.threshold and (index not in importance or genes[index] > threshold)
    )


def elite_pair(
    rng: np.random.Generator, genes: FloatArray, layout: GeneLayout, step: float
) -> tuple[FloatArray, FloatArray] | None:
    """Step from a valid elite to both sides along one gene (step 2).

    Picks one gene ``b`` of :func:`exploitable_genes` at random and ``delta = step U(-1, 1)``.
    Delta is halved until both halves select a block.

    Args:
        rng: Source of the gene and of delta. Equal generators give equal pairs.
        genes: The elite's genes, shape [n_genes].
        layout: What the genes mean.
        step: Greatest step; 0.25 in the paper.

    Returns:
        The elite with ``nu_b + delta`` and with ``nu_b - delta``, clipped to [0, 1]; None if it
        has no gene to step along.
    """
    candidates = exploitable_genes(genes, layout)
    if not candidates:
        return None
    index = candidates[int(rng.random() * len(candidates))]
    delta = step * (2.0 * rng.random() - 1.0)
    pair = _with_step(genes, index, delta), _with_step(genes, index, -delta)
    while delta and not all(selects_a_block(half, layout) for half in pair):
        delta *= 0.5
        pair = _with_step(genes, index, delta), _with_step(genes, index, -delta)
    return pair


def _with_step(genes: FloatArray, index: int, delta: float) -> FloatArray:
    stepped: FloatArray = genes.copy()
    stepped[index] = min(max(float(genes[index]) + delta, 0.0), 1.0)
    return stepped


def rank_weights(pool_size: int) -> FloatArray:
    """Return the weights ``m + 1 - i`` of ranks ``i = 1..m`` in a mating pool (step 4)."""
    return np.arange(pool_size, 0, -1, dtype=np.float64)


def _draw_rank(rng: np.random.Generator, weights: FloatArray) -> int:
    cumulative = np.cumsum(weights)
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))


def draw_mates(rng: np.random.Generator, pool_size: int) -> Mates:
    """Draw two distinct parents and a prototype from the pool by rank weights (step 4).

    The prototype may be one of the parents.

    Args:
        rng: Source of the three draws.
        pool_size: Size ``m`` of the mating pool, sorted best first; at least 2.
    """
    weights = rank_weights(pool_size)
    first = _draw_rank(rng, weights)
    without_first = weights.copy()
    without_first[first] = 0.0
    return Mates(first, _draw_rank(rng, without_first), _draw_rank(rng, weights))


def crossover(rng: np.random.Generator, first: FloatArray, second: FloatArray) -> FloatArray:
    """Blend two parents: ``nu = r nu_1 + (1 - r) nu_2``, ``r ~ U(0, 1)`` per gene (step 4)."""
    r = rng.random(first.shape)
    blend: FloatArray = r * first + (1.0 - r) * second
    return blend


def mutation_rate(extinction: float, n_genes: int) -> float:
    """Return the chance that a gene mutates, ``(x (n - 1) + 1) / n`` (step 4)."""
    return (extinction * (n_genes - 1) + 1.0) / n_genes


def mutate(rng: np.random.Generator, genes: FloatArray, extinction: float) -> FloatArray:
    """Shift each gene, with the mutation rate, by ``U(-1, 1) x`` (step 4). Does not clip.

    Args:
        rng: Source of which genes mutate and by how much.
        genes: Genes, shape [n_genes].
        extinction: Mean extinction factor ``x`` of the parents, in [0, 1].
    """
    if not genes.size:
        return genes
    mutates = rng.random(genes.shape) < mutation_rate(extinction, genes.size)
    shift = (2.0 * rng.random(genes.shape) - 1.0) * extinction
    mutant: FloatArray = genes + np.where(mutates, shift, 0.0)
    return mutant


def adopt(
    rng: np.random.Generator, genes: FloatArray, parents_mean: FloatArray, prototype: FloatArray
) -> FloatArray:
    """Move towards the parents' mean and the prototype (step 4). Does not clip.

    Adds ``t r_1 (parents_mean - nu) + (1 - t) r_2 (prototype - nu)``; ``t``, ``r_1`` and ``r_2``
    are one number each, ~ U(0, 1).
    """
    t, r_1, r_2 = rng.random(), rng.random(), rng.random()
    return genes + t * r_1 * (parents_mean - genes) + (1.0 - t) * r_2 * (prototype - genes)


def offspring(
    rng: np.random.Generator,
    first: FloatArray,
    second: FloatArray,
    prototype: FloatArray,
    extinction: float,
    drift: FloatArray | None = None,
) -> FloatArray:
    """Breed one offspring: crossover, mutation, adoption, clipping to [0, 1] (step 4).

    Args:
        rng: Source of all draws.
        first: Genes of the first parent.
        second: Genes of the second parent.
        prototype: Genes of the prototype.
        extinction: Mean extinction factor of the two parents.
        drift: The parents' mean memory of past changes, weighted by the momentum; added to the
            crossover, times one ``U(0, 1)`` per gene. None leaves momentum out, and its draws.
    """
    genes = crossover(rng, first, second)
    if drift is not None:
        genes = genes + rng.random(genes.shape) * drift
    genes = mutate(rng, genes, extinction)
    genes = adopt(rng, genes, 0.5 * (first + second), prototype)
    clipped: FloatArray = np.clip(genes, 0.0, 1.0)
    return clipped


def front_offspring(
    rng: np.random.Generator, first: FloatArray, second: FloatArray, extinction: float
) -> FloatArray:
    """Breed one offspring for several objectives: each gene from either parent, then mutation.

    Ours, not the paper's, which has one objective. Blends and adoption pull offspring to the middle
    of the population, and the middle of a front of trade-offs is not good at anything.

    Args:
        rng: Source of all draws.
        first: Genes of the first parent.
        second: Genes of the second parent.
        extinction: Mean extinction factor of the two parents.
    """
    genes = np.where(rng.random(first.shape) < 0.5, first, second)
    clipped: FloatArray = np.clip(mutate(rng, genes, extinction), 0.0, 1.0)
    return clipped


def inherit_choices(rng: np.random.Generator, first: IntArray, second: IntArray) -> IntArray:
    """Take each categorical parameter from either parent with equal chance."""
    inherited: IntArray = np.where(rng.random(first.shape) < 0.5, first, second)
    return inherited


def extinction_factors(fitness: Sequence[float] | FloatArray) -> FloatArray:
    """Return ``x_i = (Phi_i + Phi_min (i / (N - 1) - 1)) / Phi_max`` of a sorted population.

    (Step 5.) ``Phi`` is minimised and not negative, as ``1 - accuracy`` is. Fitness that goes
    below zero is shifted to begin at zero first, and infinite fitness counts as the greatest
    finite one, so that the factors stay in [0, 1] whatever an objective returns.

    Args:
        fitness: ``Phi`` of each individual, best (least) first, shape [N].

    Returns:
        Factors in [0, 1], not decreasing, 0 for the best; shape [N].
    """
    phi = np.asarray(fitness, dtype=np.float64)
    size = phi.shape[0]
    if size < 2:
        return np.zeros(size)
    finite = phi[np.isfinite(phi)]
    worst, best = (finite.max(), finite.min()) if finite.size else (0.0, 0.0)
    phi = np.nan_to_num(phi, nan=worst, posinf=worst, neginf=best)
    # The factors do not depend on the scale; at this one, exact because it is a power of two, no
    # difference overflows.
    phi = np.ldexp(phi, -np.frexp(np.abs(phi).max())[1])
    phi = phi - min(float(phi[0]), 0.0)
    if phi[-1] <= 0.0:
        return np.zeros(size)
    ranks = np.arange(size) / (size - 1)
    factors: FloatArray = np.clip((phi + phi[0] * (ranks - 1.0)) / phi[-1], 0.0, 1.0)
    return factors


def pool_is_exhausted(pool_size: int) -> bool:
    """Tell whether so few are left in the mating pool that a child is a fresh random individual.

    (Step 4: "with two or fewer left".)
    """
    return pool_size <= 2
