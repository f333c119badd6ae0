"""Gradual unfreezing: the head first, and one more block from there down after each interval."""

from __future__ import annotations

from collections.abc import Sequence

import optuna

from methods.method import Constants, Method, Stage
from optuna_biotune import FineTuningPlan


def _stages(names: Sequence[str], constants: Constants, epochs: int) -> tuple[Stage, ...]:
    interval = constants["interval"]
    stages = []
    for n_blocks in range(1, len(names) + 1):
        left = epochs - (n_blocks - 1) * interval
        if left <= 0:
            break
        n_epochs = left if n_blocks == len(names) else min(interval, left)
        stages.append(Stage(FineTuningPlan.last_blocks(names, n_blocks), n_epochs))
    return tuple(stages)


def _suggest(trial: optuna.Trial, names: Sequence[str]) -> dict[str, int]:
    return {"interval": trial.suggest_int("interval", 1, 4)}


GRADUAL_UNFREEZING = Method(
    name="gradual unfreezing",
    citation="Howard, Ruder, Universal Language Model Fine-tuning for Text Classification, "
    "ACL 2018",
    stages=_stages,
    defaults={"interval": 1},
    suggest=_suggest,
)
