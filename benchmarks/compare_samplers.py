"""Compare samplers on landscapes: what the plan that each recommends is really worth.

python benchmarks/compare_samplers.py

Each sampler searches each landscape with many seeds. After some numbers of evaluations the true
value of the plan that the sampler's study recommends is taken: of the trial with the best value,
for BioTune that of `optuna_biotune.best_trial`. Every finished search is a line of the result's
JSON file; the same command runs what is missing there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from landscapes.functions import WORST, Landscape, RecordedLandscape, load_landscape, plateau
from landscapes.recorded import RECORDINGS
from optuna.samplers import BaseSampler
from sklearn.exceptions import ConvergenceWarning
from tqdm import tqdm

from optuna_biotune import BioTuneSampler, FineTuningPlan, StopOnPlateau, best_trial, suggest_plan

FloatArray = npt.NDArray[np.float64]

RESULT = Path(__file__).parent / "results" / "samplers.jsonl"

CHECKPOINTS = (10, 20, 30, 60, 127)
LANDSCAPES = (
    "isic8-resnet10",
    "dtd10-small_resnet",
    "cifar10-small_resnet",
    "flowers5-small_densenet",
    "synthetic6-0",
    "synthetic9-0",
    "synthetic14-0",
)
_N_BOOTSTRAPS = 2000


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


BEST_VALUE = ", best value"
"""Behind the name of a sampler that recommends: the same searches, by the trial of best value."""

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


def search(name: str, landscape: Landscape, seed: int) -> dict[str, Any]:
    """Run one sampler on one landscape.

    Args:
        name: One of :data:`CONTESTANTS`.
        landscape: The landscape.
        seed: Seed of the sampler and of the noise.

    Returns:
        ``true``, one value for each of :data:`CHECKPOINTS`; ``seconds``; for a sampler that
        recommends ``true_of_best_value``; and ``stopped``, the number of trials after which
        :class:`StopOnPlateau` would have stopped, and ``stopped_true``, the value of its plan then.
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
    stopper = _Watched() if contestant.recommends else None
    result: dict[str, Any] = {"true": []}
    seconds = 0.0
    for checkpoint in CHECKPOINTS:
        while len(true) < checkpoint:
            start = time.perf_counter()
            study.optimize(objective, n_trials=1)
            seconds += time.perf_counter() - start
            if stopper is not None and stopper.reaches(study):
                result["stopped"] = len(true)
                result["stopped_true"] = true[best_trial(study).number]
                stopper = None
        of_best_value = true[study.best_trial.number]
        if contestant.recommends:
            result["true"].append(true[best_trial(study).number])
            result.setdefault("true_of_best_value", []).append(of_best_value)
        else:
            result["true"].append(of_best_value)
    return {**result, "seconds": round(seconds, 3)}


class _Watched(StopOnPlateau):
    """Asks the callback whether it would stop, without stopping."""

    def reaches(self, study: optuna.Study) -> bool:
        """Tell whether the callback stops the study after its last trial."""
        study.stop = self._note  # type: ignore[method-assign]
        self._stops = False
        self(study, study.trials[-1])
        return self._stops

    def _note(self) -> None:
        self._stops = True


def _cell(name: str, landscape: str, seed: int, recordings: str) -> dict[str, Any]:
    """Run one search in a process of its own; returns its line of the result file."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    found = search(name, _loaded(landscape, recordings), seed)
    return {"sampler": name, "landscape": landscape, "seed": seed, **found}


_LOADED: dict[str, Landscape] = {}


def _loaded(name: str, recordings: str) -> Landscape:
    if name not in _LOADED:
        _LOADED[name] = load_landscape(name, Path(recordings))
    return _LOADED[name]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the searches that a result file holds."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def with_best_value(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Add, to each search whose sampler recommends, the same one by the trial of best value."""
    return [*lines] + [
        {**line, "sampler": line["sampler"] + BEST_VALUE, "true": line["true_of_best_value"]}
        for line in lines
        if "true_of_best_value" in line
    ]


def values_by_sampler(
    lines: Sequence[Mapping[str, Any]], landscapes: Sequence[str], samplers: Sequence[str]
) -> dict[str, FloatArray]:
    """Return the true values of each sampler, shape [landscapes, seeds, checkpoints].

    Only seeds that every sampler has run on every landscape count.
    """
    found = {(line["sampler"], line["landscape"], line["seed"]): line["true"] for line in lines}
    seeds = sorted({line["seed"] for line in lines})
    shared = [
        seed
        for seed in seeds
        if all((sampler, place, seed) in found for sampler in samplers for place in landscapes)
    ]
    return {
        sampler: np.asarray(
            [[found[sampler, place, seed] for seed in shared] for place in landscapes]
        ).reshape(len(landscapes), len(shared), len(CHECKPOINTS))
        for sampler in samplers
    }


