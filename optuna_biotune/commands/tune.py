"""The command ``tune``: from a folder of images to a fine-tuned network."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import optuna
from rich.console import Console

from optuna_biotune.commands.errors import CommandError
from optuna_biotune.commands.files import DEFAULT_OUTPUT, RECIPE_FILE, REPORT_FILE, WEIGHTS_FILE
from optuna_biotune.commands.log import log_to
from optuna_biotune.commands.outcome import PlanResult, show_plan, show_results
from optuna_biotune.commands.progress import SearchProgress, WatchedPruner
from optuna_biotune.commands.report import write_report
from optuna_biotune.commands.search import compare, search
from optuna_biotune.commands.study import default_pruner, n_finished, open_study
from optuna_biotune.finetune.classifier import save_weights
from optuna_biotune.finetune.host_memory import available_memory
from optuna_biotune.finetune.image_folder import ImageFolders, image_transform, read_image_folders
from optuna_biotune.finetune.objective import FineTuningObjective
from optuna_biotune.finetune.partition import BlockPartition
from optuna_biotune.finetune.pretrained import (
    NetworkName,
    PretrainedNetwork,
    preprocessing_of,
    pretrained_weights,
)
from optuna_biotune.recipe import Preprocessing, Recipe
from optuna_biotune.storage import make_storage
from optuna_biotune.whole_file import replacing

_BYTES_PER_VALUE = 4


@dataclass(frozen=True)
class TuneOptions:
    """What the user chose; see the command's help.

    Attributes:
        data: Folder of images.
        network: Name of the network.
        weights: File of its pre-trained weights; None: the library's.
        image_size: Height and width of its input, in pixels; None: that of the weights.
        storage: The study's database.
        study: Name of the study; None: made of the folder's and the network's.
        trials: Number of trials.
        epochs: Most epochs of a trial.
        seeds: Networks that a trial trains.
        lr: Base learning rate, absolute.
        batch_size: Images a step.
        device: ``"auto"`` or a torch device.
        output: Folder for the results.
    """

    data: Path
    network: str
    weights: Path | None
    image_size: int | None
    storage: str
    study: str | None
    trials: int
    epochs: int
    seeds: int
    lr: float
    batch_size: int
    device: str
    output: Path


def tune(options: TuneOptions, console: Console) -> None:
    """Search for a plan, train it, compare it with the usual ones, and write the results.

    Args:
        options: What the user chose.
        console: Where to print.

    Raises:
        CommandError: If the trials fail.
        OSError: If a file or the storage cannot be used.
        ValueError: If something cannot be used as it was given.
        KeyboardInterrupt: If the user stops it; the same call goes on from there.
    """
    log_to(console)
    folders = read_image_folders(options.data)
    name = NetworkName.parse(options.network)
    preprocessing = preprocessing_of(name, options.image_size)
    _check_memory(options.batch_size, preprocessing)
    storage = make_storage(options.storage)
    _print(console, _described(folders))
    for suffix, number in folders.left_out.items():
        _print(console, f"left out: {number} files *{suffix}, which are not read as images")
    network = PretrainedNetwork(
        name, pretrained_weights(name, options.weights), len(folders.classes)
    )
    _make_folder(options.output)
    objective = _objective(options, folders, network, preprocessing)
    progress = SearchProgress(console, options.trials, options.epochs)
    study = open_study(
        storage,
        options.study or f"{options.data.resolve().name}-{name.name}",
        _settings(options, folders, preprocessing),
        objective.block_names,
        WatchedPruner(default_pruner(), progress),
    )
    _say_how_far(console, study, options.trials)
    try:
        search(study, objective, options.trials, progress)
    except KeyboardInterrupt:
        _say_how_far(console, study, options.trials)
        raise
    blocks = network.partition(preprocessing.crop)
    results, best = compare(study, objective, blocks, folders.test, console)
    recipe = _recipe(options, results[-1], blocks, folders, preprocessing)
    save_weights(best.model, options.output / WEIGHTS_FILE)
    with replacing(options.output / RECIPE_FILE) as partial:
        partial.write_text(recipe.to_json() + "\n", encoding="utf-8")
    write_report(study, options.output / REPORT_FILE, results, len(folders.test))
    show_results(console, results, len(folders.test))
    show_plan(console, recipe)
    _print(console, f"Written to {options.output}: {RECIPE_FILE}, {WEIGHTS_FILE}, {REPORT_FILE}")
    model = (
        "" if options.output == DEFAULT_OUTPUT else f" --model {shlex.quote(str(options.output))}"
    )
    _print(console, f"Open {options.output / REPORT_FILE} to see why; use the network by")
    _print(console, f"  optuna-biotune predict IMAGE...{model}")


def _make_folder(path: Path) -> None:
    """Make the folder for the results; raise CommandError unless it can be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise CommandError(
            f"--output {path} is no folder that can be written ({error.strerror}): give another."
        ) from error


