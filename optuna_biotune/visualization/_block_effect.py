"""What freezing each block, and training it faster, does to the objective's value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from optuna import Study
from sklearn.linear_model import BayesianRidge

from optuna_biotune.visualization import _style
from optuna_biotune.visualization._target import TargetFunction, read_target
from optuna_biotune.visualization._trials import PlannedTrial, planned_trials

FloatArray = npt.NDArray[np.float64]

_LEAST_TRIALS = 3
# A normal distribution has 95 % of its mass this many standard deviations about its mean.
_DEVIATIONS_OF_95_PERCENT = 1.96


@dataclass(frozen=True)
class Effect:
    """How much something changes a value.

    Attributes:
        change: The expected change of the value.
        error: Half of its 95 % credible interval.
    """

    change: float
    error: float


@dataclass(frozen=True)
class BlockEffect:
    """What can be done to a block, and what that does to a value.

    Attributes:
        n_frozen: In how many trials the block is frozen.
        freezing: Effect of freezing it instead of training it at the base rate; None if it is
            frozen in all trials or in none.
        faster: Effect of training it at ten times the rate; None if no trial trains it at another
            rate than the others.
    """

    n_frozen: int
    freezing: Effect | None
    faster: Effect | None


def plot_block_effect(
    study: Study,
    *,
    target: TargetFunction | None = None,
    target_name: str | None = None,
) -> go.Figure:
    """Plot what freezing or tuning each block does to the objective's value.

    Two effects a block, each with the other blocks held as they are: that of freezing it instead of
    training it at the base learning rate, and that of ten times its learning rate. They are
    estimated together from all complete trials by Bayesian ridge regression, in which the effects
    of blocks add up; bars are 95 % credible intervals. The evolution does not try plans evenly, so
    read intervals that reach over zero as "not known".

    Args:
        study: The study.
        target: Gives the value of a trial. None: the objective's value, if there is one objective.
        target_name: Its name.

    Raises:
        TypeError: If ``study`` is no study.
        ValueError: If no trial has finished, none has a plan, fewer than 3 are complete, or
            ``target`` is missing.
    """
    planned = planned_trials(study)
    values = read_target(study, planned, target, target_name)
    measured = [one for one in planned if one.number in values.values]
    if len(measured) < _LEAST_TRIALS:
        raise ValueError(
            f"`study` {study.study_name!r} has {len(measured)} complete trials with a plan and a "
            f"finite value; effects need at least {_LEAST_TRIALS}."
        )
    effects = block_effects(measured, [values.values[one.number] for one in measured])
    figure = go.Figure()
    figure.add_hline(y=0.0, line={"color": _style.MUTED, "width": 1})
    _draw(figure, effects, "frozen, not trained at the base rate", "freezing", -0.13, _style.BLUE)
    _draw(figure, effects, "trained 10 times as fast", "faster", 0.13, _style.VERMILION)
    for x, effect in enumerate(effects.values()):
        if effect.freezing is None:
            text = "never<br>frozen" if effect.n_frozen == 0 else "always<br>frozen"
            figure.add_annotation(
                x=x,
                y=0.0,
                yref="paper",
                yanchor="bottom",
                text=text,
                showarrow=False,
                font={"size": 11, "color": _style.MUTED},
            )
    figure.update_xaxes(
        title_text="Block, from input to head",
        tickvals=list(range(len(effects))),
        ticktext=list(effects),
        range=[-0.5, len(effects) - 0.5],
        showgrid=False,
    )
    figure.update_yaxes(title_text=f"Change of {values.name_within}")
    _style.finish(
        figure,
        "Effect of each block",
        f"Bayesian ridge regression on {_style.counted(len(measured), 'complete trial')}; "
        "bars: 95 % credible intervals",
    )
    figure.update_layout(legend=_style.LEGEND_ABOVE)
    return figure


def block_effects(
    trials: Sequence[PlannedTrial], values: Sequence[float]
) -> dict[str, BlockEffect]:
    """Estimate the effects of each block on a value, block name to effect, in block order.

    Args:
        trials: At least one trial.
        values: Their values.
    """
    names = trials[0].plan.names
    rates = np.asarray([[one.plan.multipliers[name] for name in names] for one in trials])
    frozen = rates == 0.0
    speed = np.where(frozen, 0.0, np.log10(np.where(frozen, 1.0, rates)))
    estimated = _regress(np.hstack([frozen.astype(np.float64), speed]), np.asarray(values))
    return {
        name: BlockEffect(
            int(frozen[:, block].sum()), estimated[block], estimated[block + len(names)]
        )
        for block, name in enumerate(names)
    }


def _regress(features: FloatArray, values: FloatArray) -> list[Effect | None]:
    """Return the effect of one more of each feature, None of features that do not vary.

    Args:
        features: Shape [trials, features].
        values: Shape [trials].
    """
    varies = np.ptp(features, axis=0) > 1e-9
    effects: list[Effect | None] = [None] * len(varies)
    scale = float(values.std())
    if not varies.any():
        return effects
    used = features[:, varies]
    centred = used - used.mean(axis=0)
    # The weak prior of the noise, half a standard deviation of the values and worth two of them,
    # keeps the regression from taking a few trials for free of noise.
    model = BayesianRidge(alpha_1=1.0, alpha_2=0.25).fit(
        centred, (values - values.mean()) / (scale or 1.0)
    )
    # scikit-learn's own covariance is too small where there are fewer trials than features.
    precision = model.alpha_ * centred.T @ centred + model.lambda_ * np.eye(centred.shape[1])
    deviations = np.sqrt(np.diag(np.linalg.inv(precision)))
    for column, change, deviation in zip(
        np.flatnonzero(varies), model.coef_, deviations, strict=True
    ):
        error = _DEVIATIONS_OF_95_PERCENT * float(deviation) * scale
        effects[column] = Effect(float(change) * scale, error)
    return effects


def _draw(
    figure: go.Figure,
    effects: dict[str, BlockEffect],
    name: str,
    kind: str,
    offset: float,
    color: str,
) -> None:
    known = [
        (x, block, effect, one.n_frozen)
        for x, (block, one) in enumerate(effects.items())
        if (effect := getattr(one, kind)) is not None
    ]
    figure.add_trace(
        go.Scatter(
            x=[x + offset for x, _, _, _ in known],
            y=[effect.change for _, _, effect, _ in known],
            error_y={
                "array": [effect.error for _, _, effect, _ in known],
                "color": color,
                "thickness": 2,
                "width": 5,
            },
            customdata=[[block, effect.error, n] for _, block, effect, n in known],
            mode="markers",
            marker={
                "size": 10,
                "color": color,
                "symbol": "square" if kind == "freezing" else "triangle-up",
            },
            name=name,
            hovertemplate="%{customdata[0]} " + name + ": %{y:+.3g} ± %{customdata[1]:.2g}"
            "<br>frozen in %{customdata[2]} trials<extra></extra>",
        )
    )
