"""AutoRGN: each layer's learning rate follows the relative norm of its gradient.

The rate of layer l is ``lr RGN_l / max_k RGN_k`` with ``RGN = ||gradient|| / ||weights||``, a layer
being one tensor of parameters, and is computed anew for each epoch. The paper measures gradients on
batches of their own before the epoch; here they are the means over the epoch before, which cost
nothing, and in the first epoch those of its first batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.method import Constants, Groups, Method, Stage, whole_training
from optuna_biotune import FineTuningPlan


def relative_gradient_norm(parameter: Tensor) -> float:
    """Return the norm of a parameter's gradient divided by its own.

    Args:
        parameter: A parameter.

    Returns:
        0 for weights of zero, and without a gradient.
    """
    norm = float(parameter.detach().norm())
    if parameter.grad is None or norm == 0.0:
        return 0.0
    return float(parameter.grad.norm()) / norm


def normalised(norms: Sequence[float]) -> list[float]:
    """Divide by the greatest; all 1 if that is 0."""
    greatest = max(norms)
    return [norm / greatest if greatest > 0.0 else 1.0 for norm in norms]


class RelativeGradientNorms:
    """Scales the learning rates of an optimizer's groups, each of one tensor, step by step."""

    def __init__(self) -> None:
        self._seen: list[list[float]] = []
        self._rates: list[float] = []
        self._given: list[float] = []

    @property
    def rates(self) -> list[float]:
        """The multiple of the learning rate of each group in this epoch, from 0 to 1."""
        return self._rates

    def begin_epoch(self) -> None:
        """Compute the rates from all steps since the last call."""
        if self._seen:
            self._rates = normalised([sum(norms) for norms in zip(*self._seen, strict=True)])
        self._seen = []

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Measure the gradients, and scale the learning rates for this step."""
        groups = optimizer.param_groups
        self._seen.append([relative_gradient_norm(group["params"][0]) for group in groups])
        if not self._rates:
            self._rates = normalised(self._seen[0])
        self._given = [group["lr"] for group in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] *= rate

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Put the learning rates back for the schedule."""
        for group, lr in zip(optimizer.param_groups, self._given, strict=True):
            group["lr"] = lr


def _stages(names: Sequence[str], constants: Constants, epochs: int) -> tuple[Stage, ...]:
    return whole_training(FineTuningPlan.full(names), epochs)


def _one_tensor_each(groups: Groups, names: Sequence[str], constants: Constants) -> Groups:
    return [{**group, "params": [p]} for group in groups for p in group["params"]]


AUTO_RGN = Method(
    name="AutoRGN",
    citation="Lee, Chen, Tajwar, Kumar, Yao, Liang, Finn, Surgical Fine-Tuning Improves "
    "Adaptation to Distribution Shifts, ICLR 2023",
    stages=_stages,
    groups=_one_tensor_each,
    hook=RelativeGradientNorms,
)