def _print(console: Console, text: str) -> None:
    """Print a line as it is, which paths can make longer than the terminal is wide."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _say_how_far(console: Console, study: optuna.Study, n_trials: int) -> None:
    """Say how many trials a study has."""
    _print(console, f"Study {study.study_name}: {n_finished(study)} of {n_trials} trials done")


def _recipe(
    options: TuneOptions,
    best: PlanResult,
    blocks: BlockPartition,
    folders: ImageFolders,
    preprocessing: Preprocessing,
) -> Recipe:
    """Return the recipe of the best plan."""
    return Recipe(
        network=options.network,
        plan=best.plan,
        blocks=blocks.blocks,
        lr=options.lr,
        epochs=best.epochs,
        schedule_epochs=options.epochs,
        batch_size=options.batch_size,
        classes=folders.classes,
        preprocessing=preprocessing,
    )


def _described(folders: ImageFolders) -> str:
    """Say how many images there are of which kind."""
    n_train = len(folders.train)
    if folders.val is None:
        training = f"{n_train} to train and validate"
    else:
        training = f"{n_train} to train, {len(folders.val)} to validate"
    return f"{len(folders.classes)} classes; images: {training}, {len(folders.test)} to test"


def _check_memory(batch_size: int, preprocessing: Preprocessing) -> None:
    """Raise CommandError if a batch of images takes more memory than is free."""
    height, width = preprocessing.crop
    needed = batch_size * 3 * height * width * _BYTES_PER_VALUE
    free = available_memory()
    if needed > free:
        raise CommandError(
            f"{batch_size} images take {needed / 2**30:.1f} GiB of memory at {height} x {width} "
            f"pixels, but {free / 2**30:.1f} GiB are free: give a smaller --image-size or "
            "--batch-size."
        )


def _objective(
    options: TuneOptions,
    folders: ImageFolders,
    network: PretrainedNetwork,
    preprocessing: Preprocessing,
) -> FineTuningObjective:
    """Read the images and build the objective."""
    try:
        return FineTuningObjective(
            model=network.build,
            train=folders.train,
            val=folders.val,
            transform=image_transform(preprocessing),
            lr=options.lr,
            epochs=options.epochs,
            seeds=range(options.seeds),
            batch_size=options.batch_size,
            device=options.device,
        )
    except AssertionError as error:  # So networks say that their input has one size only.
        raise CommandError(
            f"{options.network} cannot take images of {preprocessing.crop[0]} pixels ({error}): "
            "give another --image-size, or none."
        ) from error


def _settings(
    options: TuneOptions, folders: ImageFolders, preprocessing: Preprocessing
) -> dict[str, Any]:
    """Return what must be the same whenever the search is run, by option."""
    return {
        "images": folders.digest,
        "--network": options.network,
        "--weights": "default" if options.weights is None else _digest(options.weights),
        "--image-size": preprocessing.crop[0],
        "--epochs": options.epochs,
        "--seeds": options.seeds,
        "--lr": options.lr,
        "--batch-size": options.batch_size,
    }


def _digest(path: Path) -> str:
    """Name a file by its contents."""
    return f"{path.name} ({hashlib.sha256(path.read_bytes()).hexdigest()[:8]})"
