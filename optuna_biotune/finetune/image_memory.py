"""Where the images of a data set are kept: on the device, in main memory, or in a mapped file."""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
import tempfile

import numpy as np
import torch
from torch import Tensor

from optuna_biotune.finetune.host_memory import available_memory

_logger = logging.getLogger("optuna_biotune")


def allocate_images(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, data_bytes: int | None
) -> Tensor:
    """Return a tensor for images, not yet filled, in the fastest place that has room for it.

    That is the device's memory, if the images take at most half of what is free there; else main
    memory; else a temporary file that is mapped into memory. The file is nowhere to be seen and is
    gone as soon as nobody uses the tensor, or the process ends.

    Args:
        shape: Shape of the tensor.
        dtype: Its type.
        device: Where the networks run.
        data_bytes: Most bytes that it may take of a memory; more go into the file. None: half of
            what is free.

    Raises:
        OSError: If the disk of the temporary files has no room for it.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    limit = math.inf if data_bytes is None else data_bytes
    if device.type != "cpu" and n_bytes <= min(limit, _half_of_free_memory(device)):
        place, images = str(device), torch.empty(shape, dtype=dtype, device=device)
    elif n_bytes <= (available_memory() // 2 if data_bytes is None else data_bytes):
        place, images = "in main memory", torch.empty(shape, dtype=dtype)
    else:
        place, images = "in a temporary file", _in_mapped_file(shape, dtype, n_bytes)
    _logger.info("%d images are kept %s: %.0f MiB.", shape[0], place, n_bytes / 2**20)
    return images


def _half_of_free_memory(device: torch.device) -> float:
    """Return half of the bytes that are free on an accelerator; infinity if that is not known."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else math.inf


def _in_mapped_file(shape: tuple[int, ...], dtype: torch.dtype, n_bytes: int) -> Tensor:
    """Return a tensor in a temporary file without a name, which ends with the tensor."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if n_bytes > free:
        raise OSError(
            f"The images take {n_bytes / 2**30:.1f} GiB, more than `data_bytes` leaves in memory, "
            f"but only {free / 2**30:.1f} GiB are free in {tempfile.gettempdir()} for a temporary "
            "file: set the environment variable TMPDIR to a directory with more room."
        )
    with tempfile.TemporaryFile() as file:
        _reserve(file.fileno(), n_bytes)
        # NumPy has no bfloat16. The mapping holds the file open by itself.
        content = np.memmap(file, dtype=np.uint8, mode="w+", shape=(n_bytes,))
    return torch.from_numpy(content).view(dtype).view(shape)


def _reserve(descriptor: int, n_bytes: int) -> None:
    """Reserve the room of a file: to write to a mapped one on a full disk would end the process."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, n_bytes)
    except OSError as error:
        # Some file systems cannot reserve room.
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
