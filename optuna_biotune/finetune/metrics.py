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
"""A number of items for each class."""


def _accuracy(right: Counts, true: Counts, predicted: Counts) -> float:
    """Share of the items that are classified right."""
    return float(right.sum() / true.sum())


def _balanced_accuracy(right: Counts, true: Counts, predicted: Counts) -> float:
    """Mean recall over the classes that occur in the labels."""
    return float(np.mean(right[true > 0] / true[true > 0]))


def _macro_f1(right: Counts, true: Counts, predicted: Counts) -> float:
    """Mean F1 over the classes that occur in the labels or the predictions."""
    both = true + predicted
    return float(np.mean(2.0 * right[both > 0] / both[both > 0]))


def _cohen_kappa(right: Counts, true: Counts, predicted: Counts) -> float:
    """Agreement of predictions and labels beyond chance, -1 to 1."""
    by_chance = true @ predicted / true.sum() ** 2
    accuracy = _accuracy(right, true, predicted)
    return float((accuracy - by_chance) / (1.0 - by_chance)) if by_chance < 1.0 else math.nan


_METRICS: dict[str, Callable[[Counts, Counts, Counts], float]] = {
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
    right = labels[labels == predictions]
    counted = [torch.bincount(one, minlength=n_classes) for one in (right, labels, predictions)]
    return _METRICS[name](*torch.stack(counted).double().cpu().numpy())


def worst_value(name: str) -> float:
    """Return the least value of a metric, the fitness of a plan that cannot be trained."""
    return -1.0 if name == "cohen_kappa" else 0.0
