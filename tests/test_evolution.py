from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from optuna_biotune import evolution
from optuna_biotune.evolution import FloatArray, GeneLayout

unit = st.floats(0.0, 1.0)
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 16)


def plan_layout(n_blocks: int, n_further: int = 0) -> GeneLayout:
    return GeneLayout(
        n_blocks + 1 + n_further, importance=tuple(range(1, n_blocks + 1)), threshold=0
    )


@st.composite
def valid_individuals(draw: st.DrawFn) -> tuple[FloatArray, GeneLayout]:
    layout = plan_layout(draw(st.integers(1, 10)), draw(st.integers(0, 2)))
    genes = draw(arrays(np.float64, layout.n_genes, elements=unit))
    assume(evolution.selects_a_block(genes, layout))
    return genes, layout


@given(seeds, sizes)
def test_random_individuals_are_valid_and_in_bounds(seed: int, n_blocks: int) -> None:
    layout = plan_layout(n_blocks)
    genes = evolution.random_individual(np.random.default_rng(seed), layout)
    assert genes.shape == (n_blocks + 1,)
    assert genes.min() >= 0.0 and genes.max() <= 1.0
    assert evolution.selects_a_block(genes, layout)


def test_random_individuals_are_uniform_among_the_valid_ones() -> None:
    rng = np.random.default_rng(0)
    layout = plan_layout(1)
    drawn = np.array([evolution.random_individual(rng, layout) for _ in range(4000)])
    # Uniform on importance > threshold: the means of the greater and the lesser of two uniforms.
    np.testing.assert_allclose(drawn.mean(axis=0), [1 / 3, 2 / 3], atol=0.02)


def test_genotypes_without_a_plan_are_always_valid() -> None:
    assert evolution.selects_a_block(np.zeros(3), GeneLayout(3))
    assert evolution.selects_a_block(np.zeros(3), GeneLayout(3, importance=(0, 1)))
    assert not evolution.selects_a_block(np.zeros(3), plan_layout(2))


@given(valid_individuals(), seeds, st.floats(0.01, 1.0))
def test_an_elites_pair_changes_one_exploitable_gene_to_both_sides(
    individual: tuple[FloatArray, GeneLayout], seed: int, step: float
) -> None:
    genes, layout = individual
    before = genes.copy()
    pair = evolution.elite_pair(np.random.default_rng(seed), genes, layout, step)
    assert pair is not None
    np.testing.assert_array_equal(genes, before)
    changed = {int(i) for half in pair for i in np.flatnonzero(half != genes)}
    assert len(changed) <= 1
    assert changed <= set(evolution.exploitable_genes(genes, layout))
    for half in pair:
        assert half.min() >= 0.0 and half.max() <= 1.0
        assert np.abs(half - genes).max() <= step
        assert evolution.selects_a_block(half, layout)
    for index in changed:
        up, down = pair[0][index] - genes[index], pair[1][index] - genes[index]
        assert up * down <= 0.0, "the halves lie on the same side"
        if min(pair[0][index], pair[1][index]) > 0.0 and max(pair[0][index], pair[1][index]) < 1.0:
            assert up == pytest.approx(-down, abs=1e-12)


@given(valid_individuals(), seeds)
def test_equal_generators_give_equal_pairs(
    individual: tuple[FloatArray, GeneLayout], seed: int
) -> None:
    genes, layout = individual
    pairs = [
        evolution.elite_pair(np.random.default_rng(seed), genes, layout, 0.25) for _ in range(2)
    ]
    np.testing.assert_array_equal(pairs[0], pairs[1])


@given(valid_individuals())
def test_neither_the_threshold_nor_a_frozen_block_is_exploited(
    individual: tuple[FloatArray, GeneLayout],
) -> None:
    genes, layout = individual
    exploitable = evolution.exploitable_genes(genes, layout)
    for index in range(layout.n_genes):
        frozen = index in layout.importance and genes[index] <= genes[0]
        assert (index in exploitable) == (index != 0 and not frozen)


def test_an_elite_without_genes_has_no_pair() -> None:
    rng = np.random.default_rng(0)
    assert evolution.elite_pair(rng, np.zeros(0), GeneLayout(0), 0.25) is None


def test_rank_weights_fall_from_the_pool_size_to_one() -> None:
    assert evolution.rank_weights(4).tolist() == [4.0, 3.0, 2.0, 1.0]


@given(seeds, st.integers(2, 12))
def test_parents_are_distinct_members_of_the_pool(seed: int, pool_size: int) -> None:
    mates = evolution.draw_mates(np.random.default_rng(seed), pool_size)
    assert mates.first != mates.second
    assert {mates.first, mates.second, mates.prototype} <= set(range(pool_size))


def test_mates_are_drawn_in_proportion_to_their_rank_weights() -> None:
    rng = np.random.default_rng(0)
    mates = [evolution.draw_mates(rng, 4) for _ in range(20_000)]
    share = np.array([4, 3, 2, 1]) / 10
    firsts = np.bincount([m.first for m in mates], minlength=4) / len(mates)
    prototypes = np.bincount([m.prototype for m in mates], minlength=4) / len(mates)
    seconds = np.bincount([m.second for m in mates], minlength=4) / len(mates)
    expected = [
        sum(share[j] * share[i] / (1 - share[j]) for j in range(4) if j != i) for i in range(4)
    ]
    np.testing.assert_allclose(firsts, share, atol=0.015)
    np.testing.assert_allclose(prototypes, share, atol=0.015)
    np.testing.assert_allclose(seconds, expected, atol=0.015)


