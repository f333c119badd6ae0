"""Try a split network: its parts, one after another, must act like the whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from optuna_biotune.finetune.block_partition import BlockPartition, same_bits
from optuna_biotune.finetune.device import (
    RandomStream,
    autocast,
    random_state,
    same_random_state,
)
from optuna_biotune.finetune.execution_order import left_as_found
from optuna_biotune.finetune.gradients import main_logits
from optuna_biotune.finetune.network_split import CannotCutError, NetworkSplit
from optuna_biotune.genotype import FineTuningPlan

# On CUDA and in bfloat16: greatest difference, as a share of the greatest value.
_TOLERANCE = 0.05


def check_split(
    blocks: BlockPartition,
    plan: FineTuningPlan,
    split: NetworkSplit,
    example: Tensor,
    device: torch.device,
    precision: str,
) -> None:
    """Check that what a network's first part makes of an image can be kept, and be gone on from.

    Args:
        blocks: The partition of the network, which stays as it is.
        plan: The plan that it was split for.
        split: How it is split.
        example: Two images as the network takes them, on its device.
        device: Where the network is.
        precision: ``"fp32"`` or ``"bf16"``.

    Raises:
        CannotCutError: If the first part is random or mixes the images of a batch, or if both
            parts compute another thing than the whole: on the CPU in float32 by a single bit.
    """
    exact = device.type == "cpu" and precision == "fp32"
    with left_as_found(blocks.model):
        values = _first_values(blocks.model, split, example, device, precision, exact)
        for training in (True, False):
            rest = split.rest_in_training if training else split.rest_in_evaluation
            outputs = []
            for function, inputs in ((nn.Module.__call__, example), (rest, values)):
                with (
                    left_as_found(blocks.model),
                    RandomStream(0, device).active(),
                    torch.no_grad(),
                    autocast(device, precision),
                ):
                    blocks.model.eval()
                    if training:
                        blocks.train(plan)
                    outputs.append(main_logits(function(blocks.model, inputs.clone())))
            if not _same(outputs[0], outputs[1], exact):
                raise CannotCutError("in two parts it does not compute the same as whole")


def _first_values(
    model: nn.Module,
    split: NetworkSplit,
    example: Tensor,
    device: torch.device,
    precision: str,
    exact: bool,
) -> Tensor:
    """Return what the first part makes of the example, if that depends on nothing else."""
    model.eval()
    cuda = [device] if device.type == "cuda" else []
    before = random_state(cuda)
    with torch.no_grad(), autocast(device, precision):
        values = split.first(model, example.clone())
        if not isinstance(values, Tensor) or len(values) != len(example):
            raise CannotCutError("what its frozen blocks return is no tensor of a batch")
        # Another batch with the same first image.
        other = split.first(model, torch.cat([example[:1], example[1:] * 0.5 + 1.0]))
    if not same_random_state(before, random_state(cuda)):
        raise CannotCutError("its frozen blocks draw random numbers")
    if not _same(values[:1], other[:1], exact):
        raise CannotCutError("its frozen blocks mix the images of a batch")
    return values


def _same(one: Tensor, other: Tensor, exact: bool) -> bool:
    """Tell whether two results are equal, to the last bit if that can be expected."""
    if exact:
        return same_bits(one, other)
    scale = float(one.float().abs().max())
    return torch.allclose(one.float(), other.float(), rtol=0.0, atol=_TOLERANCE * scale)
