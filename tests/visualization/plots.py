"""All plots, and ways to make studies for them and to look into figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna.trial import TrialState

from optuna_biotune import FineTuningPlan, visualization

Plot = Callable[..., go.Figure]

# Every plot, and those that show a value, which several objectives need a target for.
PLOTS: list[Plot] = [getattr(visualization, name) for name in visualization.__all__]
PLOTS_OF_A_VALUE: list[Plot] = [
    visualization.plot_accuracy_cost,
    visualization.plot_block_effect,
    visualization.plot_evolution,
    visualization.plot_lineage,
]


def first_value(trial: optuna.trial.FrozenTrial) -> float:
    return float(trial.values[0])


def trace(figure: go.Figure, name: str) -> Any:
    (found,) = [one for one in figure.data if one.name == name]
    return found


def trials_in(study: optuna.Study, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(states=states)


def planned(params: list[FineTuningPlan], values: list[float]) -> optuna.Study:
    """Return a study of these plans with these values."""
    study = optuna.create_study(direction="maximize")
    for plan, value in zip(params, values, strict=True):
        study.add_trial(
            optuna.trial.create_trial(
                value=value,
                params=plan.to_params(),
                distributions={
                    name: optuna.distributions.FloatDistribution(0.0, 1.0)
                    for name in plan.to_params()
                },
            )
        )
    return study
