"""LP-FT: the head alone first, then all blocks, so that a random head spoils no features."""

from __future__ import annotations

from collections.abc import Sequence

import optuna

from methods.method import Constants, Method, Stage, whole_training
from optuna_biotune import FineTuningPlan


def _stages(names: Sequence[str], constants: Constants, epochs: int) -> tuple[Stage, ...]:
    probe = FineTuningPlan.linear_probe(names)
    full = {name: constants["full_rate"] for name in names}
    if epochs == 1:
        return whole_training(probe, epochs)
    n_probe = min(max(1, round(constants["probe_share"] * epochs)), epochs - 1)
    return Stage(probe, n_probe), Stage(FineTuningPlan(full), epochs - n_probe, restart=True)


def _suggest(trial: optuna.Trial, names: Sequence[str]) -> dict[str, float]:
    return {
        "probe_share": trial.suggest_float("probe_share", 0.25, 0.75),
        "full_rate": trial.suggest_float("full_rate", 0.01, 1.0, log=True),
    }


PROBE_THEN_FULL = Method(
    name="LP-FT",
    citation="Kumar, Raghunathan, Jones, Ma, Liang, Fine-Tuning can Distort Pretrained Features "
    "and Underperform Out-of-Distribution, ICLR 2022",
    stages=_stages,
    # Half of the epochs each. The rate of the second stage is a multiple of the first one's.
    defaults={"probe_share": 0.5, "full_rate": 1.0},
    suggest=_suggest,
)
