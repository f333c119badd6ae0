from __future__ import annotations

import numpy as np
import scipy.linalg  # noqa: F401  (its library is to be limited, too)
from threadpoolctl import ThreadpoolController, threadpool_limits

from optuna_biotune.gaussian_process import GaussianProcess
from optuna_biotune.one_thread import in_one_thread


def blas_threads() -> set[int]:
    libraries = ThreadpoolController().select(user_api="blas").info()
    return {library["num_threads"] for library in libraries}


def test_a_function_has_one_thread_and_its_caller_has_all_again() -> None:
    with threadpool_limits(2, user_api="blas"):
        assert in_one_thread(blas_threads)() == {1}
        assert blas_threads() == {2}


def test_what_the_surrogate_says_does_not_depend_on_the_number_of_threads() -> None:
    rng = np.random.default_rng(0)
    features, targets = rng.uniform(-1.0, 1.0, (150, 12)), rng.standard_normal(150)
    means = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            means.append(GaussianProcess(features, targets).mean(features))
    np.testing.assert_array_equal(means[0], means[1])
