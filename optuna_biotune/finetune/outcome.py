"""What a trial came to, and how it is written into the trial's attributes and the log."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from optuna.trial import BaseTrial

_logger = logging.getLogger("optuna_biotune")


def standard_deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of a sample, 0.0 for one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


@dataclass
class TrialOutcome:
    """What a trial came to.

    Attributes:
        value: What the trial returns.
        pruned: Whether it was pruned.
        failure: Why it could not be measured, in a sentence.
        measured: Best value and best epoch of each seed that was validated at least once.
        seconds: How long it took.
        flops_per_image: Floating-point operations of training on one image, if they are known.
        measurements: Further attributes of the trial, see ``Telemetry.attributes``.
    """

    value: float
    pruned: bool = False
    failure: str | None = None
    measured: list[tuple[float, int]] | None = None
    seconds: float = 0.0
    flops_per_image: float | None = None
    measurements: dict[str, float] = field(default_factory=dict)

    def describe(self, trial: BaseTrial) -> None:
        """Write the outcome into the trial's attributes, and a line into the log."""
        trial.set_user_attr("seconds", round(self.seconds, 3))
        for name, value in self.measurements.items():
            trial.set_user_attr(name, value)
        if self.measured:
            values, epochs = zip(*self.measured, strict=True)
            trial.set_user_attr("best_epoch", statistics.fmean(epochs))
            trial.set_user_attr("val_std", standard_deviation(values))
        if self.failure is not None:
            trial.set_user_attr("failure", self.failure)
            _logger.warning("Trial %d: %s", trial.number, self.failure)
            return
        _logger.info(
            "Trial %d: %.4f in %.1f s%s, blocks %s%s.",
            trial.number,
            self.value,
            self.seconds,
            self._shown_measurements(),
            trial.user_attrs["mask"],
            ", pruned" if self.pruned else "",
        )

    def _shown_measurements(self) -> str:
        """Return where the time went, for the log."""
        phases = {
            name.partition("/")[2]: value
            for name, value in self.measurements.items()
            if name.startswith("seconds/")
        }
        if not phases:
            return ""
        shown = [f"{name} {value:.1f}" for name, value in phases.items()]
        speed = self.measurements.get("images_per_second", 0.0)
        memory = self.measurements["memory_mib"]
        return f" ({', '.join(shown)}; {speed:.0f} images/s, {memory:.0f} MiB)"
