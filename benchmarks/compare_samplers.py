"""Compare samplers on landscapes: what the plan that each recommends is really worth.

python benchmarks/compare_samplers.py

Each sampler searches each landscape with many seeds. After each evaluation the true value of the
plan that the sampler's study recommends is taken: of the trial with the best value, for BioTune
that of `optuna_biotune.best_trial`. Every finished search is a line of the result's JSON file; the
same command runs what is missing there. `sampler_tables.py` makes tables of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from landscapes.functions import WORST, Landscape, load_landscape
from landscapes.recorded import RECORDINGS
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from sampler_tables import read_lines, table
from sklearn.exceptions import ConvergenceWarning
from tqdm import tqdm

from optuna_biotune import BioTuneSampler, FineTuningPlan, suggest_plan
from optuna_biotune.recommendation import recommend

FloatArray = npt.NDArray[np.float64]

RESULT = Path(__file__).parent / "results" / "samplers.jsonl"

LANDSCAPES = (
    "isic8-resnet10",
    "dtd10-small_resnet",
    "cifar10-small_resnet",
    "flowers5-small_densenet",
    "synthetic6-0",
    "synthetic9-0",
    "synthetic14-0",
)


@dataclass(frozen=True)
class Contestant:
    """A sampler, and the parameters that it searches.

    Attributes:
        build: Builds it from a seed.
        natural: Whether it searches a freezing flag and the logarithm of the multiplier for each
            block, as a user would write it; else importances and a threshold.
        recommends: Whether it recommends by all trials rather than the trial of the best value.
    """

    build: Callable[[int], BaseSampler]
    natural: bool = False
    recommends: bool = False


def _tpe(seed: int) -> BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, multivariate=False, constant_liar=False)


def _multivariate_tpe(seed: int) -> BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=False)


CONTESTANTS: dict[str, Contestant] = {
    "BioTune": Contestant(lambda seed: BioTuneSampler(seed=seed), recommends=True),
    "BioTune, paper": Contestant(lambda seed: BioTuneSampler.paper(seed=seed)),
    "random": Contestant(lambda seed: optuna.samplers.RandomSampler(seed=seed)),
    "TPE, genes": Contestant(_tpe),
    "TPE": Contestant(_tpe, natural=True),
    "TPE, multivariate": Contestant(_multivariate_tpe, natural=True),
    "CMA-ES": Contestant(lambda seed: optuna.samplers.CmaEsSampler(seed=seed)),
    "NSGA-II": Contestant(
        lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=10)
    ),
    "GP": Contestant(
        lambda seed: optuna.samplers.GPSampler(seed=seed, deterministic_objective=False)
    ),
}
"""The samplers that are compared, by name."""


def suggested_genes(trial: optuna.Trial, names: Sequence[str], natural: bool) -> FloatArray | None:
    """Suggest a plan, and return a genotype that expresses it; None if it freezes all blocks.

    Args:
        trial: The trial.
        names: Names of the blocks.
        natural: A flag and a multiplier for each block, rather than importances and a threshold.
    """
    if natural:
        plan = FineTuningPlan(
            {
                name: 0.0
                if trial.suggest_categorical(f"freeze/{name}", [True, False])
                else trial.suggest_float(f"multiplier/{name}", 0.1001, 10.0, log=True)
                for name in names
            }
        )
    else:
        plan = suggest_plan(trial, names)
    if not plan.trainable:
        return None
    # A threshold of a half less than the least importance, as `to_params` chooses it, is exact.
    params = plan.to_params()
    return np.asarray(
        [params[f"importance/{name}"] for name in names] + [params["freeze_threshold"]]
    )


def search(name: str, landscape: Landscape, seed: int, n_evaluations: int) -> dict[str, Any]:
    """Run one sampler on one landscape.

    Args:
        name: One of :data:`CONTESTANTS`.
        landscape: The landscape.
        seed: Seed of the sampler and of the noise.
        n_evaluations: Evaluations of the search.

    Returns:
        ``course``, the true value of the recommended plan after each evaluation, as pairs
        (evaluations, value) where it changes; ``seconds`` that the search took; and for a sampler
        that recommends ``course_of_best_value``, the same for the trial of the best value, and
        ``regret``, after each evaluation from the third the expected regret of its
        recommendation, in standard deviations of an evaluation.
    """
    contestant = CONTESTANTS[name]
    names = [f"block{index:02d}" for index in range(landscape.n_blocks)]
    noise = np.random.default_rng([landscape.n_blocks, seed])
    true: list[float] = []

    def objective(trial: optuna.Trial) -> float:
        genes = suggested_genes(trial, names, contestant.natural)
        true.append(WORST if genes is None else float(landscape.true_values(genes[None])[0]))
        return WORST if genes is None else true[-1] + landscape.noise * noise.standard_normal()

    study = optuna.create_study(direction="maximize", sampler=contestant.build(seed))
    of_best_value: list[float] = []
    recommended: list[float] = []
    regrets: list[float] = []
    seconds = 0.0
    for _ in range(n_evaluations):
        start = time.perf_counter()
        study.optimize(objective, n_trials=1)
        seconds += time.perf_counter() - start
        best: FrozenTrial = study.best_trial
        of_best_value.append(true[best.number])
        found = recommend(study) if contestant.recommends else None
        if found is not None:
            best = found.trial
            regrets.append(round(found.regret / found.noise, 3))
        recommended.append(true[best.number])
    result = {"course": changes(recommended), "seconds": round(seconds, 3)}
    if contestant.recommends:
        result.update({"course_of_best_value": changes(of_best_value), "regret": regrets})
    return result


def changes(values: Iterable[float]) -> list[tuple[int, float]]:
    """Return where a course changes: (evaluations, value), the first at one evaluation."""
    found: list[tuple[int, float]] = []
    for n_evaluations, value in enumerate(values, start=1):
        rounded = round(value, 5)
        if not found or found[-1][1] != rounded:
            found.append((n_evaluations, rounded))
    return found


Cell = tuple[str, str, int, int]


def _line(cell: Cell, recordings: str) -> dict[str, Any]:
    """Run one search, perhaps in a process of its own; returns its line of the result file."""
    name, landscape, seed, n_evaluations = cell
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = search(name, _loaded(landscape, recordings), seed, n_evaluations)
    line = {"sampler": name, "landscape": landscape, "seed": seed, "evaluations": n_evaluations}
    return {**line, **found}


_LOADED: dict[str, Landscape] = {}


def _loaded(name: str, recordings: str) -> Landscape:
    if name not in _LOADED:
        _LOADED[name] = load_landscape(name, Path(recordings))
    return _LOADED[name]


def _lines(cells: Sequence[Cell], recordings: str, n_workers: int) -> Iterator[dict[str, Any]]:
    """Run searches, and yield their lines as they finish."""
    if n_workers == 1:
        yield from (_line(cell, recordings) for cell in cells)
        return
    pool = ProcessPoolExecutor(n_workers)
    try:
        for job in as_completed([pool.submit(_line, cell, recordings) for cell in cells]):
            yield job.result()
    finally:
        # After an error the searches that have not begun would be run for nothing.
        pool.shutdown(cancel_futures=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--landscapes", nargs="+", default=list(LANDSCAPES))
    add("--samplers", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    add("--seeds", type=int, default=20, help="searches of each sampler on each landscape")
    add("--evaluations", type=int, default=127, help="evaluations of each search")
    add("--recordings", type=Path, default=RECORDINGS, help="directory of the recordings")
    add("--workers", type=int, default=1, help="processes")
    add("--out", type=Path, default=RESULT, help="JSON-lines file of the searches")
    add("--table", action="store_true", help="only print the table of the file")
    return parser


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all searches that the file lacks.

    Args:
        options: The parsed command line.

    Returns:
        All searches of the file.

    Raises:
        ValueError: If an option is out of range, or the file has searches of another length.
    """
    for name in ("seeds", "evaluations", "workers"):
        if getattr(options, name) < 1:
            raise ValueError(f"`--{name}` must be at least 1, but got {getattr(options, name)}.")
    for landscape in options.landscapes:
        load_landscape(landscape, options.recordings)
    lines = read_lines(options.out)
    if any(line["evaluations"] != options.evaluations for line in lines):
        raise ValueError(
            f"{options.out} has searches of another number of evaluations than "
            f"{options.evaluations}: give theirs as `--evaluations`, or another `--out`."
        )
    done = {(line["sampler"], line["landscape"], line["seed"]) for line in lines}
    cells = [
        (sampler, landscape, seed, options.evaluations)
        for seed in range(options.seeds)
        for landscape in options.landscapes
        for sampler in options.samplers
        if (sampler, landscape, seed) not in done
    ]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found = _lines(cells, str(options.recordings), options.workers)
    with options.out.open("a", encoding="utf-8") as file:
        for line in tqdm(found, total=len(cells), desc="searches"):
            file.write(f"{json.dumps(line)}\n")
            file.flush()
    return read_lines(options.out)


def main(arguments: list[str] | None = None) -> None:
    """Compare, and print and write the table.

    Args:
        arguments: The command line; None for that of the process.
    """
    options = _parser().parse_args(arguments)
    # A length scale at its bound is that of a feature that does not matter.
    warnings.simplefilter("ignore", ConvergenceWarning)
    try:
        lines = read_lines(options.out) if options.table else run(options)
        text = table(lines, LANDSCAPES, options.recordings)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(text)
    options.out.with_suffix(".md").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
