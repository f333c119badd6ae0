"""Ways to spend the same number of trained networks on a search: how often to train each plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import optuna
from optuna.pruners import NopPruner
from optuna.trial import FrozenTrial, TrialState
from single_networks import Network, NetworkTrainer, Split, Training

from optuna_biotune import BioTuneSampler, suggest_plan
from optuna_biotune.tags import generation_of

# Seeds of what is trained anew; fixed ones begin at 0.
_FIRST_FRESH_SEED = 1_000

# A finalist is trained this often, and all finalists take this share of the networks.
_REPEATS = 5
_SHARE_OF_FINALISTS = 1 / 3


@dataclass(frozen=True)
class Situation:
    """What is known when a trial asks for its next network.

    Attributes:
        number: The trial's number.
        generation: Its generation.
        values: Values of its networks so far.
        earlier: Those of each earlier trial.
    """

    number: int
    generation: int
    values: Sequence[float]
    earlier: Sequence[Sequence[float]] = ()


NextNetwork = Callable[[Situation], Network | None]
"""Says which network a trial trains next; None if it has enough."""


def fixed_seeds(n: int, folds: int = 1) -> NextNetwork:
    """Train the same seeds for every plan, as ``FineTuningObjective(folds=folds)`` does.

    Args:
        n: Number of seeds.
        folds: Parts of the images; a generation uses one of them.
    """

    def following(now: Situation) -> Network | None:
        split = Split("parts", folds, now.generation % folds)
        return Network(len(now.values), split) if len(now.values) < n else None

    return following


def fresh_seeds(n: int) -> NextNetwork:
    """Train seeds that no other trial has.

    Args:
        n: Number of seeds.
    """

    def following(now: Situation) -> Network | None:
        done = len(now.values)
        return Network(_FIRST_FRESH_SEED + n * now.number + done) if done < n else None

    return following


def fresh_split(now: Situation) -> Network | None:
    """Train one seed that no other trial has, on a draw of the images that no other trial has."""
    if now.values:
        return None
    return Network(_FIRST_FRESH_SEED + now.number, Split("drawn", index=now.number))


def cross_validated(n: int) -> NextNetwork:
    """Cross-validate each plan over all images in ``n`` folds, with a fixed seed each."""

    def following(now: Situation) -> Network | None:
        done = len(now.values)
        return Network(done, Split("cross", n, done)) if done < n else None

    return following


def racing(most: int) -> NextNetwork:
    """Train another of the fixed seeds as long as a trial is among the best third so far.

    Compared are the means over the same seeds, with all trials that came as far.

    Args:
        most: Most seeds.
    """

    def following(now: Situation) -> Network | None:
        done = len(now.values)
        if done == 0:
            return Network(0)
        if done == most:
            return None
        others = [fmean(values[:done]) for values in now.earlier if len(values) >= done]
        n_better = sum(other > fmean(now.values) for other in others)
        return Network(done) if n_better < (len(others) + 1) / 3 else None

    return following


@dataclass(frozen=True)
class Variant:
    """A way to spend networks.

    Attributes:
        next_network: What a trial trains.
        least: Networks that a trial trains at least.
        finalists: Whether a third of the networks is kept back to train the best plans five times
            more, with fresh seeds.
        most_trials: Most trials; None for as many as can be paid.
    """

    next_network: NextNetwork
    least: int = 1
    finalists: bool = False
    most_trials: int | None = None


VARIANTS: dict[str, Variant] = {
    "3 fixed seeds": Variant(fixed_seeds(3), least=3),
    "2 fixed seeds": Variant(fixed_seeds(2), least=2),
    "1 fixed seed": Variant(fixed_seeds(1)),
    "1 fresh seed": Variant(fresh_seeds(1)),
    "2 fresh seeds": Variant(fresh_seeds(2), least=2),
    "1 fresh seed and split": Variant(fresh_split),
    "1 fresh seed, then finalists": Variant(fresh_seeds(1), finalists=True),
    "racing, 1 to 3 seeds": Variant(racing(3)),
    "5 folds in turn, 3 seeds": Variant(fixed_seeds(3, folds=5), least=3),
    "cross-validation, 2 folds": Variant(cross_validated(2), least=2),
    "no search": Variant(fixed_seeds(3), least=3, most_trials=1),
}
"""The variants by name. The last one is the sampler's first trial: full fine-tuning."""


