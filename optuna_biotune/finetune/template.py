"""A first network of the kind that is fine-tuned: its blocks and the width of its head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from optuna_biotune.finetune.data import LabelledImages
from optuna_biotune.finetune.device import RandomStream, autocast, one_out_of_memory_error
from optuna_biotune.finetune.gradients import main_logits
from optuna_biotune.finetune.partition import BlockPartition, partition_blocks


def build_template(
    build_model: Callable[[], nn.Module],
    blocks: Mapping[str, Sequence[str]] | None,
    data: LabelledImages,
    seed: int,
    device: torch.device,
    precision: str,
) -> tuple[BlockPartition, int]:
    """Build a network, run it on two images, and find its blocks.

    Args:
        build_model: Builds the network.
        blocks: The blocks as :func:`partition_blocks` takes them; None finds them.
        data: The images and labels that the network must be able to take.
        seed: Seed to build it under; the caller's random states are put back.
        device: Where to run it; it stays there.
        precision: ``"fp32"`` or ``"bf16"``.

    Returns:
        The partition of the network, and the number of outputs of its head.

    Raises:
        TypeError: If ``build_model`` does not return a network, or the network no logits [N, C].
        ValueError: If the network cannot take the images, has fewer outputs than there are
            classes, or cannot be partitioned.
    """
    with RandomStream(seed, device).active():
        model = build_model()
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must build a torch.nn.Module, but it returned {model!r}.")
    model.to(device).eval()
    example = data.take(torch.arange(min(2, len(data))), device)
    try:
        with one_out_of_memory_error(), torch.no_grad(), autocast(device, precision):
            output = model(example)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"The network that `model` builds cannot take images of size "
            f"{tuple(example.shape[1:])}: {error}"
        ) from error
    n_outputs = main_logits(output).shape[1]
    check_outputs(n_outputs, data.labels, "train")
    template = partition_blocks(model, blocks, example)
    return template, n_outputs


def check_outputs(n_outputs: int, labels: Tensor, name: str) -> None:
    """Check that a head has an output for every label.

    Args:
        n_outputs: Number of outputs.
        labels: Int64 [N], from 0.
        name: The argument that the labels were given in, for messages.

    Raises:
        ValueError: If a label is not below ``n_outputs``.
    """
    highest = int(labels.max())
    if highest >= n_outputs:
        raise ValueError(
            f"The head of the network that `model` builds gives {n_outputs} output(s), but the "
            f"labels of `{name}` go up to {highest} (index {int(labels.argmax())}): it needs "
            f"{highest + 1}."
        )
