"""The objective of a study: train the plan of a trial and return its validation metric."""

from __future__ import annotations

import logging
import math
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import optuna
import torch
from optuna.trial import BaseTrial
from torch import Tensor, nn

from optuna_biotune.finetune.data import ImageDataset, LabelledImages
from optuna_biotune.finetune.device import (
    PRECISIONS,
    default_cache_bytes,
    free_memory,
    resolve_device,
    resolve_precision,
)
from optuna_biotune.finetune.image_memory import allocate_images
from optuna_biotune.finetune.layout import favours_channels_last, set_channels_last
from optuna_biotune.finetune.metrics import worst_value
from optuna_biotune.finetune.outcome import TrialOutcome
from optuna_biotune.finetune.prefix import PrefixSharing
from optuna_biotune.finetune.reading import load_images
from optuna_biotune.finetune.refit import RefitResult, plan_to_refit, refit_plan
from optuna_biotune.finetune.settings import TrainingSettings
from optuna_biotune.finetune.splits import Fold, load_training_data, stratified_folds
from optuna_biotune.finetune.telemetry import Telemetry
from optuna_biotune.finetune.template import build_template, check_outputs
from optuna_biotune.finetune.training import (
    NonFiniteLossError,
    SeedRun,
    train_in_lockstep,
)
from optuna_biotune.finetune.validation import (
    DEFAULT_METRIC,
    check_callable,
    check_choice,
    check_count,
    check_directions,
    check_learning_rate,
    check_objectives,
    check_seeds,
    check_weight_decay,
)
from optuna_biotune.genotype import FineTuningPlan, suggest_plan
from optuna_biotune.tags import generation_of

__all__ = ["FineTuningObjective", "NonFiniteLossError", "RefitResult"]

_logger = logging.getLogger("optuna_biotune")

# Seeds draw from torch's global generators in turns: only one thread may train at a time.
_TRAINING = threading.Lock()


