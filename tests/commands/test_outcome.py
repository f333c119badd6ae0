from __future__ import annotations

import pytest

from optuna_biotune import FineTuningPlan, Recipe
from optuna_biotune.commands.outcome import rate_advice


def recipe(*multipliers: float) -> Recipe:
    names = [f"block{index}" for index in range(len(multipliers))]
    plan = FineTuningPlan(dict(zip(names, multipliers, strict=True)))
    return Recipe("resnet18", plan, {name: (name,) for name in names}, 1e-3, 8)


@pytest.mark.parametrize(
    ("multipliers", "end", "rate"),
    [((0.0, 10.0, 9.4, 2.0), "greatest", "0.003"), ((0.1, 0.0, 0.0), "least", "0.0003")],
)
def test_rates_at_an_end_of_their_range_ask_for_another_base_rate(
    multipliers: tuple[float, ...], end: str, rate: str
) -> None:
    advice = rate_advice(recipe(*multipliers))
    assert advice is not None
    assert f"the {end} that a plan has" in advice and f"--lr {rate} " in advice


@pytest.mark.parametrize("multipliers", [(1.0, 1.0), (10.0, 3.0), (0.1, 10.0), (0.0, 0.1, 8.0)])
def test_other_rates_need_none(multipliers: tuple[float, ...]) -> None:
    assert rate_advice(recipe(*multipliers)) is None