@dataclass(frozen=True)
class Choice:
    """A plan that is chosen in the end.

    Attributes:
        trial: A trial of it.
        value: What it is said to be worth.
    """

    trial: FrozenTrial
    value: float


class Search:
    """A search that spends a number of networks on whole trainings, or as much on smaller ones.

    What a network costs is its training images times the most epochs: nothing is pruned.

    Args:
        trainer: Trains the networks.
        variant: How they are spent.
        n_networks: How many, trained on all training images.
        seed: Seed of the sampler.

    Attributes:
        study: The study.
        left: What is left of the budget, in training images times epochs.
        trainings: What was trained, by trial.
    """

    def __init__(
        self, trainer: NetworkTrainer, variant: Variant, n_networks: int, seed: int
    ) -> None:
        self._trainer = trainer
        self._variant = variant
        self._n_finalists = max(1, int(n_networks * _SHARE_OF_FINALISTS) // _REPEATS)
        self.left = n_networks * trainer.cost(Network(0))
        self.trainings: list[list[Training]] = []
        self.study = optuna.create_study(
            direction="maximize", sampler=BioTuneSampler(seed=seed), pruner=NopPruner()
        )

    def run(self) -> None:
        """Spend the budget."""
        finalists = _REPEATS * self._n_finalists if self._variant.finalists else 0
        reserve = finalists * self._trainer.cost(Network(0))
        first = self._variant.next_network(Situation(0, 0, ()))
        assert first is not None
        least = self._variant.least * self._trainer.cost(first)
        most_trials = self._variant.most_trials
        while self.left - reserve >= least:
            if len(self.trainings) == most_trials:
                return
            self.study.optimize(self._evaluate, n_trials=1)
        if self._variant.finalists:
            self._repeat_finalists()

    def record(self) -> Choice:
        """Return the best trial; of finalists, by the mean of their trainings as such."""
        if not self._variant.finalists:
            return Choice(self.study.best_trial, self.study.best_value)
        again = self.study.trials[-_REPEATS * self._n_finalists :]
        groups = [again[start : start + _REPEATS] for start in range(0, len(again), _REPEATS)]
        means = [fmean(_value(trial) for trial in group) for group in groups]
        best = means.index(max(means))
        return Choice(groups[best][0], means[best])

    def _evaluate(self, trial: optuna.Trial) -> float:
        suggest_plan(trial, self._trainer.block_names)
        generation = generation_of(trial)
        own: list[Training] = []
        while True:
            values = [training.value for training in own]
            earlier = [[one.value for one in others] for others in self.trainings]
            now = Situation(trial.number, generation, values, earlier)
            network = self._variant.next_network(now)
            if network is None:
                break
            cost = self._trainer.cost(network)
            if len(own) >= self._variant.least and cost > self.left:
                break
            self.left -= cost
            own.append(self._trainer.train(trial.params, network))
        self.trainings.append(own)
        epochs = [training.best_epoch for training in own if training.best_epoch is not None]
        trial.set_user_attr("best_epoch", fmean(epochs) if epochs else None)
        return fmean(values)

    def _repeat_finalists(self) -> None:
        """Train the plans of the best values again and again, one trial each."""
        trials = self.study.get_trials(states=(TrialState.COMPLETE,))
        for trial in sorted(trials, key=_value, reverse=True)[: self._n_finalists]:
            for _ in range(_REPEATS):
                self.study.enqueue_trial(trial.params)
        self.study.optimize(self._evaluate, n_trials=_REPEATS * self._n_finalists)


def _value(trial: FrozenTrial) -> float:
    """Return the value of a complete trial."""
    assert trial.value is not None
    return trial.value
