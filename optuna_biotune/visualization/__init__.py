"""Plots of studies of fine-tuning plans, as :mod:`optuna.visualization` has them.

A study in, a plotly ``Figure`` out, with any sampler's trials: all that a plot needs is a plan's
parameters, those of :func:`optuna_biotune.suggest_plan`. Failed and unfinished trials are left out,
and so are trials of other blocks than most of the study's trials have.

With several objectives, plots of the objective's value need a ``target``, such as
``lambda trial: trial.values[0]``.
"""

from optuna_biotune.visualization._accuracy_cost import plot_accuracy_cost
from optuna_biotune.visualization._best_plan import plot_best_plan
from optuna_biotune.visualization._block_effect import plot_block_effect
from optuna_biotune.visualization._evolution import plot_evolution
from optuna_biotune.visualization._lineage import plot_lineage
from optuna_biotune.visualization._plans import plot_plans

__all__ = [
    "plot_accuracy_cost",
    "plot_best_plan",
    "plot_block_effect",
    "plot_evolution",
    "plot_lineage",
    "plot_plans",
]
