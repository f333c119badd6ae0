"""Full fine-tuning: all blocks, at one learning rate."""

from __future__ import annotations

from collections.abc import Sequence

from methods.method import Constants, Method, Stage, whole_training
from optuna_biotune import FineTuningPlan


def _stages(names: Sequence[str], constants: Constants, epochs: int) -> tuple[Stage, ...]:
    return whole_training(FineTuningPlan.full(names), epochs)


FULL = Method(
    name="full fine-tuning",
    citation="Yosinski, Clune, Bengio, Lipson, How transferable are features in deep neural "
    "networks?, NeurIPS 2014",
    stages=_stages,
)
