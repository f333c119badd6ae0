"""Regression: against scikit-learn's, and by what a sampler relies on."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from optuna_biotune.gaussian_process import (
    FloatArray,
    GaussianProcess,
    Hyperparameters,
    _negative_log_evidence,
)


@pytest.fixture
def places() -> FloatArray:
    return np.random.default_rng(0).uniform(-1.0, 1.0, (40, 4))


@pytest.fixture
def targets(places: FloatArray) -> FloatArray:
    noise = 0.05 * np.random.default_rng(1).standard_normal(len(places))
    return np.asarray(np.sin(2.0 * places[:, 0]) + places[:, 1] ** 2 + noise)


def test_the_posterior_is_that_of_scikit_learn(places: FloatArray, targets: FloatArray) -> None:
    given = Hyperparameters(0.8, np.asarray([1.0, 0.7, 2.0, 3.0]), 0.02)
    ours = GaussianProcess(places, targets, hyperparameters=given)
    theirs = GaussianProcessRegressor(
        ConstantKernel(given.variance) * Matern(given.lengths, nu=2.5) + WhiteKernel(given.noise),
        optimizer=None,
        normalize_y=True,
        alpha=0.0,
    ).fit(places, targets)
    unseen = np.random.default_rng(2).uniform(-1.0, 1.0, (15, 4))
    mean, covariance = ours.joint(unseen)
    expected, expected_covariance = theirs.predict(unseen, return_cov=True)
    noise = given.noise * targets.std() ** 2
    np.testing.assert_allclose(mean, expected, atol=1e-8)
    np.testing.assert_allclose(ours.mean(unseen), expected, atol=1e-8)
    np.testing.assert_allclose(covariance, expected_covariance - noise * np.eye(15), atol=1e-8)


def test_the_evidence_has_the_gradient_that_the_fit_follows(
    places: FloatArray, targets: FloatArray
) -> None:
    planes = ((places.T[:, :, None] - places.T[:, None, :]) ** 2).reshape(4, -1)
    standardised = (targets - targets.mean()) / targets.std()
    at = np.log(np.asarray([0.9, 1.2, 0.8, 2.0, 3.0, 0.1]))
    error = check_grad(
        lambda x: _negative_log_evidence(x, planes, standardised)[0],
        lambda x: _negative_log_evidence(x, planes, standardised)[1],
        at,
    )
    assert error < 1e-3


def test_features_that_do_not_matter_get_longer_scales(
    places: FloatArray, targets: FloatArray
) -> None:
    lengths = GaussianProcess(places, targets).hyperparameters.lengths
    assert lengths[:2].max() < lengths[2:].min()


def test_the_noise_is_found(places: FloatArray, targets: FloatArray) -> None:
    assert 0.02 < GaussianProcess(places, targets).noise_deviation < 0.12


def test_pending_places_leave_the_mean_and_take_the_doubt(
    places: FloatArray, targets: FloatArray
) -> None:
    pending = np.asarray([[0.9, 0.9, -0.9, 0.9]])
    without = GaussianProcess(places, targets)
    given = without.hyperparameters
    beside = GaussianProcess(places, targets, hyperparameters=given, pending=pending)
    np.testing.assert_allclose(beside.mean(places), without.mean(places), atol=1e-8)
    assert beside.joint(pending)[1][0, 0] < 0.5 * without.joint(pending)[1][0, 0]


def test_draws_have_the_posterior_mean_and_spread(places: FloatArray, targets: FloatArray) -> None:
    process = GaussianProcess(places, targets)
    unseen = np.random.default_rng(2).uniform(-1.0, 1.0, (5, 4))
    draws = process.draw(unseen, np.random.default_rng(3), 4000)
    mean, covariance = process.joint(unseen)
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.02)


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_constant_targets_and_equal_places_can_be_fitted(value: float) -> None:
    process = GaussianProcess(np.zeros((8, 3)), np.full(8, value))
    assert process.mean(np.ones((1, 3)))[0] == pytest.approx(value)
    assert np.isfinite(process.draw(np.ones((4, 3)), np.random.default_rng(0))).all()


def test_a_fit_of_127_trials_of_nine_blocks_takes_under_100_ms_of_processor_time() -> None:
    rng = np.random.default_rng(0)
    places, targets = rng.uniform(-1.0, 1.0, (127, 18)), rng.random(127)
    seconds = []
    for _ in range(3):
        start = time.thread_time()
        GaussianProcess(places, targets)
        seconds.append(time.thread_time() - start)
    assert min(seconds) < 0.1
