"""When the modules and parameters of a network are first used in a forward pass.

The order in which modules are registered is not always the order in which they run, and some
modules never run as such: attention layers read the weight of their output projection directly.
So one forward pass is watched, the calls of modules as well as the uses of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# Small images first, they cost least; then what networks with a fixed input size take.
_IMAGE_SIZES = (64, 224, 299, 32, 28, 96, 128, 160, 192, 256, 384, 512)
_IMAGE_CHANNELS = (3, 1)
# Two images: a network that squeezes its output fails on a batch of one.
_BATCH_SIZE = 2


class _FirstUses(TorchFunctionMode):
    """Report each parameter when an operation first computes a tensor from it."""

    def __init__(self, names: Mapping[int, Sequence[str]], report: Callable[[str], None]) -> None:
        super().__init__()
        self._names = names
        self._report = report

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # Reading the shape or the device of a parameter is not a use of it.
        if any(True for _ in _tensors(result)):
            for tensor in _tensors([args, kwargs]):
                for name in self._names.get(id(tensor), ()):
                    self._report(name)
        return result


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in nested lists, tuples and dictionaries."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def record_execution(model: nn.Module, example_input: torch.Tensor | None = None) -> dict[str, int]:
    """Run the network once and record when each module and parameter is first used.

    The pass runs in evaluation mode without gradients. Training flags, buffers and the states of
    PyTorch's random generators are put back afterwards, and the hooks are removed.

    Args:
        model: The network.
        example_input: A batch as the network takes it. None tries images of several sizes, with
            the channels of its first convolution, 3 and 1, or vectors if it has no convolution.

    Returns:
        Name of each module and parameter that is used to a rank: lower is earlier. A tied
        parameter and a shared module appear under each of their names.

    Raises:
        ValueError: If the forward pass fails with ``example_input``, or, when there is none, with
            every default.
    """
    if example_input is not None:
        device = next(model.parameters()).device
        try:
            return _record(model, example_input.to(device))
        except Exception as error:
            raise ValueError(
                f"`example_input` must be a batch that the model takes, but with the one of shape "
                f"{tuple(example_input.shape)} and type {example_input.dtype} its forward pass "
                f"raised {type(error).__name__}: {error}"
            ) from error
    first_error: Exception | None = None
    for batch in _default_inputs(model):
        try:
            return _record(model, batch)
        except Exception as error:
            first_error = first_error or error
    reason = f" The first attempt raised {type(first_error).__name__}: {first_error}"
    raise ValueError(
        "`example_input` is needed: the blocks are ordered by one forward pass, and the model "
        f"took none of the default inputs.{reason if first_error else ''}"
    ) from first_error


def _default_inputs(model: nn.Module) -> Iterator[torch.Tensor]:
    """Yield batches of zeros that the network might take, likely ones first."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None:
        own = getattr(model, "image_size", None)
        sizes = (own, *_IMAGE_SIZES) if isinstance(own, int) else _IMAGE_SIZES
        # The convolution registered first is not always the first to run.
        for channels in dict.fromkeys((first.in_channels, *_IMAGE_CHANNELS)):
            for size in dict.fromkeys(sizes):
                yield first.weight.new_zeros(_BATCH_SIZE, channels, size, size)
    else:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                yield module.weight.new_zeros(_BATCH_SIZE, module.in_features)


def _record(model: nn.Module, batch: torch.Tensor) -> dict[str, int]:
    """Run one forward pass and return the rank of each first use."""
    ranks: dict[str, int] = {}

    def report(name: str) -> None:
        ranks.setdefault(name, len(ranks))

    parameter_names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameter_names.setdefault(id(parameter), []).append(name)
    handles = [
        module.register_forward_pre_hook(lambda _module, _input, name=name: report(name))
        for name, module in model.named_modules(remove_duplicate=False)
    ]
    try:
        with left_as_found(model), torch.no_grad(), _FirstUses(parameter_names, report):
            model.eval()
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return ranks


@contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """Put training flags, buffers and PyTorch's random states back at the end."""
    training = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(device for device in devices if device is not None)):
        try:
            yield
        finally:
            for module, flag in training:
                module.training = flag
            for module, name, buffer, value in buffers:
                # A view may be read-only; it is written to only if the pass changed it.
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
                setattr(module, name, buffer)
