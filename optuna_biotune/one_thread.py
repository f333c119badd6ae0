"""Linear algebra in a single thread."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
T = TypeVar("T")


def in_one_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function's linear algebra (BLAS) run in one thread.

    Matrices of a few hundred rows gain nothing from several, and where the other cores are busy,
    with a training or with other workers, threads that wait for each other take a hundred times as
    long. Results no longer depend on the number of cores, either. While the function runs, the
    limit holds for the whole process.
    """

    @functools.wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> T:
        with _controller().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return limited


@functools.cache
def _controller() -> ThreadpoolController:
    """Return what controls the libraries that are loaded, which takes long to find out."""
    return ThreadpoolController()
