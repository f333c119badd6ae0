"""The frozen first part of a network, which runs once for each image.

Blocks that a plan freezes at the input side are deterministic: they run in evaluation mode and do
not change. What they make of an image is computed once and kept for all epochs, seeds and trials
that share their weights; training then starts from there.

The first part always runs in batches of one size, so that its values do not depend on how an image
was batched: a matrix product of another height may round differently. With the cache and without
it, training therefore gives the same weights, on the CPU in float32 to the last bit.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from optuna_biotune.finetune.activations import ActivationCache, Activations
from optuna_biotune.finetune.block_partition import BlockPartition
from optuna_biotune.finetune.data import LabelledImages
from optuna_biotune.finetune.device import (
    autocast,
    float32_settings,
    free_memory,
    one_out_of_memory_error,
)
from optuna_biotune.finetune.network_split import (
    CannotCutError,
    NetworkSplit,
    split_network,
)
from optuna_biotune.finetune.split_check import check_split
from optuna_biotune.finetune.telemetry import training_flops
from optuna_biotune.genotype import FineTuningPlan

_logger = logging.getLogger("optuna_biotune")

# Splits of a study's masks that are remembered; each is a few functions.
_MOST_SPLITS = 4096


class PrefixSharing:
    """What the networks of all seeds and trials share: how they split, and activations.

    Args:
        template: The partition of a network of the architecture, on the device, on which splits
            are found and tried. Its modes and gradients are set; its weights stay.
        device: Where the networks run.
        precision: ``"fp32"`` or ``"bf16"``.
        batch_size: Images that the first part runs on at once.
        example: Two images as the network takes them, to try splits on.
        cache_bytes: Most memory of the activations, in bytes; 0 keeps none.
    """

    def __init__(
        self,
        template: BlockPartition,
        device: torch.device,
        precision: str,
        batch_size: int,
        example: Tensor,
        cache_bytes: int,
    ) -> None:
        self._template = template
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self._example = example.to(device)
        self.cache = ActivationCache(cache_bytes)
        self._splits: dict[str, NetworkSplit | None] = {}
        self._flops: dict[str, float | None] = {}
        self._announced: set[str] = set()

    def prefix(
        self, model: nn.Module, plan: FineTuningPlan, shared: Collection[str]
    ) -> FrozenPrefix | None:
        """Return the frozen first part of a network.

        For a mask that is new, split and whole must give the same of the example images.

        Args:
            model: The network, on the device.
            plan: The plan.
            shared: Names of the frozen parameters and buffers that equal the template's.

        Returns:
            The first part; None if the plan trains the first block, or there is no proven cut.
        """
        if plan.mask.startswith("T"):
            return None
        if plan.mask not in self._splits:
            if len(self._splits) == _MOST_SPLITS:
                self._splits.clear()
                self._flops.clear()
            self._splits[plan.mask] = self._split(plan)
        split = self._splits[plan.mask]
        if split is None:
            return None
        return FrozenPrefix(model, split, weights_key(model, split, shared), self)

    def training_flops(self, plan: FineTuningPlan) -> float | None:
        """Return the floating-point operations of training on one image; None if unknown.

        They are counted once for each mask, in what is trained of networks that are split.

        Args:
            plan: The plan, for which a prefix was asked for.
        """
        if plan.mask not in self._flops:
            try:
                self._flops[plan.mask] = training_flops(
                    self._template, plan, self._splits.get(plan.mask), self._example
                )
            except Exception as error:
                # A trial does not fail for want of a figure.
                self.announce(f"Operations cannot be counted: {error!r}.")
                self._flops[plan.mask] = None
        return self._flops[plan.mask]

    def announce(self, message: str) -> None:
        """Write a line into the log, once."""
        if message not in self._announced:
            self._announced.add(message)
            _logger.info(message)

    def _split(self, plan: FineTuningPlan) -> NetworkSplit | None:
        """Split the template and check it on an example; None, and a line in the log, if not."""
        # Not a network that will be trained: torch.fx would keep it alive in cycles for a while.
        model = self._template.model
        try:
            split = split_network(self._template, plan)
            check_split(self._template, plan, split, self._example, self.device, self.precision)
        except Exception as error:
            # Whatever it is, the whole network can run; if it cannot, that tells the user better.
            reason = str(error) if isinstance(error, CannotCutError) else repr(error)
            self.announce(
                f"{type(model).__name__} is trained without keeping what its frozen blocks "
                f"compute: {reason}."
            )
            return None
        return split


def weights_key(model: nn.Module, split: NetworkSplit, shared: Collection[str]) -> str:
    """Return a name for the weights of the first part; equal weights have equal names.

    Args:
        model: The network.
        split: How it is split.
        shared: Names of its frozen parameters and buffers that equal the template's.
    """
    unlike = [name for name in split.state_names if name not in shared]
    if not unlike:
        return "template"
    digest = hashlib.sha256()
    for name in split.state_names:
        owner, _, attribute = name.rpartition(".")
        tensor = getattr(model.get_submodule(owner), attribute).detach()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(memoryview(flat.numpy()))
    return digest.hexdigest()


class FrozenPrefix:
    """The frozen first part of one network.

    Args:
        model: The network.
        split: How it is split.
        weights: A name for the weights of the first part.
        sharing: What all networks share.
    """

    def __init__(
        self, model: nn.Module, split: NetworkSplit, weights: str, sharing: PrefixSharing
    ) -> None:
        self._model = model
        self._split = split
        self._weights = weights
        self._sharing = sharing
        self._kept: dict[int, Activations | None] = {}

    def prepare(self, data: LabelledImages, indices: Tensor) -> None:
        """Compute the values of images that are not known yet, if they can be kept.

        Leaves the network in evaluation mode.

        Args:
            data: The images.
            indices: Those that will be needed, int64 [n].
        """
        self._model.eval()
        try:
            with one_out_of_memory_error():
                self._fill(data, indices)
        except torch.OutOfMemoryError:
            self._sharing.announce("No memory is left to keep what frozen blocks compute.")
            self._kept[data.key] = None
        if self._kept[data.key] is None:
            self._sharing.cache.drop_unused()

    def _fill(self, data: LabelledImages, indices: Tensor) -> None:
        """Compute and store the values that are missing; nothing if they cannot be kept."""
        if data.key not in self._kept:
            self._kept[data.key] = self._activations(data, indices)
        kept = self._kept[data.key]
        if kept is None:
            return
        missing = kept.missing(indices)
        for start in range(0, len(missing), self._sharing.batch_size):
            batch = missing[start : start + self._sharing.batch_size]
            kept.put(batch, self._compute(data, batch))

    def _activations(self, data: LabelledImages, indices: Tensor) -> Activations | None:
        """Return where values are kept; None if they would take too much memory."""
        sharing = self._sharing
        if sharing.cache.limit == 0:
            return None
        key = (data.key, self._weights, self._split.cut, float32_settings())
        kept = sharing.cache.find(key, self)
        if kept is not None:
            return kept
        sample = self._compute(data, indices[:1])
        kept = sharing.cache.create(key, len(data), sample, self)
        if kept is None:
            sharing.announce(
                f"What frozen blocks compute takes {len(data) * sample.nbytes / 2**20:.0f} MiB "
                "for some plans, more than `cache_bytes` leaves: it is computed again every epoch."
            )
        return kept

    def keeps(self, data: LabelledImages) -> bool:
        """Tell whether the values of images are kept, as they are after :meth:`prepare`.

        Args:
            data: The images.
        """
        return self._kept.get(data.key) is not None

    def take(self, data: LabelledImages, indices: Tensor) -> Tensor:
        """Return the values at the cut, [n, ...] on the device.

        Args:
            data: The images.
            indices: Which of them, int64 [n].
        """
        kept = self._kept.get(data.key)
        return self._compute(data, indices) if kept is None else kept.take(indices)

    def _compute(self, data: LabelledImages, indices: Tensor) -> Tensor:
        """Run the first part on images; in smaller batches only if the memory does not suffice."""
        while True:
            try:
                with one_out_of_memory_error():
                    return self._compute_in_batches(data, indices)
            except torch.OutOfMemoryError:
                if self._sharing.batch_size == 1:
                    raise
            # Outside the handler, where the error no longer holds what was computed.
            self._sharing.batch_size //= 2
            self._sharing.cache.drop_unused()
            free_memory(self._sharing.device)

    def _compute_in_batches(self, data: LabelledImages, indices: Tensor) -> Tensor:
        """Run the first part on images, in batches of one size."""
        sharing = self._sharing
        parts = []
        for batch in torch.split(indices, sharing.batch_size):
            missing = sharing.batch_size - len(batch)
            full = torch.cat([batch, batch[:1].expand(missing)])
            with torch.no_grad(), autocast(sharing.device, sharing.precision):
                values = self._split.first(self._model, data.take(full, sharing.device))
            parts.append(values[: len(batch)])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def rest(self, values: Tensor, training: bool) -> Any:
        """Return the network's output for values at the cut.

        Args:
            values: As :meth:`take` returns them; may be changed in place.
            training: Whether the network is in training mode.
        """
        split = self._split
        function = split.rest_in_training if training else split.rest_in_evaluation
        return function(self._model, values)
