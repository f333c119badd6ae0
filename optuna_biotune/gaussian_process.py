"""Gaussian process regression of few, noisy values over features in [-1, 1].

Ours rather than scikit-learn's for what a sampler needs of it: priors on the kernel's parameters,
so that ten values do for a dozen length scales; a fit that takes a tenth of the time; and joint
draws from the posterior at hundreds of places at once.

Reference: Rasmussen, Williams, "Gaussian Processes for Machine Learning", MIT Press, 2006.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, solve_triangular
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize

from optuna_biotune.one_thread import in_one_thread

FloatArray = npt.NDArray[np.float64]

# Medians and deviations of the log-normal priors; targets have mean 0 and deviation 1.
_VARIANCE_PRIOR = (1.0, 1.0)
_LENGTH_PRIOR = (1.5, 0.8)
_NOISE_PRIOR = (0.05, 1.0)
_LOG_BOUNDS = (-9.0, 5.0)

# Noise is never less, so that equal features cannot break the factorisation.
_LEAST_NOISE = 1e-4
# Of the prior variance, added to a joint draw's covariance, which rounding makes indefinite.
_JITTER = 1e-6

# The posterior of the parameters is flat around its mode: more steps change no ranking.
_MOST_STEPS = 25
# A dozen parameters need no more targets, and each step costs the cube of their number.
_MOST_FITTED = 128

_SQRT_5 = 5.0**0.5


@dataclass(frozen=True)
class Hyperparameters:
    """Parameters of the kernel: Matérn with smoothness 5/2, one length scale a feature.

    Attributes:
        variance: Prior variance of the function.
        lengths: Length scales, shape [features].
        noise: Variance of the noise of a target.
    """

    variance: float
    lengths: FloatArray
    noise: float

    @classmethod
    def most_probable(cls, features: FloatArray, targets: FloatArray) -> Hyperparameters:
        """Return the parameters of the greatest posterior density (chapter 5 of the reference).

        Args:
            features: Shape [n, features]. Of more than 128 rows, evenly spaced ones are used.
            targets: Shape [n], with mean 0 and standard deviation 1.
        """
        every = -(-len(targets) // _MOST_FITTED)
        features, targets = features[::every], targets[::every]
        log_prior = np.log([_VARIANCE_PRIOR[0], *[_LENGTH_PRIOR[0]] * features.shape[1]])
        medians = np.append(log_prior, np.log(_NOISE_PRIOR[0]))
        deviations = np.full(len(medians), _LENGTH_PRIOR[1])
        deviations[[0, -1]] = _VARIANCE_PRIOR[1], _NOISE_PRIOR[1]
        # One plane of squared differences a feature, flat, so that sums are matrix products.
        differences = (features.T[:, :, None] - features.T[:, None, :]) ** 2
        planes = differences.reshape(features.shape[1], -1)

        def loss(log_values: FloatArray) -> tuple[float, FloatArray]:
            value, gradient = _negative_log_evidence(log_values, planes, targets)
            standing = (log_values - medians) / deviations
            return value + 0.5 * float(standing @ standing), gradient + standing / deviations

        found = minimize(
            loss,
            medians,
            jac=True,
            method="L-BFGS-B",
            bounds=[_LOG_BOUNDS] * len(medians),
            options={"maxiter": _MOST_STEPS},
        )
        values = np.exp(found.x)
        return cls(float(values[0]), values[1:-1], float(values[-1]) + _LEAST_NOISE)

    def kernel(self, first: FloatArray, second: FloatArray) -> FloatArray:
        """Return the prior covariances of the rows of two feature arrays."""
        first, second = first / self.lengths, second / self.lengths
        squared = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2.0 * first @ second.T
        return self.variance * _matern(np.sqrt(np.maximum(squared, 0.0)))


def _matern(distance: FloatArray) -> FloatArray:
    """Return the Matérn 5/2 correlation at scaled distances (eq. 4.17)."""
    correlation: FloatArray = (1.0 + _SQRT_5 * distance + 5.0 / 3.0 * distance**2) * np.exp(
        -_SQRT_5 * distance
    )
    return correlation


def _negative_log_evidence(
    log_values: FloatArray, planes: FloatArray, targets: FloatArray
) -> tuple[float, FloatArray]:
    """Return the negative log marginal likelihood and its gradient (eq. 5.8 and 5.9)."""
    n = len(targets)
    variance, noise = np.exp(log_values[0]), np.exp(log_values[-1])
    inverse_squares = np.exp(-2.0 * log_values[1:-1])
    scaled = _SQRT_5 * np.sqrt(inverse_squares @ planes).reshape(n, n)
    # Matérn 5/2 again (eq. 4.17), in parts that the derivative shares.
    decay = variance * np.exp(-scaled)
    rise = (1.0 + scaled) * decay
    kernel = rise + scaled**2 / 3.0 * decay
    try:
        factor = np.linalg.cholesky(kernel + (noise + _LEAST_NOISE) * np.eye(n))
    except np.linalg.LinAlgError:
        return float(np.finfo(float).max), np.zeros_like(log_values)
    # LAPACK fills one triangle only.
    half, _ = dpotri(factor, lower=True)
    inverse = np.tril(half) + np.tril(half, -1).T
    weights = inverse @ targets
    value = 0.5 * float(targets @ weights) + float(np.log(np.diag(factor)).sum())
    residue = 0.5 * (inverse - np.outer(weights, weights))
    # The kernel's derivative by the squared distance.
    slope = -5.0 / 6.0 * rise
    gradient = np.empty_like(log_values)
    gradient[0] = (residue * kernel).sum()
    gradient[1:-1] = -2.0 * inverse_squares * (planes @ (residue * slope).ravel())
    gradient[-1] = np.trace(residue) * noise
    return value, gradient


class GaussianProcess:
    """A posterior over functions, given noisy values of one of them.

    Args:
        features: Shape [n, features], n at least 1.
        targets: Finite values, shape [n].
        hyperparameters: Parameters of the kernel; None for the most probable ones.
        pending: Features of places whose values are not known yet, shape [m, features]. The
            posterior is as sure about them as though they were known, so that nobody goes there
            again; its mean does not change.
    """

    @in_one_thread
    def __init__(
        self,
        features: FloatArray,
        targets: FloatArray,
        *,
        hyperparameters: Hyperparameters | None = None,
        pending: FloatArray | None = None,
    ) -> None:
        self._offset = float(targets.mean())
        self._scale = float(targets.std()) or 1.0
        standardised = (targets - self._offset) / self._scale
        self.hyperparameters = hyperparameters or Hyperparameters.most_probable(
            features, standardised
        )
        self._condition(features, standardised)
        if pending is not None and len(pending):
            believed = (self.mean(pending) - self._offset) / self._scale
            self._condition(
                np.concatenate([features, pending]), np.concatenate([standardised, believed])
            )

    def _condition(self, features: FloatArray, targets: FloatArray) -> None:
        self._features = features
        covariance = self.hyperparameters.kernel(features, features)
        covariance[np.diag_indices_from(covariance)] += self.hyperparameters.noise
        self._factor = np.linalg.cholesky(covariance)
        self._weights = cho_solve((self._factor, True), targets)

    @property
    def noise_deviation(self) -> float:
        """Standard deviation of the noise of a value, in the values' unit."""
        return self._scale * float(np.sqrt(self.hyperparameters.noise))

    @in_one_thread
    def mean(self, features: FloatArray) -> FloatArray:
        """Return the posterior mean of the function, shape [n] (eq. 2.25)."""
        covariance = self.hyperparameters.kernel(features, self._features)
        mean: FloatArray = covariance @ self._weights * self._scale + self._offset
        return mean

    @in_one_thread
    def joint(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the posterior mean and covariance of the function (eq. 2.25 and 2.26).

        Args:
            features: Shape [n, features].

        Returns:
            Arrays [n] and [n, n], in the unit of the values and its square.
        """
        covariance = self.hyperparameters.kernel(features, self._features)
        explained = solve_triangular(self._factor, covariance.T, lower=True)
        prior = self.hyperparameters.kernel(features, features)
        mean = covariance @ self._weights * self._scale + self._offset
        return mean, (prior - explained.T @ explained) * self._scale**2

    @in_one_thread
    def draw(self, features: FloatArray, rng: np.random.Generator, n_draws: int = 1) -> FloatArray:
        """Draw functions from the posterior.

        Args:
            features: Places, shape [n, features].
            rng: Source of the draws.
            n_draws: How many functions.

        Returns:
            Their values at the places, shape [n_draws, n].
        """
        mean, covariance = self.joint(features)
        variance = self.hyperparameters.variance * self._scale**2
        covariance[np.diag_indices_from(covariance)] += _JITTER * variance
        factor = np.linalg.cholesky(covariance)
        draws: FloatArray = mean + rng.standard_normal((n_draws, len(mean))) @ factor.T
        return draws
