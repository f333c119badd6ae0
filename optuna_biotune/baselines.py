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
    """Return the baseline that a trial is to try; None if there is none left for it.

    Workers who begin together take different ones: each earlier trial that has no parameters yet
    will take one before this trial does. A baseline that failed is tried once more.

    Args:
        names: Names of the blocks, in order.
        trials: All trials of the study, by number.
        number: Number of the trial.
    """
    others = [trial for trial in trials if trial.number != number]
    failures = [_plan_of(trial, names) for trial in others if trial.state == TrialState.FAIL]
    tried = [_plan_of(trial, names) for trial in others if trial.state != TrialState.FAIL]
    free = [
        plan
        for plan in baselines(names)
        if plan not in tried and failures.count(plan) < _MOST_FAILURES
    ]
    ahead = [
        trial
        for trial in others
        if trial.number < number and trial.state == TrialState.RUNNING and not trial.params
    ]
    return free[len(ahead)] if len(ahead) < len(free) else None


def _plan_of(trial: FrozenTrial, names: Sequence[str]) -> FineTuningPlan | None:
    """Return a trial's plan for these blocks; None if it has none, or not yet."""
    keys = [*(f"{IMPORTANCE_PREFIX}{name}" for name in names), THRESHOLD_NAME]
    if not trial.params.keys() >= set(keys):
        return None
    *importance, threshold = (trial.params[key] for key in keys)
    return FineTuningPlan.from_genes(names, importance, threshold)
