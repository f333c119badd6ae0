"""From what a network returns to gradients, in as many parts as the memory asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def main_logits(output: Any) -> Tensor:
    """Return the logits of the main head from what a network returned.

    Inception v3 and GoogLeNet return those of their auxiliary heads beside it in train mode:
    these never reach the loss.

    Raises:
        TypeError: If there is no tensor [N, C] first in the output.
    """
    main = getattr(output, "logits", output)
    if isinstance(main, (tuple, list)) and len(main) > 0:
        main = main[0]
    if not isinstance(main, Tensor) or main.ndim != 2:
        shown = tuple(main.shape) if isinstance(main, Tensor) else type(main).__name__
        raise TypeError(
            f"`model` must build a network that returns logits [N, C], but it returned {shown}."
        )
    return main


def accumulate_gradients(
    forward: Callable[[Tensor], Tensor], inputs: Tensor, labels: Tensor, parts: int
) -> Tensor:
    """Add the gradients of the batch's mean cross-entropy, computed part by part.

    The sum over the parts is the gradient of the whole batch; only what depends on other items
    of the batch differs, as the statistics of BatchNorm in train mode do.

    Args:
        forward: Inputs to logits [N, C].
        inputs: The batch, [N, ...].
        labels: Int64 [N].
        parts: Number of parts, 1 to N; more parts need less memory.

    Returns:
        The mean loss, without a graph.
    """
    total = torch.zeros((), device=labels.device)
    pairs = zip(inputs.tensor_split(parts), labels.tensor_split(parts), strict=True)
    for part_inputs, part_labels in pairs:
        logits = forward(part_inputs).float()
        loss = F.cross_entropy(logits, part_labels, reduction="sum") / len(labels)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total


def normalises_over_batch(model: nn.Module) -> bool:
    """Tell whether a BatchNorm layer of the network is in train mode."""
    return any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        for module in model.modules()
    )
