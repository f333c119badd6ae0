"""The final training of one plan on all data, and what it achieves on test data."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from optuna.trial import BaseTrial
from torch import nn

from optuna_biotune.finetune.data import LabelledImages
from optuna_biotune.finetune.layout import set_channels_last
from optuna_biotune.finetune.metrics import METRIC_NAMES, compute_metric
from optuna_biotune.finetune.outcome import standard_deviation
from optuna_biotune.finetune.settings import TrainingSettings
from optuna_biotune.finetune.training import SeedRun
from optuna_biotune.genotype import FineTuningPlan


@dataclass(frozen=True)
class RefitResult:
    """A plan trained on all data.

    Attributes:
        model: The network of the first seed, in evaluation mode, on the objective's device.
            Which seed does not depend on the test data.
        plan: The plan.
        epochs: Number of epochs that each network trained.
        metrics: ``accuracy``, ``balanced_accuracy`` (mean recall over the classes that occur in
            the test labels), ``macro_f1`` and ``cohen_kappa`` on the test data, each a list of one
            value a seed; empty if no test data were given.
        weight_decay: Factor of Adam's L2 penalty that they trained with.
    """

    model: nn.Module
    plan: FineTuningPlan
    epochs: int
    metrics: dict[str, list[float]]
    weight_decay: float = 0.0

    def summary(self) -> dict[str, tuple[float, float]]:
        """Return mean and standard deviation over the seeds of each metric.

        The standard deviation is that of a sample (divided by n - 1), and 0.0 for one seed.
        """
        return {
            name: (statistics.fmean(values), standard_deviation(values))
            for name, values in self.metrics.items()
        }


def plan_to_refit(
    trial_or_plan: FineTuningPlan | BaseTrial, names: Sequence[str]
) -> FineTuningPlan:
    """Return the plan of a trial, or a plan itself, with the blocks in the network's order.

    Args:
        trial_or_plan: A trial with a plan's parameters, or a plan.
        names: Names of the network's blocks, input side first.

    Raises:
        TypeError: If it is neither a trial nor a plan.
        ValueError: If the plan is for other blocks or trains none, or the trial has no plan.
    """
    if isinstance(trial_or_plan, FineTuningPlan):
        plan = trial_or_plan
    elif isinstance(trial_or_plan, BaseTrial):
        plan = FineTuningPlan.from_trial(trial_or_plan)
    else:
        raise TypeError(
            "`trial_or_plan` must be an Optuna trial or a FineTuningPlan, but got "
            f"{trial_or_plan!r}."
        )
    if set(plan.names) != set(names):
        raise ValueError(
            f"`trial_or_plan` must be for the blocks {', '.join(names)}, but has "
            f"{', '.join(plan.names)}."
        )
    if not plan.trainable:
        raise ValueError("`trial_or_plan` must train a block, but it freezes all of them.")
    return FineTuningPlan({name: plan.multipliers[name] for name in names})


def refit_plan(
    plan: FineTuningPlan,
    seeds: Sequence[int],
    settings: TrainingSettings,
    data: LabelledImages,
    epochs: int,
    test: LabelledImages | None,
) -> RefitResult:
    """Train a plan on all data with each seed, one after another, and measure it on test data.

    Args:
        plan: The plan; it trains at least one block.
        seeds: Seeds, at least one.
        settings: As in the search. The schedule keeps its length ``settings.epochs``.
        data: All images to train on.
        epochs: Number of epochs to train for.
        test: The test images, or None.

    Raises:
        NonFiniteLossError: If the loss becomes NaN or infinite.
        RuntimeError: If the network changed a frozen block by itself.
        torch.OutOfMemoryError: If the memory does not suffice even for single images.
    """
    models: list[nn.Module] = []
    scores: list[dict[str, float]] = []
    for seed in seeds:
        run = SeedRun(plan, seed, settings)
        for _ in range(epochs):
            run.train_epoch(data, torch.arange(len(data)))
        run.check_frozen()
        if test is not None:
            scores.append(_measure(run, test))
        if not models:
            models.append(run.model.eval())
            if settings.channels_last:
                # As others expect it, such as those who write weights into files.
                set_channels_last(run.model, False)
        # Before the next network is built, else two would be in memory.
        del run
    metrics = {name: [score[name] for score in scores] for name in METRIC_NAMES if scores}
    return RefitResult(models[0], plan, epochs, metrics, settings.weight_decay)


def _measure(run: SeedRun, test: LabelledImages) -> dict[str, float]:
    """Return every metric of a trained network on the test images."""
    logits = run.predict(test, torch.arange(len(test)))
    predictions, labels = logits.argmax(1), test.labels.to(logits.device)
    return {
        name: compute_metric(name, predictions, labels, logits.shape[1]) for name in METRIC_NAMES
    }