@given(seeds, sizes)
def test_crossover_stays_between_the_parents(seed: int, n_genes: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, n_genes))
    child = evolution.crossover(rng, first, second)
    assert np.all(child >= np.minimum(first, second) - 1e-12)
    assert np.all(child <= np.maximum(first, second) + 1e-12)


@given(unit, st.integers(1, 30))
def test_the_mutation_rate_runs_from_one_gene_to_all(extinction: float, n_genes: int) -> None:
    rate = evolution.mutation_rate(extinction, n_genes)
    assert 1 / n_genes - 1e-12 <= rate <= 1.0 + 1e-12
    assert evolution.mutation_rate(0.0, n_genes) == pytest.approx(1 / n_genes)
    assert evolution.mutation_rate(1.0, n_genes) == pytest.approx(1.0)


@given(seeds, sizes, unit)
def test_mutation_moves_a_gene_by_no_more_than_the_extinction_factor(
    seed: int, n_genes: int, extinction: float
) -> None:
    rng = np.random.default_rng(seed)
    genes = rng.random((n_genes,))
    assert np.abs(evolution.mutate(rng, genes, extinction) - genes).max() <= extinction


def test_at_extinction_zero_nothing_mutates_and_at_one_everything() -> None:
    rng = np.random.default_rng(0)
    genes = rng.random((50,))
    np.testing.assert_array_equal(evolution.mutate(rng, genes, 0.0), genes)
    assert np.all(evolution.mutate(rng, genes, 1.0) != genes)


@given(seeds, sizes)
def test_adoption_stays_in_the_hull_of_child_parents_and_prototype(seed: int, n_genes: int) -> None:
    rng = np.random.default_rng(seed)
    genes, mean, prototype = rng.random((3, n_genes))
    adopted = evolution.adopt(rng, genes, mean, prototype)
    hull = np.stack([genes, mean, prototype])
    assert np.all(adopted >= hull.min(axis=0) - 1e-12)
    assert np.all(adopted <= hull.max(axis=0) + 1e-12)


@given(seeds, sizes, unit, st.booleans())
def test_offspring_stay_in_bounds(
    seed: int, n_genes: int, extinction: float, with_momentum: bool
) -> None:
    rng = np.random.default_rng(seed)
    first, second, prototype = rng.random((3, n_genes))
    drift = rng.random((n_genes,)) if with_momentum else None
    child = evolution.offspring(rng, first, second, prototype, extinction, drift)
    assert child.shape == (n_genes,)
    assert child.min() >= 0.0 and child.max() <= 1.0


def test_without_momentum_no_number_is_drawn_for_it() -> None:
    genes = np.random.default_rng(1).random((3, 4))
    rng, other = np.random.default_rng(0), np.random.default_rng(0)
    evolution.offspring(rng, genes[0], genes[1], genes[2], 0.5)
    # Crossover 4, mutation 4 + 4, adoption 3.
    other.random((15,))
    assert rng.random() == other.random()


@given(seeds, sizes)
def test_offspring_for_several_objectives_take_each_gene_from_a_parent(
    seed: int, n_genes: int
) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, n_genes))
    child = evolution.front_offspring(rng, first, second, extinction=0.0)
    assert np.all((child == first) | (child == second))
    mutant = evolution.front_offspring(rng, first, second, extinction=1.0)
    assert mutant.min() >= 0.0 and mutant.max() <= 1.0


@given(seeds, sizes)
def test_choices_are_inherited_from_a_parent(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 5, (2, size))
    child = evolution.inherit_choices(rng, first, second)
    assert np.all((child == first) | (child == second))


@given(st.lists(unit, min_size=2, max_size=12).map(sorted))
def test_extinction_factors_follow_the_formula(fitness: list[float]) -> None:
    assume(fitness[-1] > 1e-6)
    n = len(fitness)
    expected = [
        (phi + fitness[0] * (i / (n - 1) - 1.0)) / fitness[-1] for i, phi in enumerate(fitness)
    ]
    np.testing.assert_allclose(evolution.extinction_factors(fitness), expected, atol=1e-12)


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=12).map(sorted))
def test_extinction_factors_are_ordered_in_bounds_whatever_the_fitness(
    fitness: list[float],
) -> None:
    factors = evolution.extinction_factors(fitness)
    assert factors[0] == 0.0
    assert np.all(np.diff(factors) >= -1e-12)
    assert factors.min() >= 0.0 and factors.max() <= 1.0
    assert not any(math.isnan(x) for x in factors)


def test_a_constant_fitness_gives_extinction_by_rank() -> None:
    np.testing.assert_allclose(evolution.extinction_factors([0.4] * 5), [0.0, 0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize(("size", "exhausted"), [(0, True), (1, True), (2, True), (3, False)])
def test_a_pool_of_two_or_fewer_is_exhausted(size: int, exhausted: bool) -> None:
    assert evolution.pool_is_exhausted(size) is exhausted
