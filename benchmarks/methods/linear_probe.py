"""Linear probe: the head alone."""

from __future__ import annotations

from collections.abc import Sequence

from methods.method import Constants, Method, Stage, whole_training
from optuna_biotune import FineTuningPlan


def _stages(names: Sequence[str], constants: Constants, epochs: int) -> tuple[Stage, ...]:
    return whole_training(FineTuningPlan.linear_probe(names), epochs)


LINEAR_PROBE = Method(
    name="linear probe",
    citation="Alain, Bengio, Understanding intermediate layers using linear classifier probes, "
    "ICLR workshops 2017",
    stages=_stages,
)
