"""Compare Optuna's pruners on real fine-tuning: what they save, and what they cost.

python benchmarks/pruner_study.py --data DIR --minutes 50
python benchmarks/pruner_study.py --recordings
python benchmarks/pruner_study.py --table

Searches a plan for two target sets with ``BioTuneSampler``, prescreened and as in the paper,
several times with each pruner, and refits each plan found on training and validation data with
fresh seeds. The same command goes on where it was stopped; ``--minutes`` begins no search after
that time.

On the CPU the training of a plan gives the same values each time, so a plan that several searches
try is trained once: its learning curve and the seconds of each epoch serve them all. A pruned
trial takes the seconds up to where it was pruned; how good it would have become is known all the
same. Seconds are those of the processor, in one thread (``OMP_NUM_THREADS=1``).

The searches without a pruner tell something more: their learning curves are given to each pruner
once again, trial by trial, to see whether it would have pruned the best of them. ``--recordings``
does the same with the recordings of real trainings in ``landscapes/``, of random plans.

WilcoxonPruner is meant for values that are independent of each other, such as one a seed; here it
gets one an epoch, as the others do. One value a seed would need more than three seeds: the least
p-value of n pairs is 2^-n, which is below its threshold of 0.1 from n = 4 on, and each of them
would be a whole training.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import torch
from checkpoints import checkpoint_path, load_checkpoint
from comparison import Setting
from landscapes.recorded import RECORDINGS
from optuna.trial import FixedTrial, TrialState
from pruner_replay import PRUNERS, replay_recordings
from pruner_tables import Search, markdown, round_of, study_name
from result_file import load_results, write_results
from targets import TARGETS, Target, load_target

from optuna_biotune import BioTuneSampler, FineTuningObjective, FineTuningPlan, suggest_plan

RESULTS = Path(__file__).parent / "results"
SAMPLERS: dict[str, Callable[[int], BioTuneSampler]] = {
    "prescreened": lambda seed: BioTuneSampler(seed=seed),
    "paper": lambda seed: BioTuneSampler.paper(seed=seed),
}


@dataclass(frozen=True)
class Training:
    """The training of a plan, to its end.

    Attributes:
        curve: What was reported after each epoch.
        seconds: What each epoch took of the processor.
        attributes: The attributes of its trial.
    """

    curve: list[float]
    seconds: list[float]
    attributes: dict[str, Any]


class _WatchedTrial(FixedTrial):
    """A trial of given parameters that keeps what is reported, and when."""

    def __init__(self, params: dict[str, Any]) -> None:
        super().__init__(params)
        self.curve: list[float] = []
        self.times = [time.process_time()]

    def report(self, value: float, step: int) -> None:
        self.curve.append(value)
        self.times.append(time.process_time())


class RecordedObjective:
    """Trains each plan once, and lets trials follow its learning curve.

    Args:
        objective: What trains.

    Attributes:
        seconds: What the trials that were asked for took, up to where they were pruned.
        unpruned: For each trial by its number, the value that it had without pruning.
    """

    def __init__(self, objective: FineTuningObjective) -> None:
        self._objective = objective
        self._trainings: dict[str, Training] = {}
        self.begin()

    def begin(self) -> None:
        """Begin with another search."""
        self.seconds = 0.0
        self.unpruned: dict[int, float] = {}

    def __call__(self, trial: optuna.Trial) -> float:
        """Report the plan's learning curve, and return its last value."""
        plan = suggest_plan(trial, self._objective.block_names)
        training = self._training(plan)
        last = training.curve[-1] if training.curve else 0.0
        self.unpruned[trial.number] = last
        for step, (value, seconds) in enumerate(zip(training.curve, training.seconds, strict=True)):
            self.seconds += seconds
            trial.report(value, step)
            if step + 1 < len(training.curve) and trial.should_prune():
                raise optuna.TrialPruned
        trial.set_user_attr("best_epoch", training.attributes.get("best_epoch"))
        return last

    def _training(self, plan: FineTuningPlan) -> Training:
        key = plan.to_json()
        if key not in self._trainings:
            trial = _WatchedTrial(plan.to_params())
            self._objective(trial)
            seconds = [after - before for before, after in pairwise(trial.times)]
            self._trainings[key] = Training(trial.curve, seconds, trial.user_attrs)
        return self._trainings[key]


@dataclass
class Problem:
    """What all searches of one target share.

    Attributes:
        setting: The setting, with the target.
        objective: The objective of the searches.
        refitter: The objective of the refits.
        target: The target set.
    """

    setting: Setting
    objective: RecordedObjective
    refitter: FineTuningObjective
    target: Target


def load_problem(data: Path, setting: Setting) -> Problem:
    """Read a target set for the searches.

    Args:
        data: Directory of the target sets.
        setting: The setting, with the target.
    """
    checkpoint = load_checkpoint(checkpoint_path(setting.network))
    target = load_target(
        data,
        setting.target,
        mean=checkpoint.record.mean,
        std=checkpoint.record.std,
        size=setting.size,
        max_train=setting.max_train,
    )
    build = partial(checkpoint.build, len(target.classes))
    objective = setting.objective(build, target, refit=False, device="cpu")
    refitter = setting.objective(build, target, refit=True, device="cpu")
    return Problem(setting, RecordedObjective(objective), refitter, target)


