"""Operators on what genotypes express."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from optuna_biotune.evolution import GeneLayout, random_individual
from optuna_biotune.genotype import FineTuningPlan
from optuna_biotune.phenotypes import Group, canonical, features, inherited, mutated, selection

BLOCKS = tuple("abcd")
# Further parameters before and behind the importances, and the threshold in between.
LAYOUT = GeneLayout(7, importance=(1, 2, 4, 5), threshold=3)
N_OPTIONS = (3, 2)

seeds = st.integers(0, 2**32 - 1)


def group(seed: int, n: int = 6) -> Group:
    rng = np.random.default_rng(seed)
    genes = np.asarray([random_individual(rng, LAYOUT) for _ in range(n)])
    choices = (rng.random((n, 2)) * np.asarray(N_OPTIONS)).astype(np.int64)
    return Group(canonical(genes, LAYOUT), choices, np.stack([np.arange(n)] * 2, axis=1))


def plan(genes: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> FineTuningPlan:
    importance = genes[list(LAYOUT.importance)].tolist()
    return FineTuningPlan.from_genes(BLOCKS, importance, float(genes[3]))


@given(seeds)
def test_the_canonical_form_expresses_the_same_unless_a_multiplier_is_at_its_very_least(
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    genes = random_individual(rng, LAYOUT)
    before, after = plan(genes), plan(canonical(genes[None], LAYOUT)[0])
    assert after.mask == before.mask
    for name, multiplier in before.multipliers.items():
        assert after.multipliers[name] == multiplier or 0.1 <= multiplier < 0.11


@given(seeds)
def test_features_tell_phenotypes_apart_and_nothing_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    genes, choices = random_individual(rng, LAYOUT)[None], np.asarray([[1, 0]])
    silent = genes.copy()
    frozen = [i for i in LAYOUT.importance if genes[0, i] <= genes[0, 3]]
    silent[0, frozen] *= 0.5
    same = features(silent, choices, N_OPTIONS, LAYOUT)
    np.testing.assert_array_equal(same, features(genes, choices, N_OPTIONS, LAYOUT))
    assert np.abs(same).max() <= 1.0
    chosen = features(genes, np.asarray([[2, 0]]), N_OPTIONS, LAYOUT)
    assert not np.array_equal(chosen, same)
    expressed = genes.copy()
    expressed[0, 0] = 0.9 * expressed[0, 0] + 0.05
    assert not np.array_equal(features(expressed, choices, N_OPTIONS, LAYOUT), same)


@given(seeds)
def test_children_of_two_are_selected_and_frozen_as_one_of_their_parents(seed: int) -> None:
    mates = group(seed)
    children = inherited(np.random.default_rng(seed), mates, 30, LAYOUT)
    blocks = list(LAYOUT.importance)
    for genes, choices, parents in zip(
        children.genes, children.choices, children.parents, strict=True
    ):
        first, second = (mates.genes[number] for number in parents)
        own, one, other = (selection(g[None], LAYOUT)[0, blocks] for g in (genes, first, second))
        assert np.all((own == one) | (own == other))
        assert own.any()
        both = one & other & own
        low = np.minimum(first[blocks], second[blocks])[both]
        high = np.maximum(first[blocks], second[blocks])[both]
        inner = genes[blocks][both]
        assert np.all((inner >= low - 1e-12) & (inner <= high + 1e-12))
        assert all(
            choice in (mates.choices[parents[0], i], mates.choices[parents[1], i])
            for i, choice in enumerate(choices)
        )


@given(seeds)
def test_mutants_are_valid_and_most_differ_from_their_parent(seed: int) -> None:
    parents = group(seed)
    children = mutated(np.random.default_rng(seed), parents, 40, N_OPTIONS, LAYOUT)
    assert np.all((children.genes >= 0.0) & (children.genes <= 1.0))
    assert selection(children.genes, LAYOUT)[:, list(LAYOUT.importance)].any(axis=1).all()
    assert np.all(children.choices < np.asarray(N_OPTIONS))
    changed = [
        not np.array_equal(genes, parents.genes[number])
        for genes, (number, _) in zip(children.genes, children.parents, strict=True)
    ]
    assert sum(changed) > 20


def test_mutation_flips_about_one_block_of_a_child() -> None:
    parents = group(0, 1)
    children = mutated(np.random.default_rng(0), parents, 4000, N_OPTIONS, LAYOUT)
    blocks = list(LAYOUT.importance)
    before = selection(parents.genes, LAYOUT)[0, blocks]
    flips = (selection(children.genes, LAYOUT)[:, blocks] != before).sum(axis=1)
    # Of six things that can change, four are blocks.
    assert 0.5 < flips.mean() < 0.8


def test_without_a_threshold_all_genes_are_ordinary() -> None:
    layout = GeneLayout(2)
    genes, none = np.asarray([[0.0, 1.0], [0.5, 0.25]]), np.zeros((2, 0), dtype=np.int64)
    np.testing.assert_array_equal(canonical(genes, layout), genes)
    np.testing.assert_array_equal(features(genes, none, (), layout), 2.0 * genes - 1.0)
    mates = Group(genes, none, np.zeros((2, 2), dtype=np.int64))
    assert len(inherited(np.random.default_rng(0), mates, 5, layout)) == 5
    assert len(mutated(np.random.default_rng(0), mates, 5, (), layout)) == 5


def test_a_threshold_without_importances_is_an_ordinary_gene() -> None:
    none = np.zeros((2, 0), dtype=np.int64)
    places = features(np.asarray([[0.0], [1.0]]), none, (), GeneLayout(1, (), 0))
    np.testing.assert_array_equal(places, [[-1.0], [1.0]])


def test_operators_leave_their_arguments_alone() -> None:
    parents = group(3)
    copies = parents.genes.copy(), parents.choices.copy()
    inherited(np.random.default_rng(0), parents, 9, LAYOUT)
    mutated(np.random.default_rng(0), parents, 9, N_OPTIONS, LAYOUT)
    canonical(parents.genes, LAYOUT)[:] = -1.0
    np.testing.assert_array_equal(parents.genes, copies[0])
    np.testing.assert_array_equal(parents.choices, copies[1])
