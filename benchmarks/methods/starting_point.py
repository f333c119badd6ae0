"""L1-SP and L2-SP: all blocks, with a penalty on the distance from the pre-trained weights.

The body ``w``, pre-trained as ``w0``, is penalised by ``alpha / 2 ||w - w0||_2^2`` (L2-SP) or
``alpha ||w - w0||_1`` (L1-SP), and the new head ``v`` by ``beta / 2 ||v||_2^2``, which is the
weight decay of its parameter group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import optuna
import torch
from torch import Tensor

from methods.method import Constants, Groups, Method, Stage, whole_training
from optuna_biotune import BlockPartition, FineTuningPlan

_CITATION = (
    "Li, Grandvalet, Davoine, Explicit Inductive Bias for Transfer Learning with Convolutional "
    "Networks, ICML 2018"
)


def _differences(blocks: BlockPartition) -> Callable[[], list[Tensor]]:
    """Return a function that gives the differences of the body from what it is now."""
    body = [p for name in blocks.names[:-1] for p in blocks.parameters(name)]
    start = [parameter.detach().clone() for parameter in body]
    return lambda: [now - before for now, before in zip(body, start, strict=True)]


def squared_distance(blocks: BlockPartition, constants: Constants) -> Callable[[], Tensor]:
    """Return the penalty of L2-SP on a network's body, all blocks but the last.

    Args:
        blocks: The blocks of the pre-trained network.
        constants: With ``alpha``.
    """
    differences = _differences(blocks)
    return lambda: (
        0.5 * constants["alpha"] * torch.stack([d.square().sum() for d in differences()]).sum()
    )


def absolute_distance(blocks: BlockPartition, constants: Constants) -> Callable[[], Tensor]:
    """Return the penalty of L1-SP on a network's body, all blocks but the last.

    Args:
        blocks: The blocks of the pre-trained network.
        constants: With ``alpha``.
    """
    differences = _differences(blocks)
    return lambda: constants["alpha"] * torch.stack([d.abs().sum() for d in differences()]).sum()


def _stages(names: Sequence[str], constants: Constants, epochs: int) -> tuple[Stage, ...]:
    return whole_training(FineTuningPlan.full(names), epochs)


def _head_decays(groups: Groups, blocks: BlockPartition, constants: Constants) -> Groups:
    """Leave weight decay to the head."""
    return [
        group if group["name"] == blocks.names[-1] else {**group, "weight_decay": 0.0}
        for group in groups
    ]


def _suggest(trial: optuna.Trial, names: Sequence[str]) -> dict[str, float]:
    return {"alpha": trial.suggest_float("alpha", 1e-5, 1.0, log=True)}


# The paper's beta, which is no weight decay of the whole network here, is 0.01 throughout. It
# chooses alpha by cross-validation; where nothing is tuned we take a tenth, and for L1-SP, whose
# penalty does not vanish near the start, a thousandth.
L2_SP = Method(
    name="L2-SP",
    citation=_CITATION,
    stages=_stages,
    defaults={"alpha": 0.1, "weight_decay": 0.01},
    suggest=_suggest,
    groups=_head_decays,
    penalty=squared_distance,
)

L1_SP = Method(
    name="L1-SP",
    citation=_CITATION,
    stages=_stages,
    defaults={"alpha": 0.001, "weight_decay": 0.01},
    suggest=_suggest,
    groups=_head_decays,
    penalty=absolute_distance,
)
