"""Record a landscape: the validation accuracy of many random plans, by real fine-tuning.

python benchmarks/record_landscape.py --data DIR --target dtd10 --network small_resnet

Draws uniform valid genotypes and trains each with every seed, without early stopping or pruning.
The recording, `<target>-<network>.npz`, holds what `landscapes/recorded.py` reads: `genes`, `val`,
`curve`, the names of the blocks, and the setting. The same command goes on with a recording that
was stopped, or makes it longer.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import optuna
from checkpoints import checkpoint_path, load_checkpoint
from comparison import Setting
from landscapes.recorded import RECORDINGS, Recording
from networks import NETWORKS
from targets import TARGETS, load_target
from tqdm import tqdm

from optuna_biotune import FineTuningObjective, FineTuningPlan
from optuna_biotune.evolution import GeneLayout, random_individual

FloatArray = npt.NDArray[np.float64]

_SAVED_EVERY = 10


def draw_genes(n_blocks: int, n_genotypes: int, seed: int) -> FloatArray:
    """Draw uniform valid genotypes; fewer of them are the first of more.

    Args:
        n_blocks: Blocks of the network.
        n_genotypes: How many.
        seed: Seed of the draws.

    Returns:
        Shape [n_genotypes, n_blocks + 1]: the importances, and the threshold last.
    """
    rng = np.random.default_rng(seed)
    layout = GeneLayout(n_blocks + 1, tuple(range(n_blocks)), n_blocks)
    return np.asarray([random_individual(rng, layout) for _ in range(n_genotypes)])


def curve_of(objective: FineTuningObjective, plan: FineTuningPlan) -> FloatArray:
    """Train a plan as a trial, and return the validation metric after each epoch.

    Args:
        objective: An objective with a patience of all its epochs.
        plan: A plan as a genotype expresses it.
    """
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial(plan.to_params())
    study.optimize(objective, n_trials=1)
    return np.asarray(list(study.trials[0].intermediate_values.values()))


def record(
    objectives: list[FineTuningObjective], genes: FloatArray, epochs: int, path: Path, about: str
) -> Recording:
    """Train all genotypes that a recording lacks, and write it every few genotypes.

    Args:
        objectives: One objective a seed.
        genes: Genotypes, shape [n, blocks + 1].
        epochs: Epochs of a training.
        path: Where the recording is, or is to be.
        about: What the recording is of, as text.

    Raises:
        ValueError: If the file holds a recording of something else.
    """
    names = objectives[0].block_names
    curves = np.zeros((0, len(objectives), epochs))
    if path.is_file():
        stored = Recording.load(path)
        if stored.about != about or not np.array_equal(stored.genes, genes[: len(stored.genes)]):
            raise ValueError(
                f"`--out` has a recording of another setting, {path.name}: give another directory."
            )
        curves = stored.curve
    for row in tqdm(range(len(curves), len(genes)), desc="genotypes"):
        plan = FineTuningPlan.from_genes(names, genes[row, :-1].tolist(), float(genes[row, -1]))
        curve = np.full((1, len(objectives), epochs), np.nan)
        for seed, objective in enumerate(objectives):
            values = curve_of(objective, plan)
            # A training that diverged has no further epochs, and is as bad as can be.
            curve[0, seed] = np.append(values, np.zeros(epochs - len(values)))
        curves = np.concatenate([curves, curve])
        if (row + 1) % _SAVED_EVERY == 0 or row + 1 == len(genes):
            Recording(names, genes[: row + 1], curves, about).save(path)
    return Recording.load(path)


def _parser() -> argparse.ArgumentParser:
    default = Setting(target="", network="small_resnet")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="directory of the .npz files")
    add("--target", choices=TARGETS, required=True, help="target set")
    add("--network", choices=NETWORKS, default=default.network)
    add("--genotypes", type=int, default=250, help="how many genotypes to train")
    add("--seeds", type=int, default=2, help="networks for each genotype")
    add("--size", type=int, default=default.size, help="height and width of the images")
    add("--max-train", type=int, default=default.max_train, help="most training images")
    add("--lr", type=float, default=default.lr, help="base learning rate of Adam")
    add("--epochs", type=int, default=default.epochs, help="epochs of a training")
    add("--batch-size", type=int, default=default.batch_size)
    add("--seed", type=int, default=0, help="seed of the genotypes")
    add("--device", default="auto", help='"auto" or a torch device')
    add("--out", type=Path, default=RECORDINGS, help="directory of the recordings")
    return parser


def run(options: argparse.Namespace) -> Recording:
    """Record as the options say.

    Args:
        options: The parsed command line.

    Raises:
        ValueError: If an option is out of range.
        FileNotFoundError: If data or the network's checkpoint are missing.
    """
    for name in ("genotypes", "seeds"):
        if getattr(options, name) < 1:
            raise ValueError(f"`--{name}` must be at least 1, but got {getattr(options, name)}.")
    setting = Setting(
        target=options.target,
        network=options.network,
        size=options.size,
        max_train=options.max_train,
        lr=options.lr,
        epochs=options.epochs,
        patience=options.epochs,
        batch_size=options.batch_size,
        search_seeds=options.seeds,
    )
    checkpoint = load_checkpoint(checkpoint_path(setting.network))
    target = load_target(
        options.data,
        setting.target,
        mean=checkpoint.record.mean,
        std=checkpoint.record.std,
        size=setting.size,
        max_train=setting.max_train,
    )
    objectives = [
        FineTuningObjective(
            model=partial(checkpoint.build, len(target.classes)),
            train=target.train,
            val=target.val,
            lr=setting.lr,
            epochs=setting.epochs,
            patience=setting.patience,
            seeds=(seed,),
            batch_size=setting.batch_size,
            device=options.device,
        )
        for seed in range(options.seeds)
    ]
    genes = draw_genes(len(objectives[0].block_names), options.genotypes, options.seed)
    about = json.dumps({**asdict(setting), "checkpoint": asdict(checkpoint.record)}, sort_keys=True)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{setting.target}-{setting.network}.npz"
    return record(objectives, genes, setting.epochs, path, about)


def main(arguments: list[str] | None = None) -> None:
    """Record a landscape, and say how well a regressor describes it.

    Args:
        arguments: The command line; None for that of the process.
    """
    options = _parser().parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        recording = run(options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{len(recording.genes)} genotypes; best mean of the seeds {recording.mean.max():.3f}.")


if __name__ == "__main__":
    main()