def run_search(problem: Problem, sampler: str, seed: int, pruner: str, n_trials: int) -> Search:
    """Search with one pruner, refit the best plan and test it.

    Args:
        problem: The target.
        sampler: One of :data:`SAMPLERS`.
        seed: Seed of the sampler.
        pruner: One of :data:`PRUNERS`.
        n_trials: Trials of the search, pruned ones counted.

    Returns:
        What is kept of it in the results.
    """
    setting, objective = problem.setting, problem.objective
    study = optuna.create_study(
        study_name=study_name(setting.target, seed),
        direction="maximize",
        sampler=SAMPLERS[sampler](seed),
        pruner=PRUNERS[pruner](setting.epochs),
    )
    objective.begin()
    study.optimize(objective, n_trials=n_trials)
    refit = problem.refitter.refit(study.best_trial, test=problem.target.test)
    trials = study.get_trials(deepcopy=False)
    curves = [[round(v, 5) for _, v in sorted(t.intermediate_values.items())] for t in trials]
    pruned = [trial.number for trial in trials if trial.state == TrialState.PRUNED]
    return {
        "target": setting.target,
        "sampler": sampler,
        "seed": seed,
        "pruner": pruner,
        "pruned": len(pruned),
        "pruned_wrongly": sum(objective.unpruned[n] > study.best_value for n in pruned),
        "epochs": sum(map(len, curves)),
        "seconds": round(objective.seconds, 1),
        "validation": study.best_value,
        "best_trial": study.best_trial.number,
        "mask": refit.plan.mask,
        "test": refit.metrics["balanced_accuracy"],
        "curves": curves if pruner == "none" else None,
    }


def run(options: argparse.Namespace) -> None:
    """Search with all pruners, seed by seed, until all is done or the time is up."""
    path = options.out / "pruner_study.json"
    setting = Setting(
        target="",
        network="small_resnet",
        max_train=options.max_train,
        epochs=options.epochs,
        refit_seeds=options.refit_seeds,
    )
    frame = {
        "command": f"python benchmarks/pruner_study.py --data DIR --targets "
        f"{' '.join(options.targets)} --trials {options.trials} --epochs {options.epochs} "
        f"--max-train {options.max_train} --refit-seeds {options.refit_seeds}",
        "setting": asdict(setting),
        "trials": options.trials,
    }
    result = load_results(path, frame)
    if options.recordings:
        result["recordings"] = replay_recordings(
            RECORDINGS, options.studies, options.studied_trials
        )
        write_results(path, result, markdown)
        return
    done = {(round_of(search), search["pruner"]) for search in result["searches"]}
    end = time.monotonic() + 60 * options.minutes
    problems: dict[str, Problem] = {}
    for seed, sampler, target, pruner in product(
        range(options.seeds), SAMPLERS, options.targets, PRUNERS
    ):
        if ((sampler, target, seed), pruner) in done:
            continue
        if time.monotonic() > end:
            print("The time is up: the same command goes on.", flush=True)
            return
        if target not in problems:
            problems[target] = load_problem(options.data, replace(setting, target=target))
        search = run_search(problems[target], sampler, seed, pruner, options.trials)
        result["searches"].append(search)
        write_results(path, result, markdown)
        print(
            f"{target:10} {sampler:12} seed {seed}  {pruner:20} {search['pruned']:3} pruned, "
            f"{search['epochs']:4} epochs, {search['seconds']:6.1f} s, validation "
            f"{search['validation']:.3f}, test {fmean(search['test']):.3f}",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study, or print its table.

    Args:
        arguments: The command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, help="directory of the target sets")
    add("--targets", nargs="+", choices=TARGETS, default=["flowers5", "isic8"])
    add("--trials", type=int, default=24, help="trials a search (default: 24)")
    add(
        "--seeds",
        type=int,
        default=5,
        help="searches with each pruner, target and sampler (default: 5)",
    )
    add("--epochs", type=int, default=8, help="most epochs of a training (default: 8)")
    add("--max-train", type=int, default=200, help="most training images (default: 200)")
    add("--refit-seeds", type=int, default=3, help="fresh seeds of the test (default: 3)")
    add("--minutes", type=float, default=float("inf"), help="begin no search after this time")
    add("--out", type=Path, default=RESULTS, help="directory of the results")
    add("--recordings", action="store_true", help="only replay the recorded trainings")
    add("--studies", type=int, default=100, help="replays of each recording (default: 100)")
    add("--studied-trials", type=int, default=60, help="trials of such a replay (default: 60)")
    add("--table", action="store_true", help="only print the table")
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # WilcoxonPruner is experimental, and warns of trials that stopped at other epochs.
    warnings.filterwarnings("ignore", category=UserWarning, module="optuna")
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    if options.table:
        path = options.out / "pruner_study.json"
        print(markdown(json.loads(path.read_text(encoding="utf-8"))))
        return
    if options.data is None and not options.recordings:
        parser.error("--data is required")
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        run(options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
