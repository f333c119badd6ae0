"""The usual ways to fine-tune, which a prescreened search tries before it looks for better ones."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from optuna_biotune.genotype import IMPORTANCE_PREFIX, THRESHOLD_NAME, FineTuningPlan

# How many of the last blocks train (None: all), and their multiplier. A base learning rate is
# seldom the right one for full fine-tuning, so rates around it are tried, too.
_BASELINES = ((None, 1.0), (1, 1.0), (2, 1.0), (None, 10.0**0.5), (None, 10.0**-0.5))

# One that fails as often may always fail.
_MOST_FAILURES = 2


def baselines(names: Sequence[str]) -> tuple[FineTuningPlan, ...]:
    """Return the plans that are tried first, in their order, each once.

    All blocks, the last one and the last two at the base learning rate; all blocks at 3.2 and at
    0.32 times that rate.

    Args:
        names: Names of the blocks, in order; none gives no plan.
    """
    plans: list[FineTuningPlan] = []
    for n_trained, multiplier in _BASELINES:
        if not 1 <= (n_trained or len(names)) <= len(names):
            continue
        trained = FineTuningPlan.last_blocks(names, n_trained or len(names)).trainable
        plan = FineTuningPlan({name: multiplier * (name in trained) for name in names})
        if plan not in plans:
            plans.append(plan)
    return tuple(plans)


def next_baseline(
    names: Sequence[str], trials: Sequence[FrozenTrial], number: int
) -> FineTuningPlan | None:
    """Return the baseline that a trial is to try; None if there is none for it.

    The baselines are given out in turns, by the trial's number, so that no two workers take the
    same one, whatever they have read. One that was not tried in its turn, or failed, has its turn
    again; one that failed twice has not.

    Args:
        names: Names of the blocks, in order.
        trials: All trials of the study, by number.
        number: Number of the trial.
    """
    plans = baselines(names)
    if not plans:
        return None
    turn = number % len(plans)
    plan = plans[turn]
    failures = 0
    for trial in trials:
        if trial.number == number:
            continue
        found = _plan_of(trial, names)
        may_take_it = trial.number < number and trial.number % len(plans) == turn
        if trial.state == TrialState.FAIL:
            failures += found == plan
        elif found == plan or (found is None and may_take_it and not trial.state.is_finished()):
            return None
    return plan if failures < _MOST_FAILURES else None


def _plan_of(trial: FrozenTrial, names: Sequence[str]) -> FineTuningPlan | None:
    """Return a trial's plan for these blocks; None if it has none, or not yet."""
    keys = [*(f"{IMPORTANCE_PREFIX}{name}" for name in names), THRESHOLD_NAME]
    if not trial.params.keys() >= set(keys):
        return None
    *importance, threshold = (trial.params[key] for key in keys)
    return FineTuningPlan.from_genes(names, importance, threshold)
