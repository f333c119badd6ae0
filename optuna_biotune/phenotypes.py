"""Operators on what genotypes express, rather than on the genotypes themselves.

A frozen block's importance expresses nothing, and neither does the threshold by itself. So
individuals are written in one form: frozen blocks have importance 0, and the threshold lies half
way to the least importance of the selected ones. Inheritance and mutation then decide for each
block whether it is selected, and how fast it trains if it is.

Arrays hold one individual a row: genes in [0, 1], shape [n, genes], and categorical choices, shape
[n, choices]. No function changes its arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optuna_biotune.evolution import FloatArray, GeneLayout, IntArray

BoolArray = npt.NDArray[np.bool_]

# A selected block's importance is never less, since 0 would be frozen.
_LEAST_IMPORTANCE = 0.02

_MUTATION_STEP = 0.15
_SHIFT_RATE = 0.3
_BLEND_RATE = 0.5


@dataclass(frozen=True)
class Group:
    """Individuals, one a row.

    Attributes:
        genes: Shape [n, genes].
        choices: Shape [n, choices].
        parents: Trial numbers that each came from, shape [n, 2]; twice the same one after
            mutation alone, -1 if random.
    """

    genes: FloatArray
    choices: IntArray
    parents: IntArray

    def __len__(self) -> int:
        """Return the number of individuals."""
        return len(self.genes)

    def take(self, rows: IntArray) -> Group:
        """Return some of the individuals, in this order."""
        return Group(self.genes[rows], self.choices[rows], self.parents[rows])

    @staticmethod
    def joined(*groups: Group) -> Group:
        """Return the individuals of all groups."""
        return Group(
            np.concatenate([group.genes for group in groups]),
            np.concatenate([group.choices for group in groups]),
            np.concatenate([group.parents for group in groups]),
        )


def selection(genes: FloatArray, layout: GeneLayout) -> BoolArray:
    """Tell which genes express something, shape [n, genes]: all but frozen importances."""
    expressed = np.ones(genes.shape, dtype=bool)
    if layout.threshold is not None:
        blocks = list(layout.importance)
        expressed[:, blocks] = genes[:, blocks] > genes[:, [layout.threshold]]
    return expressed


def canonical(genes: FloatArray, layout: GeneLayout) -> FloatArray:
    """Write valid genotypes in the one form of all that express the same."""
    if layout.threshold is None or not layout.importance:
        unchanged: FloatArray = genes.copy()
        return unchanged
    return _with_selection(genes, selection(genes, layout), layout)


def _with_selection(
    genes: FloatArray,
    expressed: BoolArray,
    layout: GeneLayout,
) -> FloatArray:
    """Freeze what is not expressed, and put the threshold below all that is."""
    clipped: FloatArray = np.clip(genes, 0.0, 1.0)
    if layout.threshold is None or not layout.importance:
        return clipped
    blocks = list(layout.importance)
    importance = np.maximum(clipped[:, blocks], _LEAST_IMPORTANCE)
    selected = expressed[:, blocks]
    clipped[:, blocks] = np.where(selected, importance, 0.0)
    clipped[:, layout.threshold] = 0.5 * np.where(selected, importance, 1.0).min(axis=1)
    return clipped


def features(
    genes: FloatArray, choices: IntArray, n_options: tuple[int, ...], layout: GeneLayout
) -> FloatArray:
    """Return what individuals express as numbers in [-1, 1].

    A block with importance ``nu`` gives two: ``S`` (1 if selected, 0 if frozen), and
    ``S (2 nu - 1)``, which is its decimal logarithm of the learning-rate multiplier. Each other
    gene gives one, a categorical parameter one for each option.

    Args:
        genes: Shape [n, genes].
        choices: Shape [n, choices].
        n_options: Number of options of each categorical parameter.
        layout: Which genes are importances, and which is the threshold.

    Returns:
        Shape [n, features].
    """
    expressed = selection(genes, layout)
    # Without importances a threshold is a gene like any other.
    silent = layout.threshold if layout.importance else None
    kept = [index for index in range(layout.n_genes) if index != silent]
    columns = [np.where(expressed, 2.0 * genes - 1.0, 0.0)[:, kept]]
    if layout.threshold is not None:
        columns.append(expressed[:, list(layout.importance)].astype(np.float64))
    for column, options in enumerate(n_options):
        columns.append((choices[:, [column]] == np.arange(options)).astype(np.float64))
    return np.concatenate(columns, axis=1)


def inherited(rng: np.random.Generator, mates: Group, n_children: int, layout: GeneLayout) -> Group:
    """Breed children that take each gene from either of two parents, or blend them.

    A block is selected or frozen as in the parent that it is taken from. Half of the children
    blend what both parents express.

    Args:
        rng: Source of all draws.
        mates: Individuals in canonical form, at least one.
        n_children: How many.
        layout: What the genes mean.
    """
    pairs = (rng.random((n_children, 2)) * len(mates)).astype(np.int64)
    first, second = mates.take(pairs[:, 0]), mates.take(pairs[:, 1])
    from_first = rng.random(first.genes.shape) < 0.5
    share = rng.random(first.genes.shape)
    blends = rng.random((n_children, 1)) < _BLEND_RATE
    expressed_1, expressed_2 = selection(first.genes, layout), selection(second.genes, layout)
    expressed = np.where(from_first, expressed_1, expressed_2)
    genes = np.where(from_first, first.genes, second.genes)
    blend = share * first.genes + (1.0 - share) * second.genes
    genes = np.where(blends & expressed_1 & expressed_2, blend, genes)
    stays = _freezes_all(expressed, layout)[:, None]
    choices = np.where(rng.random(first.choices.shape) < 0.5, first.choices, second.choices)
    return Group(
        _with_selection(
            np.where(stays, first.genes, genes), np.where(stays, expressed_1, expressed), layout
        ),
        choices,
        np.stack([first.parents[:, 0], second.parents[:, 0]], axis=1),
    )


def mutated(
    rng: np.random.Generator,
    parents: Group,
    n_children: int,
    n_options: tuple[int, ...],
    layout: GeneLayout,
) -> Group:
    """Breed children that differ from one parent each by a few shifts and flips.

    Of the genes that are expressed, about a third shift by a normal step, great or small alike for
    all genes of a child. Blocks are frozen or selected, and categorical parameters drawn again,
    one a child on average; a block newly selected gets a random importance.

    Args:
        rng: Source of all draws.
        parents: Individuals in canonical form, at least one.
        n_children: How many.
        n_options: Number of options of each categorical parameter.
        layout: What the genes mean.
    """
    chosen = parents.take((rng.random(n_children) * len(parents)).astype(np.int64))
    shape = chosen.genes.shape
    steps = 2.0 * _MUTATION_STEP * rng.random((n_children, 1)) * rng.standard_normal(shape)
    genes = chosen.genes + np.where(rng.random(shape) < _SHIFT_RATE, steps, 0.0)
    before = selection(chosen.genes, layout)
    flippable = np.zeros(shape[1], dtype=bool)
    if layout.threshold is not None:
        flippable[list(layout.importance)] = True
    rate = 2.0 * rng.random((n_children, 1)) / max(1, int(flippable.sum()) + len(n_options))
    expressed = before ^ (flippable & (rng.random(shape) < rate))
    expressed = np.where(_freezes_all(expressed, layout)[:, None], before, expressed)
    genes = np.where(expressed & ~before, rng.random(shape), genes)
    options = np.asarray(n_options, dtype=np.int64)
    drawn = (rng.random(chosen.choices.shape) * options).astype(np.int64)
    choices = np.where(rng.random(chosen.choices.shape) < rate, drawn, chosen.choices)
    return Group(_with_selection(genes, expressed, layout), choices, chosen.parents)


def _freezes_all(expressed: BoolArray, layout: GeneLayout) -> BoolArray:
    """Tell for each individual whether it selects no block, shape [n]."""
    if layout.threshold is None or not layout.importance:
        return np.zeros(len(expressed), dtype=bool)
    return np.asarray(~expressed[:, list(layout.importance)].any(axis=1))
