"""The one training loop of all methods: Adam or another optimizer, cosine, early stopping."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, takewhile

import torch
from torch import Tensor

from methods.method import Constants, Method, Stage
from methods.problem import Problem
from optuna_biotune import BlockPartition, FineTuningPlan
from optuna_biotune.finetune.data import LabelledImages
from optuna_biotune.finetune.device import RandomStream, autocast
from optuna_biotune.finetune.gradients import accumulate_gradients, main_logits
from optuna_biotune.finetune.layout import set_channels_last
from optuna_biotune.finetune.metrics import compute_metric
from optuna_biotune.finetune.objective import NonFiniteLossError
from optuna_biotune.finetune.prefix import FrozenPrefix
from optuna_biotune.finetune.splits import Fold, batches


class NetworkTraining:
    """The training of one network by one method.

    For a method that is a plan it is the training of ``FineTuningObjective``, to the last bit: the
    seed decides the new head and, by a generator of its own, the order of the images; frozen blocks
    are held in evaluation mode; what frozen first blocks compute is kept.

    A training may only be stopped early in its last stage.

    Args:
        method: The method.
        constants: Its constants.
        seed: The seed, at least 0.
        problem: The network and the data.
        keeps_best: Whether to remember the weights of the best epoch, for :meth:`test`.

    Attributes:
        blocks: The blocks of the network.
        stages: What trains when.
        epoch: Number of epochs that were trained.
        best_value: The best validation value so far; minus infinity before the first epoch.
        best_epoch: Number of epochs after which it was reached; 0 before the first.
    """

    def __init__(
        self,
        method: Method,
        constants: Constants,
        seed: int,
        problem: Problem,
        *,
        keeps_best: bool = False,
    ) -> None:
        settings = problem.settings
        self._method, self._constants, self._problem = method, constants, problem
        self._settings = settings
        self._random = RandomStream(seed, settings.device)
        self._order = torch.Generator().manual_seed(seed)
        with self._random.active():
            self.blocks: BlockPartition = settings.template.for_model(
                settings.build_model().to(settings.device)
            )
            if method.adapt is not None:
                self.blocks = method.adapt(self.blocks, constants)
        self._model = self.blocks.model
        if settings.channels_last:
            set_channels_last(self._model, True)
        self.stages = method.stages(self.blocks.names, constants, settings.epochs)
        self._starts = [0, *accumulate(stage.epochs for stage in self.stages)]
        self._penalty = method.penalty(self.blocks, constants) if method.penalty else None
        self._hook = method.hook() if method.hook else None
        self._known = {
            **dict(settings.template.model.named_buffers()),
            **dict(settings.template.model.named_parameters()),
        }
        self._frozen: dict[str, Tensor] = {}
        self._prefix: FrozenPrefix | None = None
        self._best: dict[str, Tensor] | None = {} if keeps_best else None
        self.epoch = 0
        self.best_value = -math.inf
        self.best_epoch = 0

    @property
    def trainable_parameters(self) -> int:
        """The most numbers that a stage trains."""
        return max(self.blocks.trainable_parameters(stage.plan) for stage in self.stages)

    @property
    def stopped(self) -> bool:
        """Whether all epochs are over, or nothing has improved in the last stage's latest ones."""
        since = self.epoch - max(self.best_epoch, self._starts[-2])
        return self.epoch >= self._starts[-1] or since >= self._settings.patience

    def train_epoch(self, indices: Tensor) -> None:
        """Train on items once, in a new random order.

        Args:
            indices: The items, int64 [n].

        Raises:
            NonFiniteLossError: If the loss became NaN or infinite.
            RuntimeError: If a block that was frozen in the stage before has changed.
        """
        if self.epoch in self._starts:
            self._begin_stage(self._starts.index(self.epoch))
        data = self._problem.data
        stage = self._stage()
        if self._prefix is not None:
            self._prefix.prepare(data, indices)
        self.blocks.train(stage.plan)
        if self._hook is not None:
            self._hook.begin_epoch()
        order = indices[torch.randperm(len(indices), generator=self._order)]
        with self._random.active():
            losses = [
                self._step(data, batch) for batch in batches(order, self._settings.batch_size)
            ]
        self._schedule.step()
        self.epoch += 1
        if not bool(torch.stack(losses).isfinite().all()):
            raise NonFiniteLossError(f"The loss became NaN or infinite in epoch {self.epoch}.")

    def _stage(self) -> Stage:
        return self.stages[sum(start <= self.epoch for start in self._starts[1:])]

    def _begin_stage(self, index: int) -> None:
        """Decide what trains from here on."""
        self.check_frozen()
        stage, lr = self.stages[index], self._constants["lr"]
        if index == 0 or stage.restart:
            rest = takewhile(lambda one: not one.restart, self.stages[index + 1 :])
            phase = [stage, *rest]
            groups = self.blocks.param_groups(phase[-1].plan, lr)
            if self._method.groups is not None:
                groups = self._method.groups(groups, self.blocks, self._constants)
            self._optimizer = self._method.optimizer(groups, self._constants)
            self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
                self._optimizer, T_max=sum(one.epochs for one in phase)
            )
        # Parameters without a gradient are left out of the optimizer's steps.
        self.blocks.param_groups(stage.plan, lr)
        self._frozen = self.blocks.frozen_state(stage.plan, self._known)
        self._prefix = self._find_prefix(stage.plan)

    def _find_prefix(self, plan: FineTuningPlan) -> FrozenPrefix | None:
        """Return the frozen first part, unless the network was changed."""
        sharing = self._settings.sharing
        if sharing is None or self._method.adapt is not None:
            return None
        shared = {name for name, one in self._frozen.items() if one is self._known.get(name)}
        return sharing.prefix(self._model, plan, shared)

    def _step(self, data: LabelledImages, batch: Tensor) -> Tensor:
        """Take one step of the optimizer, and return the loss."""
        labels = data.labels[batch].to(self._settings.device)
        self._optimizer.zero_grad(set_to_none=True)
        inputs = self._inputs(data, batch)
        loss = accumulate_gradients(lambda part: self._forward(part, True), inputs, labels, 1)
        if self._penalty is not None:
            penalty = self._penalty()
            penalty.backward()  # type: ignore[no-untyped-call]
            loss = loss + penalty.detach()
        if self._hook is not None:
            self._hook.before_step(self._optimizer)
        self._optimizer.step()
        if self._hook is not None:
            self._hook.after_step(self._optimizer)
        return loss

    def _inputs(self, data: LabelledImages, batch: Tensor) -> Tensor:
        """Return images, or what the frozen first part makes of them."""
        if self._prefix is not None:
            return self._prefix.take(data, batch)
        return data.take(batch, self._settings.device)

    def _forward(self, inputs: Tensor, training: bool) -> Tensor:
        with autocast(self._settings.device, self._settings.precision):
            if self._prefix is not None:
                return main_logits(self._prefix.rest(inputs, training))
            return main_logits(self._model(inputs))

    def validate(self, indices: Tensor) -> None:
        """Compute the balanced accuracy, and remember it if it is the best so far.

        Args:
            indices: The items to validate on, int64 [m].
        """
        value = self._balanced_accuracy(self._problem.data, indices)
        if value > self.best_value:
            self.best_value, self.best_epoch = value, self.epoch
            if self._best is not None:
                state = self._model.state_dict()
                self._best = {name: tensor.clone() for name, tensor in state.items()}

    def _balanced_accuracy(self, data: LabelledImages, indices: Tensor) -> float:
        if self._prefix is not None:
            self._prefix.prepare(data, indices)
        self._model.eval()
        with torch.no_grad():
            logits = torch.cat(
                [
                    self._forward(self._inputs(data, batch), False).float()
                    for batch in torch.split(indices, self._settings.batch_size)
                ]
            )
        labels = data.labels[indices].to(logits.device)
        return compute_metric("balanced_accuracy", logits.argmax(1), labels, logits.shape[1])

    def check_frozen(self) -> None:
        """Check that what is frozen in this stage has not changed by a bit.

        Raises:
            RuntimeError: If it has.
        """
        self.blocks.check_frozen(self._frozen)

    def test(self) -> float:
        """Return the balanced accuracy on the test images, with the weights of the best epoch."""
        if self._best:
            self._model.load_state_dict(self._best)
        # A stage after the best epoch may have had another one.
        self._prefix = None
        return self._balanced_accuracy(self._problem.test, torch.arange(len(self._problem.test)))


def train_together(trainings: Sequence[NetworkTraining], fold: Fold) -> Iterator[float]:
    """Train networks epoch by epoch until all have stopped; a stopped one keeps its best value.

    Args:
        trainings: One a seed, changed in place.
        fold: What to train and to validate on.

    Yields:
        After each epoch the mean over the networks of the best validation value so far.
    """
    while active := [training for training in trainings if not training.stopped]:
        for training in active:
            training.train_epoch(fold.train)
            training.validate(fold.val)
        yield sum(training.best_value for training in trainings) / len(trainings)
