"""Networks trained one by one: a plan, a seed, and a split of the images into two.

On the CPU the training of a network follows from these three alone. So what a trial of several
networks comes to is the mean over networks that are trained singly, each of them once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from statistics import fmean
from time import process_time
from typing import Any, Literal

import numpy as np
import torch
from checkpoints import checkpoint_path, load_checkpoint
from optuna.trial import FixedTrial, FrozenTrial
from sklearn.model_selection import StratifiedKFold, train_test_split
from targets import Target, load_target
from torch import Tensor
from torch.utils.data import TensorDataset

from optuna_biotune import FineTuningObjective
from optuna_biotune.finetune.splits import Fold, stratified_folds

# An objective holds its images and a network.
_MOST_OBJECTIVES = 8


@dataclass(frozen=True)
class Split:
    """Which images to train on, and which to validate on.

    Attributes:
        kind: ``"parts"``: part ``index`` of ``n`` of the training images and the same part of the
            validation images, as ``FineTuningObjective(folds=n)`` cuts them; of one part, all.
            ``"cross"``: of training and validation images together, cut into ``n``, validation on
            part ``index`` and training on the others. ``"drawn"``: of both together, a new draw of
            as many of each.
        n: Number of parts.
        index: Which part or draw, from 0.
    """

    kind: Literal["parts", "cross", "drawn"] = "parts"
    n: int = 1
    index: int = 0


@dataclass(frozen=True)
class Network:
    """What a network's training follows from, beside the plan.

    Attributes:
        seed: Its seed, from 0.
        split: Its images.
    """

    seed: int
    split: Split = Split()


@dataclass(frozen=True)
class Training:
    """What came of the training of a network.

    Attributes:
        value: Balanced accuracy on its validation images after the best epoch.
        best_epoch: That epoch, from 1; None if the plan trains nothing or the loss was not finite.
        seconds: What it took of the processor.
    """

    value: float
    best_epoch: float | None
    seconds: float


@dataclass(frozen=True)
class Task:
    """A target set and how much of it is used.

    Attributes:
        target: One of ``targets.TARGETS``.
        n_train: Training images.
        n_val: Validation images.
    """

    target: str
    n_train: int
    n_val: int


@dataclass(frozen=True)
class Hyperparameters:
    """What all trainings have in common: arguments of ``FineTuningObjective``."""

    lr: float = 3e-3
    epochs: int = 8
    patience: int = 3
    batch_size: int = 32


class NetworkTrainer:
    """Trains networks by plans, each once.

    Args:
        target: The images.
        build: Builds the pre-trained network with a new head.
        hyperparameters: What all trainings have in common.
        first_seed: Added to the seeds of all networks.
    """

    def __init__(
        self,
        target: Target,
        build: Callable[[], torch.nn.Module],
        hyperparameters: Hyperparameters,
        first_seed: int = 0,
    ) -> None:
        self._target = target
        self._build = build
        self._hyperparameters = hyperparameters
        self._first_seed = first_seed
        train, val = target.train.tensors, target.val.tensors
        self._images = torch.cat([train[0], val[0]])
        self._labels = torch.cat([train[1], val[1]])
        indices = torch.arange(len(self._labels))
        self._whole = Fold(indices[: len(train[1])], indices[len(train[1]) :])
        self._trainings: dict[tuple[tuple[tuple[str, Any], ...], Network], Training] = {}
        self._objective = lru_cache(_MOST_OBJECTIVES)(self._new_objective)
        self.fold = lru_cache(None)(self._new_fold)
        self.block_names = self._objective(Split(), (0,)).block_names

    @classmethod
    def load(
        cls, data: Path, task: Task, hyperparameters: Hyperparameters, number: int
    ) -> NetworkTrainer:
        """Return a trainer of the small residual network for one of many draws of a task.

        Args:
            data: Directory of the target sets.
            task: The task.
            hyperparameters: What all trainings have in common.
            number: Which draw, from 0; each has images and seeds of its own.
        """
        checkpoint = load_checkpoint(checkpoint_path("small_resnet"))
        target = load_target(
            data,
            task.target,
            mean=checkpoint.record.mean,
            std=checkpoint.record.std,
            max_train=task.n_train,
            max_val=task.n_val,
            subset=number,
        )
        return cls(
            target,
            partial(checkpoint.build, len(target.classes)),
            hyperparameters,
            100_000 * number,
        )

    def cost(self, network: Network) -> int:
        """Return the training images of a network times the most epochs."""
        return len(self.fold(network.split).train) * self._hyperparameters.epochs

    def train(self, params: Mapping[str, Any], network: Network) -> Training:
        """Train a network as a trial of ``FineTuningObjective`` does.

        Args:
            params: Parameters that express the plan.
            network: Its seed and its images.
        """
        key = (tuple(params.items()), network)
        if key not in self._trainings:
            objective = self._objective(network.split, (network.seed,))
            start = process_time()
            trial = FixedTrial(dict(params))
            value = objective(trial)
            assert isinstance(value, float)
            best_epoch = trial.user_attrs.get("best_epoch")
            self._trainings[key] = Training(value, best_epoch, process_time() - start)
        return self._trainings[key]

    def value(self, params: Mapping[str, Any], seeds: Sequence[int]) -> float:
        """Return the mean validation value of networks of several seeds, trained on all images.

        Args:
            params: Parameters that express the plan.
            seeds: One network each.
        """
        value = self._objective(Split(), tuple(seeds))(FixedTrial(dict(params)))
        assert isinstance(value, float)
        return value

    def test(self, trial: FrozenTrial, seeds: Sequence[int]) -> float:
        """Train a trial's plan on the training images for as long as its trial did, and test it.

        Args:
            trial: The trial, with the number of epochs in its attribute ``best_epoch``.
            seeds: One network each.

        Returns:
            The mean of the networks' balanced accuracy on the test images.
        """
        # A refit trains on the two sets that it is given together: here on the training images.
        images = self._whole.train
        first, second = _cut(self._labels[images], 2)[0]
        refitter = self._objective_of(Fold(images[first], images[second]), seeds)
        return fmean(refitter.refit(trial, self._target.test).metrics["balanced_accuracy"])

    def _new_objective(self, split: Split, seeds: tuple[int, ...]) -> FineTuningObjective:
        return self._objective_of(self.fold(split), seeds)

    def _objective_of(self, fold: Fold, seeds: Sequence[int]) -> FineTuningObjective:
        return FineTuningObjective(
            model=self._build,
            train=self._at(fold.train),
            val=self._at(fold.val),
            seeds=[self._first_seed + seed for seed in seeds],
            lr=self._hyperparameters.lr,
            epochs=self._hyperparameters.epochs,
            patience=self._hyperparameters.patience,
            batch_size=self._hyperparameters.batch_size,
            device="cpu",
        )

    def _at(self, indices: Tensor) -> TensorDataset:
        return TensorDataset(self._images[indices], self._labels[indices])

    def _new_fold(self, split: Split) -> Fold:
        """Return the indices of a split's training and validation images."""
        if split.kind == "parts":
            return stratified_folds(self._labels, self._whole, split.n)[split.index]
        if split.kind == "cross":
            return Fold(*_cut(self._labels, split.n)[split.index])
        train, val = train_test_split(
            np.arange(len(self._labels)),
            train_size=len(self._whole.train),
            random_state=split.index,
            stratify=self._labels.numpy(),
        )
        return Fold(torch.from_numpy(np.sort(train)), torch.from_numpy(np.sort(val)))


def _cut(labels: Tensor, n: int) -> list[tuple[Tensor, Tensor]]:
    """Return the indices outside and inside of each of ``n`` stratified parts."""
    parts = StratifiedKFold(n, shuffle=True, random_state=0).split(labels, labels)
    return [(torch.from_numpy(outside), torch.from_numpy(inside)) for outside, inside in parts]
