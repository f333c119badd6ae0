"""The training of one plan: one network a seed, all seeds in lockstep, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from optuna_biotune.finetune.data import LabelledImages
from optuna_biotune.finetune.device import (
    RandomStream,
    autocast,
    free_memory,
    one_out_of_memory_error,
)
from optuna_biotune.finetune.gradients import (
    accumulate_gradients,
    main_logits,
    normalises_over_batch,
)
from optuna_biotune.finetune.layout import set_channels_last
from optuna_biotune.finetune.metrics import compute_metric
from optuna_biotune.finetune.prefix import FrozenPrefix
from optuna_biotune.finetune.settings import TrainingSettings
from optuna_biotune.finetune.splits import Fold, batches
from optuna_biotune.finetune.telemetry import Telemetry
from optuna_biotune.genotype import FineTuningPlan

# Reading a loss waits for the device. On CUDA that would leave it idle after every step.
_STEPS_BETWEEN_LOSS_CHECKS = {"cuda": 32}

_FUSED_ADAM = ("cpu", "cuda")


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the block and its learning rate."""


class SeedRun:
    """The training of one network with one seed.

    The seed decides the network's new head, dropout and augmentation, and, by a generator of its
    own, the order of the images: two plans with the same seed see the same batches.

    Args:
        plan: Which blocks train, at which multiple of the base learning rate. At least one does.
        seed: The seed, at least 0.
        settings: The rest.
        telemetry: Where to add up what the training takes, if several runs share it.

    Attributes:
        model: The network, on the device of the settings.
        best_value: The best validation metric so far; minus infinity before the first epoch.
        best_epoch: Number of epochs after which it was reached; 0 before the first.
        telemetry: What the training took so far.

    Raises:
        ValueError: If ``build_model`` does not build a new network of the same architecture.
    """

    def __init__(
        self,
        plan: FineTuningPlan,
        seed: int,
        settings: TrainingSettings,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.telemetry = telemetry or Telemetry(settings.device)
        self.best_value = -math.inf
        self.best_epoch = 0
        self._epoch = 0
        self._plan = plan
        self._settings = settings
        self._micro_batch = settings.batch_size + 1
        self._random = RandomStream(seed, settings.device)
        self._order = torch.Generator().manual_seed(seed)
        with self._random.active():
            self.model = settings.build_model()
        _check_is_new(self.model, settings.template.model)
        self.model.to(settings.device)
        if settings.channels_last:
            set_channels_last(self.model, True)
        self._blocks = settings.template.for_model(self.model)
        groups = self._blocks.param_groups(plan, settings.lr)
        known = _state(settings.template.model)
        self._frozen_state = self._blocks.frozen_state(plan, known)
        self._prefix: FrozenPrefix | None = None
        if settings.sharing is not None:
            shared = {n for n, tensor in self._frozen_state.items() if tensor is known.get(n)}
            self._prefix = settings.sharing.prefix(self.model, plan, shared)
        # One operation for all parameters instead of ten for each.
        fused = True if settings.device.type in _FUSED_ADAM else None
        self._optimizer = torch.optim.Adam(
            groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self._optimizer, T_max=settings.epochs
        )

    @property
    def stopped(self) -> bool:
        """Whether the validation metric has not improved for ``patience`` epochs."""
        return self._epoch - self.best_epoch >= self._settings.patience

    def train_epoch(self, data: LabelledImages, indices: Tensor) -> None:
        """Train on every item once, in a new random order.

        Args:
            data: The images.
            indices: The items to train on, int64 [n].

        Raises:
            NonFiniteLossError: If the loss becomes NaN or infinite. On CUDA the loss is looked
                at every 32 steps.
            torch.OutOfMemoryError: If the memory does not suffice even for single images.
        """
        self._prepare(data, indices)
        with self.telemetry.phase("train"):
            self._train_epoch(data, indices)
        self.telemetry.images += len(indices)

    def _prepare(self, data: LabelledImages, indices: Tensor) -> None:
        """Compute what the frozen first blocks make of images, if it is kept and not known yet."""
        if self._prefix is not None:
            with self.telemetry.phase("frozen"):
                self._prefix.prepare(data, indices)

    def _train_epoch(self, data: LabelledImages, indices: Tensor) -> None:
        """Take the steps of one epoch."""
        self._blocks.train(self._plan)
        interval = _STEPS_BETWEEN_LOSS_CHECKS.get(self._settings.device.type, 1)
        order = indices[torch.randperm(len(indices), generator=self._order)]
        size = self._settings.batch_size
        labels_in_order = data.labels[order].to(self._settings.device)
        losses: list[Tensor] = []
        with self._random.active():
            for batch, labels in zip(
                batches(self._where_kept(order, data), size),
                batches(labels_in_order, size),
                strict=True,
            ):
                inputs = self._fetch(data, batch)
                if self._settings.augment is not None:
                    inputs = self._settings.augment(inputs)
                losses.append(self._step(inputs, labels))
                if len(losses) == interval:
                    self._check_losses(losses)
                    losses.clear()
            self._check_losses(losses)
        self._schedule.step()
        self._epoch += 1

    def validate(self, data: LabelledImages, indices: Tensor) -> None:
        """Compute the validation metric and remember it if it is the best so far.

        Args:
            data: The images.
            indices: The items to validate on, int64 [m].
        """
        with self.telemetry.phase("validate"):
            logits = self.predict(data, indices)
            labels = data.labels[indices].to(logits.device)
            value = compute_metric(
                self._settings.metric, logits.argmax(1), labels, n_classes=logits.shape[1]
            )
        if value > self.best_value:
            self.best_value, self.best_epoch = value, self._epoch

    def predict(self, data: LabelledImages, indices: Tensor) -> Tensor:
        """Return the network's logits in evaluation mode, float32 [m, C] on its device.

        Args:
            data: The images.
            indices: The items, int64 [m].
        """
        self._prepare(data, indices)
        self.model.eval()
        indices = self._where_kept(indices, data)
        while True:
            try:
                with torch.no_grad(), one_out_of_memory_error():
                    return torch.cat(
                        [
                            self._forward(self._fetch(data, batch), False).float()
                            for batch in torch.split(indices, self._micro_batch)
                        ]
                    )
            except torch.OutOfMemoryError:
                if self._micro_batch == 1:
                    raise
            self._halve_micro_batch(self._micro_batch)

    def check_frozen(self) -> None:
        """Check that no parameter and no buffer of a frozen block has changed.

        Raises:
            RuntimeError: If one has, because the network writes to it by itself.
        """
        self._blocks.check_frozen(self._frozen_state)

    def _where_kept(self, indices: Tensor, data: LabelledImages) -> Tensor:
        """Return indices on the device where :meth:`_fetch` looks up.

        Copied batch by batch, each copy would wait for all steps before it.
        """
        if self._prefix is not None and self._prefix.keeps(data):
            return indices.to(self._settings.device)
        return indices.to(data.images.device)

    def _fetch(self, data: LabelledImages, batch: Tensor) -> Tensor:
        """Return what the network trains on.

        That are images, or what the frozen first part of the network makes of them.
        """
        if self._prefix is not None:
            return self._prefix.take(data, batch)
        return data.take(batch, self._settings.device)

    def _forward(self, inputs: Tensor, training: bool) -> Tensor:
        """Return the logits [N, C] of the main head, in the chosen precision."""
        with autocast(self._settings.device, self._settings.precision):
            if self._prefix is not None:
                return main_logits(self._prefix.rest(inputs, training))
            return main_logits(self.model(inputs))

    def _step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Take one step of the optimizer, in smaller parts if the memory does not suffice."""
        # BatchNorm cannot normalise over one item.
        smallest = 2 if normalises_over_batch(self.model) else 1
        while True:
            parts = math.ceil(len(labels) / self._micro_batch)
            parts = min(parts, max(1, len(labels) // smallest))
            try:
                self._optimizer.zero_grad(set_to_none=True)
                forward = partial(self._forward, training=True)
                with one_out_of_memory_error():
                    loss = accumulate_gradients(forward, inputs, labels, parts)
                break
            except torch.OutOfMemoryError:
                if parts >= len(labels) // smallest:
                    raise
            # Outside the handler, where the error no longer holds the activations.
            self._halve_micro_batch(len(labels))
        self._optimizer.step()
        return loss

    def _halve_micro_batch(self, n_items: int) -> None:
        """Halve the items that are computed at once, of ``n_items`` at most, and free memory."""
        self._micro_batch = max(1, min(self._micro_batch, n_items) // 2)
        self._optimizer.zero_grad(set_to_none=True)
        if self._settings.sharing is not None:
            self._settings.sharing.cache.drop_unused()
        free_memory(self._settings.device)

    def _check_losses(self, losses: list[Tensor]) -> None:
        """Raise NonFiniteLossError if a loss is not finite."""
        if not losses or bool(torch.stack(losses).isfinite().all()):
            return
        names = self._broken_blocks()
        rates = {name: self._plan.multipliers[name] * self._settings.lr for name in names}
        shown = ", ".join(f"{name} (learning rate {rate:.3g})" for name, rate in rates.items())
        raise NonFiniteLossError(
            f"The loss became NaN or infinite in epoch {self._epoch + 1}; most likely by block "
            f"{shown}."
        )

    def _broken_blocks(self) -> Sequence[str]:
        """Return the blocks whose parameters are not finite; where that is all, the fastest."""
        trainable = self._plan.trainable
        broken = [
            name
            for name in trainable
            if not all(bool(p.isfinite().all()) for p in self._blocks.parameters(name))
        ]
        if 0 < len(broken) < len(trainable):
            return broken
        return [max(trainable, key=self._plan.multipliers.__getitem__)]


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Return a network's parameters and buffers by all their names."""
    state: dict[str, Tensor] = dict(model.named_buffers(remove_duplicate=False))
    state.update(model.named_parameters(remove_duplicate=False))
    return state


def _check_is_new(model: nn.Module, other: nn.Module) -> None:
    """Raise ValueError if two networks share a parameter."""
    if not {id(p) for p in model.parameters()}.isdisjoint(id(p) for p in other.parameters()):
        raise ValueError(
            "`model` must build a new network at every call, but two of its networks share "
            "parameters: load or copy the weights inside of it."
        )


def train_in_lockstep(
    runs: Sequence[SeedRun], data: LabelledImages, fold: Fold, epochs: int
) -> Iterator[float]:
    """Train all seeds epoch by epoch, until all have stopped or the epochs are used up.

    A seed that has stopped trains no further and keeps its best value.

    Args:
        runs: One run a seed, changed in place.
        data: The images.
        fold: What to train and to validate on.
        epochs: Most epochs.

    Yields:
        After each epoch the mean over the seeds of the best validation metric so far.
    """
    for _ in range(epochs):
        active = [run for run in runs if not run.stopped]
        if not active:
            return
        for run in active:
            run.train_epoch(data, fold.train)
            run.validate(data, fold.val)
        yield sum(run.best_value for run in runs) / len(runs)
