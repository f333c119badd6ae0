"""Where and how precisely to compute, and the random numbers of one seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from optuna_biotune.finetune.host_memory import available_memory

PRECISIONS = ("auto", "fp32", "bf16")

# What errors say that are no torch.OutOfMemoryError: of CUDA itself, its libraries, and the CPU.
_OUT_OF_MEMORY = ("out of memory", "_STATUS_ALLOC_FAILED", "can't allocate memory")


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device that an argument ``device`` means.

    Args:
        device: ``"auto"`` (CUDA if there is a device, else the CPU), or a torch device.

    Raises:
        ValueError: If it names no device, or one that is not available.
    """
    if device == "auto":
        return _with_index(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f'`device` must be "auto" or a torch device such as "cuda:0", but got {device!r}.'
        ) from error
    n_devices = torch.cuda.device_count()
    if resolved.type == "cuda" and (resolved.index or 0) >= n_devices:
        raise ValueError(
            f"`device` is {device!r}, but torch sees {n_devices} CUDA device(s) on this machine."
        )
    try:
        torch.zeros(1, device=resolved).item()
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"`device` {device!r} cannot be used by torch on this machine: give another one, or "
            '"auto".'
        ) from error
    return _with_index(resolved)


def _with_index(device: torch.device) -> torch.device:
    """Return the device with the number of the current one, if it is a CUDA device without."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return ``"fp32"`` or ``"bf16"``.

    Args:
        precision: ``"auto"`` is bfloat16 on CUDA devices that compute in it, else float32.
        device: Where the network runs.

    Raises:
        ValueError: If the name is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {PRECISIONS}, but got {precision!r}.")
    if precision != "auto":
        return precision
    if device.type != "cuda":
        return "fp32"
    with torch.cuda.device(device):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the context of the forward pass: autocast to bfloat16, or nothing for float32."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def default_cache_bytes(device: torch.device) -> int:
    """Return a quarter of the memory that is free, of the device or of the machine.

    Args:
        device: Where the networks run.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] // 4)
    return available_memory() // 4


def free_memory(device: torch.device) -> None:
    """Give memory that is no longer used back to the device.

    Args:
        device: The device; nothing happens on a CPU.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.empty_cache()


@contextmanager
def one_out_of_memory_error() -> Iterator[None]:
    """Raise ``torch.OutOfMemoryError`` inside the block for every way to run out of memory."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise torch.OutOfMemoryError(str(error)) from error
        raise


def float32_settings() -> tuple[str | bool | None, ...]:
    """Return torch's settings that change what float32 gives on CUDA; None where not readable.

    There are two interfaces to them. Once a program has used the newer, to read the older fails.
    """
    readers: tuple[Callable[[], str | bool], ...] = (
        torch.get_float32_matmul_precision,
        lambda: torch.backends.cudnn.allow_tf32,
        lambda: torch.backends.cuda.matmul.fp32_precision,
        lambda: torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
    )
    return tuple(_value_or_none(reader) for reader in readers)


def _value_or_none(reader: Callable[[], str | bool]) -> str | bool | None:
    """Return a setting; None if this version of torch lacks it or does not let it be read."""
    try:
        return reader()
    except (AttributeError, RuntimeError):
        return None


def random_state(cuda: Sequence[torch.device] = ()) -> tuple[Any, ...]:
    """Return the state of torch's, NumPy's and Python's global generators.

    Args:
        cuda: CUDA devices whose generators are read, too.
    """
    on_cuda = [torch.cuda.get_rng_state(device) for device in cuda]
    return torch.get_rng_state(), on_cuda, np.random.get_state(), random.getstate()


def same_random_state(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Tell whether two states of the generators are the same: nothing was drawn in between."""
    tensors = zip([one[0], *one[1]], [other[0], *other[1]], strict=True)
    return (
        all(torch.equal(first, second) for first, second in tensors)
        and all(map(np.array_equal, one[2], other[2]))
        and bool(one[3] == other[3])
    )


class RandomStream:
    """The random numbers of one seed, kept apart from everybody else's.

    Seeds that are trained in turns then draw the same numbers as each trained alone, and the
    caller's generators are left as they were.

    Args:
        seed: Seed of torch's, NumPy's and Python's global generators, at least 0.
        device: Device whose generator is seeded beside the CPU's.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._cuda = [device] if device.type == "cuda" else []
        with self._restored():
            torch.default_generator.manual_seed(seed)
            for cuda_device in self._cuda:
                with torch.cuda.device(cuda_device):
                    torch.cuda.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            self._state = self._read()

    def _read(self) -> tuple[Any, ...]:
        """Return the state of all generators."""
        return random_state(self._cuda)

    def _write(self, state: tuple[Any, ...]) -> None:
        """Set the state of all generators."""
        torch.set_rng_state(state[0])
        for device, cuda_state in zip(self._cuda, state[1], strict=True):
            torch.cuda.set_rng_state(cuda_state, device)
        np.random.set_state(state[2])
        random.setstate(state[3])

    @contextmanager
    def _restored(self) -> Iterator[None]:
        """Put the generators back at the end."""
        before = self._read()
        try:
            yield
        finally:
            self._write(before)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the global generators give this stream's next numbers inside the block."""
        with self._restored():
            self._write(self._state)
            try:
                yield
            finally:
                self._state = self._read()
