"""Which of the evaluated plans is best, and how much better another might be."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_biotune.encoding import Encoding
from optuna_biotune.genotype import FineTuningPlan
from optuna_biotune.prescreen import Prescreener
from optuna_biotune.study_reader import StudyReader

# What stands in for parameters that a trial lacks need not differ from study to study.
_SEED = 0

_N_DRAWS = 64


@dataclass(frozen=True)
class Recommendation:
    """The plan that a study recommends, and what is expected of it.

    Attributes:
        trial: The trial that evaluated it.
        value: Its expected value, without the luck of its own evaluation.
        regret: How much better the best plan is expected to be, in the unit of the values.
        noise: Standard deviation of one evaluation of the same plan, as the trials show it.
    """

    trial: FrozenTrial
    value: float
    regret: float
    noise: float


def best_trial(study: Study) -> FrozenTrial:
    """Return the trial whose plan is best by all that the study's trials say.

    The trial of the greatest value is the luckiest among the good ones: validation values vary with
    seeds and data, and the greatest of many is greater than what its plan is worth. Here the plans
    are compared by their expected values under a Gaussian process over phenotypes, fitted to all
    trials, in which similar plans support each other.

    Args:
        study: A study of one objective with :func:`optuna_biotune.suggest_plan`'s parameters, or
            any others; from any sampler. It is not changed.

    Returns:
        A complete trial, feasible if there is one. With fewer than three complete trials, the one
        of the best value.

    Raises:
        ValueError: If the study has several objectives, or no complete trial.
    """
    surrogate = _prescreener(study)
    if surrogate is None:
        return study.best_trial
    reader, prescreener = surrogate
    return copy.deepcopy(reader.trials[_best_number(reader, prescreener)])


def best_plan(study: Study) -> FineTuningPlan:
    """Return the plan of :func:`best_trial`.

    Raises:
        ValueError: If the study has several objectives, no complete trial, or no plans.
    """
    return FineTuningPlan.from_trial(best_trial(study))


def recommend(study: Study) -> Recommendation | None:
    """Recommend a plan, and estimate how much better another might be.

    The regret is the mean, over functions drawn from the posterior, of the difference between
    the best of hundreds of plans and the recommended one.

    Args:
        study: As for :func:`best_trial`.

    Returns:
        None with fewer than three complete trials.

    Raises:
        ValueError: If the study has several objectives, or no complete trial.
    """
    surrogate = _prescreener(study)
    if surrogate is None:
        return None
    reader, prescreener = surrogate
    number = _best_number(reader, prescreener)
    model = prescreener.surrogate
    rng = np.random.default_rng([_SEED, len(reader.trials)])
    candidates = prescreener.candidates(rng)
    evidence = prescreener.evidence
    row = int(np.flatnonzero(evidence.numbers == number)[0])
    own = model.features_of(evidence.genes[[row]], evidence.choices[[row]])
    places = np.concatenate([own, model.features_of(candidates.genes, candidates.choices)])
    process = model.losses[0]
    draws = process.draw(places, rng, _N_DRAWS)
    loss = float(process.mean(own)[0])
    return Recommendation(
        trial=reader.trials[number],
        value=-loss if study.direction.name == "MAXIMIZE" else loss,
        regret=float((draws[:, 0] - draws.min(axis=1)).mean()),
        noise=process.noise_deviation,
    )


def _prescreener(study: Study) -> tuple[StudyReader, Prescreener] | None:
    """Read a study; None if it has too few complete trials for a surrogate."""
    if len(study.directions) > 1:
        raise ValueError(
            "The study has several objectives, so that no plan is best: choose among "
            "`study.best_trials`."
        )
    reader = StudyReader(study, population_size=2, elite_size=1)
    reader.read(study, -1)
    n_complete = sum(trial.state == TrialState.COMPLETE for trial in reader.trials)
    if n_complete == 0:
        raise ValueError("The study has no complete trial yet.")
    space = {name: one for name, one in reader.search_space.items() if not one.single()}
    if n_complete < 3 or not space:
        return None
    encoding = Encoding(space)
    return reader, Prescreener(reader.evidence(space, encoding, _SEED), encoding)


def _best_number(reader: StudyReader, prescreener: Prescreener) -> int:
    """Return the number of the complete trial of the least expected loss, feasible ones first."""
    evidence = prescreener.evidence
    model = prescreener.surrogate
    expected = model.losses[0].mean(model.features_of(evidence.genes, evidence.choices))
    unfinished = [reader.trials[number].state != TrialState.COMPLETE for number in evidence.numbers]
    best = np.lexsort((expected, evidence.violations, unfinished))[0]
    return int(evidence.numbers[best])
