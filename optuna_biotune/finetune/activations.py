"""What frozen parts of networks made of the images, kept under a limit of memory."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor


class Activations:
    """One value for each image of a set, such as the features at a cut.

    Rows come back with the layout in memory that they were given with (channels first or last),
    so that what is computed from them is the same to the last bit.

    Args:
        n_rows: Number of images.
        sample: A batch of values [n, ...], n any, as they will be stored.
    """

    def __init__(self, n_rows: int, sample: Tensor) -> None:
        self._order = _order_in_memory(sample)
        self._back = [self._order.index(axis) for axis in range(sample.ndim)]
        self._rows = torch.empty(
            (n_rows, *(sample.shape[axis] for axis in self._order[1:])),
            dtype=sample.dtype,
            device=sample.device,
        )
        self._known = torch.zeros(n_rows, dtype=torch.bool)
        # Who uses it; the cache may not drop it before they are gone.
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()

    @property
    def n_bytes(self) -> int:
        """Memory of all rows, in bytes."""
        return self._rows.nbytes

    def missing(self, indices: Tensor) -> Tensor:
        """Return those of the indices, int64 [n], whose values are not known, on the CPU."""
        indices = indices.cpu()
        return indices[~self._known[indices]]

    def put(self, indices: Tensor, values: Tensor) -> None:
        """Store the values [n, ...] of images, at indices int64 [n]."""
        self._rows[indices.to(self._rows.device)] = values.detach().permute(self._order)
        self._known[indices.cpu()] = True

    def take(self, indices: Tensor) -> Tensor:
        """Return a copy of the values [n, ...] of images; an in-place operation cannot harm."""
        return self._rows[indices.to(self._rows.device)].permute(self._back)


def _order_in_memory(batch: Tensor) -> list[int]:
    """Return the axes from the outermost in memory to the innermost; that of the batch first."""
    strides = batch.stride()
    axes = sorted(range(1, batch.ndim), key=lambda axis: (-strides[axis], axis))
    order = [0, *axes]
    # Only a dense layout can be kept, such as channels last.
    return order if batch.permute(order).is_contiguous() else list(range(batch.ndim))


class ActivationCache:
    """Activations by key, the least recently used dropped first.

    Args:
        n_bytes: Most memory, in bytes.

    Attributes:
        limit: This.
    """

    def __init__(self, n_bytes: int) -> None:
        self.limit = n_bytes
        self._entries: OrderedDict[Hashable, Activations] = OrderedDict()

    @property
    def n_bytes(self) -> int:
        """Memory in use, in bytes."""
        return sum(entry.n_bytes for entry in self._entries.values())

    def find(self, key: Hashable, user: object) -> Activations | None:
        """Return the activations of a key; None if there are none.

        Args:
            key: All that decides the values.
            user: Who uses them; they stay until it is deleted.
        """
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            entry.users.add(user)
        return entry

    def create(
        self, key: Hashable, n_rows: int, sample: Tensor, user: object
    ) -> Activations | None:
        """Make room for activations, of which no value is known yet.

        Args:
            key: All that decides the values.
            n_rows: Number of images.
            sample: A batch of values.
            user: Who uses them; they stay until it is deleted.

        Returns:
            The activations; None if they do not fit beside those in use.
        """
        if not self._make_room(n_rows * (sample.nbytes // len(sample))):
            return None
        self._entries[key] = Activations(n_rows, sample)
        return self.find(key, user)

    def drop_unused(self) -> None:
        """Drop all activations that nobody uses."""
        for key in [key for key, entry in self._entries.items() if not entry.users]:
            del self._entries[key]

    def _make_room(self, wanted: int) -> bool:
        """Drop what is unused, oldest first, until so many bytes fit; drop nothing in vain."""
        used = sum(entry.n_bytes for entry in self._entries.values() if entry.users)
        if used + wanted > self.limit:
            return False
        for key in [key for key, entry in self._entries.items() if not entry.users]:
            if self.n_bytes + wanted <= self.limit:
                break
            del self._entries[key]
        return True
