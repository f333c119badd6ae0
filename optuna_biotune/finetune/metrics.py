"""The measures of a classifier, computed once an epoch from all predictions.

Ours rather than a library's, by the definitions: scikit-learn takes milliseconds, more than it
takes to validate a linear probe, and torchmetrics a second to import.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Counts = npt.NDArray[np.float64]
"""Numbers of items of each true class (row) that are predicted as each class (column)."""


def _accuracy(counts: Counts) -> float:
    """Share of the items that are classified right."""
    return float(np.trace(counts) / counts.sum())


def _balanced_accuracy(counts: Counts) -> float:
    """Mean recall over the classes that occur in the labels."""
    true = counts.sum(axis=1)
    return float(np.mean(np.diag(counts)[true > 0] / true[true > 0]))


def _macro_f1(counts: Counts) -> float:
    """Mean F1 over the classes that occur in the labels or the predictions."""
    both = counts.sum(axis=0) + counts.sum(axis=1)
    return float(np.mean(2.0 * np.diag(counts)[both > 0] / both[both > 0]))


def _cohen_kappa(counts: Counts) -> float:
    """Agreement of predictions and labels beyond chance, -1 to 1."""
    by_chance = counts.sum(axis=0) @ counts.sum(axis=1) / counts.sum() ** 2
    return float((_accuracy(counts) - by_chance) / (1.0 - by_chance)) if by_chance < 1 else math.nan


_METRICS: dict[str, Callable[[Counts], float]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "cohen_kappa": _cohen_kappa,
}

METRIC_NAMES: tuple[str, ...] = tuple(_METRICS)
"""The metrics that can be computed; of each, more is better."""


def compute_metric(name: str, predictions: Tensor, labels: Tensor, n_classes: int) -> float:
    """Compute one metric.

    Args:
        name: One of :data:`METRIC_NAMES`.
        predictions: Predicted classes, int64 [N].
        labels: True classes, int64 [N], on the same device.
        n_classes: Number of the network's outputs.

    Returns:
        The metric: 0 to 1, Cohen's kappa -1 to 1. Cohen's kappa is NaN if labels and predictions
        are all of one class.
    """
    counts = torch.bincount(labels * n_classes + predictions, minlength=n_classes**2)
    return _METRICS[name](counts.view(n_classes, n_classes).double().cpu().numpy())


def worst_value(name: str) -> float:
    """Return the least value of a metric, the fitness of a plan that cannot be trained."""
    return -1.0 if name == "cohen_kappa" else 0.0
