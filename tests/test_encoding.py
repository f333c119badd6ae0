from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from optuna_biotune import _compat
from optuna_biotune.encoding import Encoding

UNIT = FloatDistribution(0.0, 1.0)
PLAN_SPACE: dict[str, BaseDistribution] = {
    "importance/stem": UNIT,
    "importance/fc": UNIT,
    "freeze_threshold": UNIT,
}
MIXED_SPACE: dict[str, BaseDistribution] = {
    **PLAN_SPACE,
    "weight_decay": FloatDistribution(1e-6, 1e-1, log=True),
    "dropout": FloatDistribution(0.0, 0.5, step=0.1),
    "batch_size": IntDistribution(8, 128, log=True),
    "epochs": IntDistribution(3, 9, step=2),
    "optimizer": CategoricalDistribution(["adam", "sgd", None]),
}


def test_blocks_and_threshold_are_told_from_further_parameters() -> None:
    encoding = Encoding(MIXED_SPACE)
    # Sorted: batch_size, dropout, epochs, freeze_threshold, importance/fc, importance/stem, ...
    assert encoding.layout.n_genes == 7
    assert encoding.layout.threshold == 3
    assert encoding.layout.importance == (4, 5)
    assert encoding.n_choices == 1


def test_a_parameter_with_a_plans_name_but_another_range_is_an_ordinary_gene() -> None:
    layout = Encoding({"importance/stem": FloatDistribution(0.0, 2.0)}).layout
    assert layout.importance == () and layout.threshold is None


@given(st.integers(0, 2**32 - 1))
def test_decoded_parameters_lie_in_their_distributions_with_pythons_types(seed: int) -> None:
    encoding = Encoding(MIXED_SPACE)
    params = encoding.decode(*encoding.random(np.random.default_rng(seed)))
    assert params.keys() == MIXED_SPACE.keys()
    for name, distribution in MIXED_SPACE.items():
        assert _compat.contains(distribution, params[name])
    assert type(params["batch_size"]) is int and type(params["epochs"]) is int
    assert type(params["weight_decay"]) is float and type(params["importance/fc"]) is float


@given(st.integers(0, 2**32 - 1))
def test_encoding_inverts_decoding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    encoding = Encoding(MIXED_SPACE)
    params = encoding.decode(*encoding.random(rng))
    again = encoding.decode(*encoding.encode(params, rng))
    assert {k: v for k, v in again.items() if not isinstance(v, float)} == {
        k: v for k, v in params.items() if not isinstance(v, float)
    }
    for name in ("importance/stem", "importance/fc", "freeze_threshold"):
        assert again[name] == params[name], "a plan's genes are kept to the last bit"
    assert again["weight_decay"] == pytest.approx(params["weight_decay"])


@pytest.mark.parametrize("bound", [0.0, 1.0])
def test_genes_at_the_bounds_decode_into_range(bound: float) -> None:
    encoding = Encoding(MIXED_SPACE)
    params = encoding.decode(np.full(7, bound), np.array([2]))
    for name, distribution in MIXED_SPACE.items():
        assert _compat.contains(distribution, params[name])
    assert params["importance/fc"] == bound


@pytest.mark.parametrize(
    "params",
    [
        {"importance/stem": 0.3},
        {"importance/stem": 0.3, "importance/fc": 7.0, "freeze_threshold": 0.1},
        {"importance/stem": 0.3, "importance/fc": "x", "freeze_threshold": 0.1},
    ],
)
def test_what_a_trial_lacks_is_filled_in_at_random(params: dict[str, Any]) -> None:
    encoding = Encoding(PLAN_SPACE)
    genes, _ = encoding.encode(params, np.random.default_rng(0))
    assert genes.shape == (3,) and np.all((genes >= 0.0) & (genes <= 1.0))
    assert genes[2] == 0.3
    other, _ = encoding.encode(params, np.random.default_rng(1))
    assert other[1] != genes[1]


def test_phenotypes_ignore_what_expresses_nothing() -> None:
    encoding = Encoding(PLAN_SPACE)
    plan = {"importance/stem": 0.2, "importance/fc": 0.8, "freeze_threshold": 0.5}
    silent = {"importance/stem": 0.1, "importance/fc": 0.8, "freeze_threshold": 0.4}
    thawed = {"importance/stem": 0.2, "importance/fc": 0.8, "freeze_threshold": 0.1}
    faster = {"importance/stem": 0.2, "importance/fc": 0.9, "freeze_threshold": 0.5}
    assert encoding.phenotype(plan) == encoding.phenotype(silent)
    assert encoding.phenotype(plan) != encoding.phenotype(thawed)
    assert encoding.phenotype(plan) != encoding.phenotype(faster)


def test_the_empty_space_has_the_empty_individual() -> None:
    encoding = Encoding({})
    assert encoding.is_empty
    assert encoding.decode(*encoding.random(np.random.default_rng(0))) == {}


def test_choices_may_be_lists() -> None:
    space = {"sizes": CategoricalDistribution([[1], [2]])}  # type: ignore[list-item]
    encoding = Encoding(space)
    phenotypes = {encoding.phenotype({"sizes": sizes}) for sizes in ([1], [2], [1])}
    assert len(phenotypes) == 2
