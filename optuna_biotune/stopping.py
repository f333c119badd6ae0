"""Ends a search once no plan is expected to be noticeably better."""

from __future__ import annotations

import logging

from optuna import Study
from optuna.trial import FrozenTrial

from optuna_biotune.recommendation import recommend

_logger = logging.getLogger("optuna_biotune")


class StopOnPlateau:
    """A callback for ``study.optimize`` that stops it when further trials would be for nothing.

    After each trial the expected regret of the recommended plan
    (:func:`optuna_biotune.best_trial`) is estimated: by how much the best plan is expected to be
    better. The search stops once that is below ``tolerance`` times the standard deviation of a
    single evaluation, for ``patience`` trials in a row: nothing that is left to gain would be seen
    in an evaluation. It says so in the log, as a warning.

    With several workers, give the callback to each: each stops for itself.

    Args:
        min_trials: Trials, in all states, before which the search never stops; at least 3.
        tolerance: Multiple of the standard deviation of an evaluation, above 0.
        patience: Trials in a row whose regret must be small, at least 1.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, *, min_trials: int = 20, tolerance: float = 1.0, patience: int = 5) -> None:
        if min_trials < 3:
            raise ValueError(f"`min_trials` must be at least 3, but got {min_trials}.")
        if not tolerance > 0.0:
            raise ValueError(f"`tolerance` must be above 0, but got {tolerance}.")
        if patience < 1:
            raise ValueError(f"`patience` must be at least 1, but got {patience}.")
        self._min_trials = min_trials
        self._tolerance = tolerance
        self._patience = patience
        self._n_small = 0

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Stop the study if the plateau is reached.

        Args:
            study: A study of one objective that is being optimised.
            trial: The trial that has just finished.

        Raises:
            ValueError: If the study has several objectives.
        """
        if trial.number + 1 < self._min_trials:
            return
        found = recommend(study)
        if found is None or not self.is_reached(trial.number + 1, found.regret, found.noise):
            return
        _logger.warning(
            "Stopped after trial %d: the best plan is expected to be better than that of trial %d "
            "by %.4f, and one evaluation varies by %.4f.",
            trial.number,
            found.trial.number,
            found.regret,
            found.noise,
        )
        study.stop()

    def is_reached(self, n_trials: int, regret: float, noise: float) -> bool:
        """Tell whether the plateau is reached, and remember for how many trials in a row.

        Args:
            n_trials: Trials so far.
            regret: How much better the best plan is expected to be than the recommended one.
            noise: Standard deviation of an evaluation, in the same unit.
        """
        if n_trials < self._min_trials or regret > self._tolerance * noise:
            self._n_small = 0
            return False
        self._n_small += 1
        return self._n_small >= self._patience
