"""What libraries log, above the progress bar instead of through it."""

from __future__ import annotations

import logging

import optuna
from rich.console import Console
from rich.logging import RichHandler


def log_to(console: Console) -> None:
    """Show this package's warnings and Optuna's errors on a console.

    Optuna's warnings tell of each trial that fails, which the progress does, too.

    Args:
        console: The console.
    """
    optuna.logging.disable_default_handler()
    handler = RichHandler(logging.WARNING, console, show_time=False, show_path=False)
    for name, level in (("optuna", logging.ERROR), ("optuna_biotune", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.addHandler(handler)
        logger.propagate = False