class FineTuningObjective:
    """Fine-tunes a network by the plan of a trial; an objective for ``study.optimize``.

    Called with a trial, it suggests a plan, trains one network a seed by it and returns the mean
    over the seeds of the validation metric at each seed's best epoch, to be maximised.

    - All seeds train in lockstep. After epoch e (from 0) the trial reports, as step e, the mean
      over the seeds of the best value so far: what it would return if it ended there. The study's
      pruner may then prune it. Optuna cannot prune in a study of several objectives: there is
      then no report.
    - A seed stops after ``patience`` epochs without improvement and keeps its best value.
    - Adam, cross-entropy, and a cosine schedule a step an epoch over ``epochs`` epochs.
    - Two trials with the same seed start from the same network and see the same batches. On the
      CPU the same plan gives the same value to the last bit.
    - Frozen blocks are held in evaluation mode. After training, their parameters and buffers are
      checked to be bit-identical, else RuntimeError.
    - Blocks that a plan freezes at the input side compute the same in every epoch, seed and trial:
      without augmentation it is computed once for each image and kept, up to ``cache_bytes``. That
      changes no result: the frozen part always runs in whole batches. A network that cannot be cut
      there with certainty is trained whole, which the log says once.
    - A last batch of one image joins the batch before it: BatchNorm cannot normalise over one.
    - Out of memory, a step is computed again in parts of half the size, down to single images
      (pairs, if BatchNorm trains). The gradients are those of the whole batch, except that
      BatchNorm then normalises over the parts.

    Some trials cannot be measured; none of them stops the study:

    - A plan that trains nothing returns the worst value (0.0; -1.0 for ``cohen_kappa``) without
      training; among several objectives, the costs that it has.
    - If the loss becomes NaN or infinite, training stops, the attribute ``failure`` says which
      block at which learning rate, and the trial returns the worst value, so that the search
      learns to avoid it.
    - If the memory does not suffice even so, the attribute ``failure`` says so, and the trial
      fails.

    Attributes of the trial: ``lr/<block>`` (absolute learning rate, 0.0 = frozen), ``mask`` (one
    letter a block, F frozen, T tuned), ``generation``, ``trainable_params``, ``seconds``,
    ``best_epoch`` (mean over the seeds, counted from 1), ``val_std`` (standard deviation over the
    seeds) and, if there was one, ``failure``; and what training took: ``seconds/frozen``
    (computing what frozen first blocks make of the images), ``seconds/train``,
    ``seconds/validate``, ``images_per_second``, ``teraflops_per_second`` and ``memory_mib`` (the
    most on the CUDA device, or of the whole process).

    The constructor reads all data, builds one network and runs it on two images, to find its
    blocks and check its head. Images stay as the transform gives them: bytes take a quarter of the
    memory of floats. They are kept on the device if they take at most half of its free memory, else
    in main memory, else in a temporary file that is mapped into memory; results are the same. Calls
    from several threads take turns; use processes to train in parallel.

    Args:
        model: Builds the network, a pre-trained body with a fresh head; called without arguments
            under each seed. Must return a new network each time.
        train: Map-style dataset of (image, label): float images [C, H, W] as the network takes
            them, all of one size, or anything with a ``transform``; integer labels from 0.
        val: Validation data alike. None: a stratified fifth of ``train``, always the same.
        transform: Deterministic transform of an image to a tensor [C, H, W], applied once: float as
            the network takes it, or uint8, which the network gets as float32 from 0 to 1. Of a
            transform of torchvision that ends by making floats of bytes and normalising them,
            bytes are kept, and that end is applied to each batch.
        blocks: Block name to names of modules, in order, as :func:`partition_blocks` takes them.
            None: the blocks that it finds.
        lr: Base learning rate, absolute, above 0: a block with multiplier 1.0 trains at it.
        weight_decay: Factor of an L2 penalty on what trains, as ``torch.optim.Adam`` takes it; at
            least 0. A pair (low, high), 0 < low < high: the search chooses it beside the plan, on a
            logarithmic scale, as the trial's parameter ``weight_decay``.
        epochs: Most epochs a network trains for, at least 1.
        patience: Epochs without improvement after which a seed stops, at least 1.
        seeds: Distinct integers from 0, one network each.
        folds: Number of stratified parts that training and validation data are cut into, at least
            1; generation g of the search trains and validates on part g mod ``folds``.
        batch_size: Images a step, at least 1.
        metric: ``"balanced_accuracy"`` (mean recall over the classes that occur in the validation
            labels), ``"accuracy"``, ``"macro_f1"`` or ``"cohen_kappa"``.
        objectives: For a study of several objectives: a metric, which takes the place of
            ``metric``, and after it ``"trainable_params"`` (how many numbers train), ``"seconds"``
            (what the trial took) or both. A trial then returns a tuple of them; the study's
            directions are "maximize" for the metric and "minimize" for the others. None: a trial
            returns ``metric`` alone.
        device: ``"auto"`` (CUDA if there is a device, else the CPU) or a torch device.
        precision: ``"fp32"``, ``"bf16"`` (autocast), or ``"auto"``: bfloat16 on CUDA devices that
            compute in it, else float32. Whether float32 may use TensorFloat-32 is left to torch's
            own settings.
        augment: Applied in training to each batch, float [N, C, H, W] on the device, such as a
            transform of torchvision v2. None: no augmentation.
        cache_bytes: Most memory, in bytes, for what frozen first blocks compute, see above. None:
            a quarter of the memory that is free on the device. 0: nothing is kept.
        data_bytes: Most memory, in bytes, for the images, see above; for more there is the file.
            None: half of the memory that is free.

    Raises:
        TypeError: If an argument or an item of the data is of the wrong kind.
        ValueError: If an argument is out of range; if data are empty, of one class or of unequal
            sizes; if a class is too rare for the split or missing from ``train``; or if the head
            has fewer outputs than there are classes.
        OSError: If the images need a temporary file, and the disk has no room for it.
    """

    def __init__(
        self,
        *,
        model: Callable[[], nn.Module],
        train: ImageDataset,
        val: ImageDataset | None = None,
        transform: Callable[[Any], Tensor] | None = None,
        blocks: Mapping[str, Sequence[str]] | None = None,
        lr: float = 1e-3,
        weight_decay: float | tuple[float, float] = 0.0,
        epochs: int = 30,
        patience: int = 3,
        seeds: Sequence[int] = (0, 1, 2),
        folds: int = 1,
        batch_size: int = 64,
        metric: str = DEFAULT_METRIC,
        objectives: Sequence[str] | None = None,
        device: str | torch.device = "auto",
        precision: str = "auto",
        augment: Callable[[Tensor], Tensor] | None = None,
        cache_bytes: int | None = None,
        data_bytes: int | None = None,
    ) -> None:
        if isinstance(model, nn.Module):
            raise TypeError(
                "`model` must be a function that builds a network, called under each seed, but "
                f"got a network ({type(model).__name__})."
            )
        check_callable("model", model, optional=False)
        check_callable("transform", transform)
        check_callable("augment", augment)
        metric, self._costs = check_objectives(objectives, metric)
        check_choice("precision", precision, PRECISIONS)
        lr = check_learning_rate("lr", lr)
        self._weight_decay = check_weight_decay(weight_decay)
        epochs, patience = check_count("epochs", epochs), check_count("patience", patience)
        if cache_bytes is not None:
            cache_bytes = check_count("cache_bytes", cache_bytes, least=0)
        if data_bytes is not None:
            data_bytes = check_count("data_bytes", data_bytes, least=0)
        folds, batch_size = check_count("folds", folds), check_count("batch_size", batch_size)
        self._seeds = check_seeds(seeds)
        resolved = resolve_device(device)
        precision = resolve_precision(precision, resolved)

        start = time.perf_counter()
        self._transform = transform
        self._allocate = partial(allocate_images, device=resolved, data_bytes=data_bytes)
        self._data, whole = load_training_data(train, val, transform, self._allocate)
        _logger.info("Read %d images in %.1f s.", len(self._data), time.perf_counter() - start)
        self._folds = stratified_folds(self._data.labels, whole, folds)
        template, self._n_outputs = build_template(
            model, blocks, self._data, self._seeds[0], resolved, precision
        )
        example = self._data.take(torch.arange(2), resolved)
        # Batches are filled up to one size: not far beyond what there is.
        at_once = min(batch_size, len(self._data))
        channels_last = favours_channels_last(template.model, example, at_once)
        if channels_last:
            set_channels_last(template.model, True)
        sharing = PrefixSharing(
            template,
            resolved,
            precision,
            at_once,
            example,
            default_cache_bytes(resolved) if cache_bytes is None else cache_bytes,
        )
        self._settings = TrainingSettings(
            build_model=model,
            template=template,
            lr=lr,
            epochs=epochs,
            patience=patience,
            batch_size=batch_size,
            metric=metric,
            device=resolved,
            precision=precision,
            augment=augment,
            channels_last=channels_last,
            weight_decay=self._weight_decay if isinstance(self._weight_decay, float) else 0.0,
            # Augmented images are never the same again.
            sharing=None if augment is not None else sharing,
        )

    @property
    def block_names(self) -> tuple[str, ...]:
        """Names of the network's blocks, input side first."""
        return self._settings.template.names

    def __call__(self, trial: BaseTrial) -> float | tuple[float, ...]:
        """Train the plan of a trial.

        Args:
            trial: The trial; the plan's parameters, a report an epoch and attributes are added.

        Returns:
            The mean over the seeds of the best validation metric, to be maximised; NaN, which
            makes the trial fail, if the memory does not suffice. With ``objectives`` a tuple of it
            and the costs.

        Raises:
            optuna.TrialPruned: If the study's pruner says so.
            ValueError: If the study's directions do not fit what is returned.
            RuntimeError: If the network changed a frozen block by itself.
        """
        check_directions(trial, len(self._costs))
        plan = suggest_plan(trial, self.block_names)
        settings = self._settings
        if isinstance(self._weight_decay, tuple):
            low, high = self._weight_decay
            weight_decay = trial.suggest_float("weight_decay", low, high, log=True)
            settings = replace(settings, weight_decay=weight_decay)
        start = time.perf_counter()
        generation = generation_of(trial) if isinstance(trial, optuna.Trial) else 0
        self._describe_plan(trial, plan, generation)
        outcome = TrialOutcome(worst_value(self._settings.metric))
        try:
            if plan.trainable:
                with _TRAINING:
                    fold = self._folds[generation % len(self._folds)]
                    self._train(trial, plan, settings, fold, outcome)
        finally:
            outcome.seconds = time.perf_counter() - start
            outcome.describe(trial)
        if outcome.pruned:
            raise optuna.TrialPruned()
        if not self._costs:
            return outcome.value
        return (outcome.value, *(float(trial.user_attrs[cost]) for cost in self._costs))

    def refit(
        self,
        trial_or_plan: FineTuningPlan | BaseTrial,
        test: ImageDataset | None = None,
    ) -> RefitResult:
        """Train a plan on all data, training and validation data together, with every seed.

        There is nothing left to stop early by. A trial's plan trains for the trial's mean best
        epoch, rounded up, under the same schedule as in the search; a plan by itself for all
        ``epochs``.

        Args:
            trial_or_plan: A trial of this objective's study, such as ``study.best_trial``, or a
                plan for the same blocks.
            test: Test data as ``train``; the same transform applies. None: nothing is measured.

        Returns:
            The network of the first seed, and each metric on the test data, one value a seed.

        Raises:
            TypeError: If it is neither a trial nor a plan.
            ValueError: If the plan is for other blocks or trains nothing, the test data do not
                fit the network, or the weight decay is searched and what is given has none.
            NonFiniteLossError: If the loss becomes NaN or infinite.
            torch.OutOfMemoryError: If the memory does not suffice.
        """
        plan = plan_to_refit(trial_or_plan, self.block_names)
        settings = self._settings
        if isinstance(self._weight_decay, tuple):
            settings = replace(settings, weight_decay=_weight_decay_of(trial_or_plan))
        best_epoch = None
        if not isinstance(trial_or_plan, FineTuningPlan):
            best_epoch = trial_or_plan.user_attrs.get("best_epoch")
        epochs = self._settings.epochs if best_epoch is None else math.ceil(best_epoch)
        test_data = None if test is None else self._load_test(test)
        with _TRAINING:
            try:
                return refit_plan(plan, self._seeds, settings, self._data, epochs, test_data)
            finally:
                free_memory(self._settings.device)

    def _describe_plan(self, trial: BaseTrial, plan: FineTuningPlan, generation: int) -> None:
        """Write what is known before training into the trial's attributes."""
        for name, rate in plan.learning_rates(self._settings.lr).items():
            trial.set_user_attr(f"lr/{name}", rate)
        trial.set_user_attr("mask", plan.mask)
        trial.set_user_attr("generation", generation)
        trainable_params = self._settings.template.trainable_parameters(plan)
        trial.set_user_attr("trainable_params", trainable_params)

    def _train(
        self,
        trial: BaseTrial,
        plan: FineTuningPlan,
        settings: TrainingSettings,
        fold: Fold,
        outcome: TrialOutcome,
    ) -> None:
        """Train the plan with every seed and fill in the outcome; leaves no memory behind."""
        runs: list[SeedRun] = []
        telemetry = Telemetry(self._settings.device)
        try:
            for seed in self._seeds:
                runs.append(SeedRun(plan, seed, settings, telemetry))
            epochs = train_in_lockstep(runs, self._data, fold, self._settings.epochs)
            for epoch, value in enumerate(epochs):
                outcome.value = value
                if self._costs:
                    continue
                trial.report(value, epoch)
                if not _finished(runs, epoch, self._settings.epochs) and trial.should_prune():
                    outcome.pruned = True
                    break
            for run in runs:
                run.check_frozen()
            if self._settings.sharing is not None:
                outcome.flops_per_image = self._settings.sharing.training_flops(plan)
        except NonFiniteLossError as error:
            outcome.failure = str(error)
            outcome.value = worst_value(self._settings.metric)
        except torch.OutOfMemoryError:
            outcome.failure = "Out of memory, even in parts of the least size."
            outcome.value = math.nan
        except KeyboardInterrupt as interrupt:
            # Whoever keeps the interrupt's traceback, as notebooks do, would keep the networks.
            traceback.clear_frames(interrupt.__traceback__)
            raise
        finally:
            outcome.measured = [(r.best_value, r.best_epoch) for r in runs if r.best_epoch > 0]
            outcome.measurements = telemetry.attributes(outcome.flops_per_image)
            runs.clear()
            free_memory(self._settings.device)

    def _load_test(self, test: ImageDataset) -> LabelledImages:
        """Read the test data and check that they fit the network."""
        data = load_images({"test": test}, self._transform, self._allocate)
        expected = tuple(self._data.images.shape[1:])
        given = tuple(data.images.shape[1:])
        if given != expected:
            raise ValueError(
                f"`test` must have images of size {expected} as `train` does, but has {given}."
            )
        check_outputs(self._n_outputs, data.labels, "test")
        return data


def _finished(runs: Sequence[SeedRun], epoch: int, epochs: int) -> bool:
    """Tell whether no seed would train any further."""
    return epoch + 1 == epochs or all(run.stopped for run in runs)


def _weight_decay_of(trial_or_plan: FineTuningPlan | BaseTrial) -> float:
    """Return the weight decay that a trial suggested."""
    if not isinstance(trial_or_plan, FineTuningPlan) and "weight_decay" in trial_or_plan.params:
        return float(trial_or_plan.params["weight_decay"])
    raise ValueError(
        "`trial_or_plan` must be a trial with the parameter `weight_decay`, which this objective "
        "searches; a plan by itself has none. For a plan, build an objective with one "
        "`weight_decay`."
    )
