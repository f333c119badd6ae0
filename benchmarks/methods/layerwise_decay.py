"""Layer-wise learning-rate decay: each block slower than the one after it, by one factor."""

from __future__ import annotations

from collections.abc import Sequence

import optuna

from methods.method import Constants, Method, Stage, whole_training
from optuna_biotune import FineTuningPlan


def _stages(names: Sequence[str], constants: Constants, epochs: int) -> tuple[Stage, ...]:
    depths = range(len(names) - 1, -1, -1)
    rates = {name: constants["decay"] ** depth for name, depth in zip(names, depths, strict=True)}
    return whole_training(FineTuningPlan(rates), epochs)


def _suggest(trial: optuna.Trial, names: Sequence[str]) -> dict[str, float]:
    return {"decay": trial.suggest_float("decay", 0.3, 1.0)}


LAYERWISE_DECAY = Method(
    name="layer-wise decay",
    citation="Howard, Ruder, ACL 2018 (discriminative fine-tuning); Clark, Luong, Le, Manning, "
    "ELECTRA, ICLR 2020, whose decay of 0.8 is the default",
    stages=_stages,
    defaults={"decay": 0.8},
    suggest=_suggest,
)