def mean_ranks(values: Mapping[str, FloatArray]) -> dict[str, list[tuple[float, float, float]]]:
    """Rank the samplers in each landscape and seed, 1 best, and average.

    Returns:
        For each sampler and checkpoint the mean, and the bounds of a 95 % bootstrap interval over
        the seeds.
    """
    stacked = np.stack(list(values.values()))
    # Ties share their mean rank.
    better = (stacked[None] > stacked[:, None]).sum(axis=1)
    equal = (stacked[None] == stacked[:, None]).sum(axis=1)
    ranks = (better + 0.5 * (equal + 1)).mean(axis=1)
    rng = np.random.default_rng(0)
    n_seeds = ranks.shape[1]
    draws = rng.integers(n_seeds, size=(_N_BOOTSTRAPS, n_seeds))
    bounds = np.quantile(ranks[:, draws].mean(axis=2), [0.025, 0.975], axis=1)
    means = ranks.mean(axis=1)
    return {
        name: [
            (float(means[i, c]), float(bounds[0, i, c]), float(bounds[1, i, c]))
            for c in range(len(CHECKPOINTS))
        ]
        for i, name in enumerate(values)
    }


def table(lines: Sequence[Mapping[str, Any]], recordings: Path) -> str:
    """Return the comparison as Markdown.

    Args:
        lines: The searches.
        recordings: Directory of the recordings.
    """
    landscapes = [n for n in LANDSCAPES if any(line["landscape"] == n for line in lines)]
    landscapes += sorted({line["landscape"] for line in lines} - set(landscapes))
    stopping = _stopping_lines(lines)
    lines = with_best_value(lines)
    samplers = sorted({line["sampler"] for line in lines})
    values = values_by_sampler(lines, landscapes, samplers)
    n_seeds = next(iter(values.values())).shape[1]
    header = "".join(f" {n} |" for n in CHECKPOINTS)
    parts = [
        f"Mean rank of {len(samplers)} samplers over {len(landscapes)} landscapes and {n_seeds} "
        "seeds after a number of evaluations, 1 best, with 95 % bootstrap intervals:",
        "",
        f"| sampler |{header} seconds of 127 |",
        "|---|" + "---|" * (len(CHECKPOINTS) + 1),
    ]
    for name, ranks in mean_ranks(values).items():
        cells = "".join(f" {mean:.2f} ({low:.2f}-{high:.2f}) |" for mean, low, high in ranks)
        seconds = np.median([line["seconds"] for line in lines if line["sampler"] == name])
        parts.append(f"| {name} |{cells} {seconds:.1f} |")
    for place, landscape in enumerate(landscapes):
        parts += ["", *_landscape_lines(landscape, place, values, recordings)]
    return "\n".join([*parts, "", *stopping])


def _landscape_lines(
    name: str, place: int, values: Mapping[str, FloatArray], recordings: Path
) -> list[str]:
    """Return the mean true values on one landscape as Markdown."""
    landscape = load_landscape(name, recordings)
    about = f"{landscape.n_blocks} blocks, noise {landscape.noise:.4f}"
    if isinstance(landscape, RecordedLandscape):
        about += ", cross-validated R2 {r2}, rank correlation {rank_correlation}".format(
            **landscape.validation()
        )
    lines = [
        f"{name} ({about}, plateau {plateau(landscape):.4f}), mean true value:",
        "",
        "| sampler |" + "".join(f" {n} |" for n in CHECKPOINTS),
        "|---|" + "---:|" * len(CHECKPOINTS),
    ]
    for sampler, found in values.items():
        means = found[place].mean(axis=0)
        lines.append(f"| {sampler} |" + "".join(f" {value:.4f} |" for value in means))
    return lines


def _stopping_lines(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what StopOnPlateau would have saved and lost, as Markdown."""
    rows = [
        "| landscape | stopped | evaluations | value then | value after 127 |",
        "|---|---|---:|---:|---:|",
    ]
    watched = [line for line in lines if CONTESTANTS[line["sampler"]].recommends]
    for landscape in dict.fromkeys(line["landscape"] for line in watched):
        runs = [line for line in watched if line["landscape"] == landscape]
        ends = [line.get("stopped", CHECKPOINTS[-1]) for line in runs]
        then = [line.get("stopped_true", line["true"][-1]) for line in runs]
        rows.append(
            f"| {landscape} | {sum('stopped' in line for line in runs)} of {len(runs)} | "
            f"{np.mean(ends):.0f} | {np.mean(then):.4f} | "
            f"{np.mean([line['true'][-1] for line in runs]):.4f} |"
        )
    return ["Stopping on the plateau (`StopOnPlateau()`), means over the seeds:", "", *rows]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--landscapes", nargs="+", default=list(LANDSCAPES))
    add("--samplers", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    add("--seeds", type=int, default=20, help="searches of each sampler on each landscape")
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
        ValueError: If an option is out of range.
    """
    for name in ("seeds", "workers"):
        if getattr(options, name) < 1:
            raise ValueError(f"`--{name}` must be at least 1, but got {getattr(options, name)}.")
    for landscape in options.landscapes:
        load_landscape(landscape, options.recordings)
    done = {(line["sampler"], line["landscape"], line["seed"]) for line in read_lines(options.out)}
    cells = [
        (sampler, landscape, seed)
        for seed in range(options.seeds)
        for landscape in options.landscapes
        for sampler in options.samplers
        if (sampler, landscape, seed) not in done
    ]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with (
        ProcessPoolExecutor(options.workers) as pool,
        options.out.open("a", encoding="utf-8") as file,
    ):
        jobs = [pool.submit(_cell, *cell, str(options.recordings)) for cell in cells]
        for job in tqdm(as_completed(jobs), total=len(jobs), desc="searches"):
            file.write(f"{json.dumps(job.result())}\n")
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
        text = table(lines, options.recordings)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(text)
    options.out.with_suffix(".md").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
