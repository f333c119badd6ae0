from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from optuna_biotune.finetune.metrics import METRIC_NAMES, compute_metric, worst_value

N_CLASSES = 5
REFERENCE: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": sklearn_metrics.accuracy_score,
    "balanced_accuracy": sklearn_metrics.balanced_accuracy_score,
    "macro_f1": lambda labels, predictions: sklearn_metrics.f1_score(
        labels, predictions, average="macro", zero_division=0
    ),
    "cohen_kappa": sklearn_metrics.cohen_kappa_score,
}
classes = st.integers(0, N_CLASSES - 1)


@given(pairs=st.lists(st.tuples(classes, classes), min_size=2, max_size=30))
def test_metrics_agree_with_scikit_learn_even_where_classes_are_absent(
    pairs: list[tuple[int, int]],
) -> None:
    labels, predictions = np.array(pairs).T
    for name in METRIC_NAMES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = REFERENCE[name](labels, predictions)
        value = compute_metric(name, torch.tensor(predictions), torch.tensor(labels), N_CLASSES)
        assert value == pytest.approx(expected, abs=1e-6, nan_ok=True), name


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_no_prediction_is_worse_than_the_worst_value(name: str) -> None:
    labels = torch.tensor([0, 1, 0, 1])
    assert compute_metric(name, 1 - labels, labels, 2) == pytest.approx(worst_value(name))
