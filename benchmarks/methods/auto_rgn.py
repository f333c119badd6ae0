"""AutoRGN: each layer's learning rate follows the relative norm of its gradient.

The rate of layer l is ``lr RGN_l / max_k RGN_k`` with ``RGN = ||gradient|| / ||weights||``, and is
computed anew for each epoch. A layer is a module with its weights and biases. The paper measures
gradients on batches of their own before the epoch; here they are the means over the epoch before,
which cost nothing, and in the first epoch those of its first batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from methods.method import Constants, Groups, Method, Stage, whole_training
from optuna_biotune import BlockPartition, FineTuningPlan


def relative_gradient_norm(parameters: Sequence[Tensor]) -> float:
    """Return the norm of the gradients of parameters, as one vector, divided by their own.

    Args:
        parameters: The parameters of a layer.

    Returns:
        0 for weights of zero, and without gradients.
    """
    norm = _norm([parameter.detach() for parameter in parameters])
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return _norm(gradients) / norm if gradients and norm > 0.0 else 0.0


def _norm(tensors: Sequence[Tensor]) -> float:
    """Return the norm of tensors as one vector."""
    return float(torch.stack([tensor.norm() for tensor in tensors]).norm())


def normalised(norms: Sequence[float]) -> list[float]:
    """Divide by the greatest; all 1 if that is 0."""
    greatest = max(norms)
    return [norm / greatest if greatest > 0.0 else 1.0 for norm in norms]


class RelativeGradientNorms:
    """Scales the learning rates of an optimizer's groups, each of one layer, step by step."""

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
        self._seen.append([relative_gradient_norm(group["params"]) for group in groups])
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


def _one_layer_each(groups: Groups, blocks: BlockPartition, constants: Constants) -> Groups:
    layer_of = {id(p): name.rpartition(".")[0] for name, p in blocks.model.named_parameters()}
    return [
        {**group, "params": list(layer)}
        for group in groups
        for _, layer in groupby(group["params"], key=lambda p: layer_of[id(p)])
    ]


AUTO_RGN = Method(
    name="AutoRGN",
    citation="Lee, Chen, Tajwar, Kumar, Yao, Liang, Finn, Surgical Fine-Tuning Improves "
    "Adaptation to Distribution Shifts, ICLR 2023",
    stages=_stages,
    groups=_one_layer_each,
    hook=RelativeGradientNorms,
)
