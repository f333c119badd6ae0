"""Split a network into the ordered blocks that a search freezes or trains."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from optuna_biotune.finetune.architectures import auxiliary_heads, known_blocks, timm_blocks
from optuna_biotune.finetune.automatic_blocks import automatic_blocks
from optuna_biotune.finetune.block_assignment import check_blocks, check_model, listed
from optuna_biotune.finetune.block_partition import BlockPartition
from optuna_biotune.finetune.module_names import below, covers, fewest_names, parameters_by_name

__all__ = ["BlockPartition", "partition_blocks"]


def partition_blocks(
    model: nn.Module,
    blocks: Mapping[str, Sequence[str]] | None = None,
    example_input: torch.Tensor | None = None,
) -> BlockPartition:
    """Split a network into an ordered list of blocks, input side first and head last.

    Without ``blocks``, torchvision's ResNet, DenseNet, VGG and Inception v3 have the blocks of the
    BioTune paper, timm's networks those of their own ``group_matcher``, and any other network
    blocks found from its modules, in the order in which a forward pass uses them. The auxiliary
    heads of torchvision's Inception v3 and GoogLeNet, and parameters that a forward pass in
    evaluation mode never uses, are in no block; see :attr:`BlockPartition.unused`.

    Args:
        model: The network. Unchanged: if a forward pass is needed, training flags, buffers and
            random states are put back after it.
        blocks: Block name to the names of its modules or parameters, as in
            ``model.named_modules()`` and ``model.named_parameters()``; ``"layer1"`` stands for
            everything below it. Every parameter must be in exactly one block (auxiliary heads may
            be left out). Blocks keep the order given here, which should be that of execution.
            Modules without parameters need not be named: an unnamed one joins the block
            registered before it, but a dropout right before the head joins the head.
        example_input: A batch as the network takes it, for the forward pass. None tries images
            (or vectors) of common sizes. Not used where the blocks are known without one.

    Returns:
        The partition, bound to ``model``.

    Raises:
        TypeError: If ``model`` is not a module, or ``blocks`` not a mapping of lists of names.
        ValueError: If the network has no parameters, uninitialized ones, or is wrapped for
            parallel training or compiled; if ``blocks`` names something unknown, something twice,
            or not everything; or if the forward pass fails.
    """
    check_model(model)
    if example_input is not None and not isinstance(example_input, torch.Tensor):
        raise TypeError(
            f"`example_input` must be a tensor, but got {type(example_input).__name__}."
        )
    known = check_blocks(blocks) if blocks is not None else known_blocks(model)
    if known is None:
        known = timm_blocks(model)
    heads = [head for names in auxiliary_heads(model).values() for head in names]
    if known is not None:
        named = [name for names in known.values() for name in names]
        unused = [
            parameter
            for head in heads
            for parameter in below(head, parameters_by_name(model))
            if not any(covers(name, parameter) for name in named)
        ]
        return BlockPartition(model, known, unused)
    found, idle = automatic_blocks(model, example_input)
    unexpected = [name for name in idle if not any(covers(head, name) for head in heads)]
    if unexpected:
        warnings.warn(
            "A forward pass in evaluation mode does not use these parameters, so they are in no "
            f"block and stay frozen: {listed(fewest_names(model, unexpected))}. Name them in "
            "`blocks` to train them.",
            stacklevel=2,
        )
    return BlockPartition(model, found, idle)
