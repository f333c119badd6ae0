"""The measures of a classifier, computed once an epoch from all predictions by torchmetrics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_cohen_kappa,
    multiclass_f1_score,
    multiclass_recall,
)


def _accuracy(predictions: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Share of the items that are classified right."""
    result: Tensor = multiclass_accuracy(
        predictions, labels, n_classes, average="micro", validate_args=False
    )
    return result


def _balanced_accuracy(predictions: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Mean recall over the classes that occur in the labels.

    The macro average of torchmetrics also counts a class that was only predicted, as recall 0.
    """
    recalls: Tensor = multiclass_recall(
        predictions, labels, n_classes, average=None, validate_args=False
    )
    return recalls[torch.unique(labels)].mean()


def _macro_f1(predictions: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Mean F1 over the classes that occur in the labels or the predictions."""
    result: Tensor = multiclass_f1_score(
        predictions, labels, n_classes, average="macro", validate_args=False
    )
    return result


def _cohen_kappa(predictions: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Agreement of predictions and labels beyond chance, -1 to 1."""
    result: Tensor = multiclass_cohen_kappa(predictions, labels, n_classes, validate_args=False)
    return result


_METRICS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
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
    return float(_METRICS[name](predictions, labels, n_classes))


def worst_value(name: str) -> float:
    """Return the least value of a metric, the fitness of a plan that cannot be trained."""
    return -1.0 if name == "cohen_kappa" else 0.0
