"""Search a fine-tuning plan for a target set, and compare it with the usual ways to fine-tune.

python benchmarks/run_target.py --data DIR --target isic8 --network small_resnet --trials 60
python benchmarks/run_target.py --data DIR --target paper-flowers102 --network resnet50 --trials 60
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import torch
from checkpoints import (
    Checkpoint,
    checkpoint_path,
    library_versions,
    load_checkpoint,
    paper_checkpoint,
    save_checkpoint,
)
from comparison import (
    PRUNERS,
    Setting,
    baseline_trials,
    describe_search,
    refit_all,
    search,
)
from networks import NETWORKS, PAPER_NETWORKS, network_named
from paper_targets import PAPER_TARGETS, PaperTarget, load_paper_target
from pretrain import pretrain
from report import markdown, plain_table, plan_lines, read_results, timing_line
from targets import TARGETS, Target, load_target

from optuna_biotune import best_trial, make_storage

RESULTS = Path(__file__).parent / "results"

_PAPER = "paper-"
_SHOWN = {**TARGETS, **{f"{_PAPER}{name}": shows for name, shows in PAPER_TARGETS.items()}}


def pretrained(network: str, data: Path, *, path: Path, epochs: int, device: str) -> Checkpoint:
    """Load a checkpoint; if it is missing, say so, pre-train the network and write it.

    Args:
        network: Name of the network.
        data: Directory of the source, which only pre-training reads.
        path: The checkpoint.
        epochs: Epochs of pre-training, if it is needed.
        device: ``"auto"`` or a torch device.

    Raises:
        ValueError: If the checkpoint is that of another network.
        FileNotFoundError: If checkpoint and source are missing.
    """
    if not path.is_file():
        print(f"No checkpoint {path.name}: pre-training {network} for {epochs} epochs.", flush=True)
        save_checkpoint(path, *pretrain(network, data, epochs=epochs, device=device))
    checkpoint = load_checkpoint(path)
    if checkpoint.record.network != network:
        raise ValueError(
            f"`--checkpoint` must be of the network {network}, but {path.name} is of "
            f"{checkpoint.record.network}."
        )
    return checkpoint


def _checkpoint(options: argparse.Namespace) -> Checkpoint:
    """Return the pre-trained network that the options name."""
    if options.network not in PAPER_NETWORKS:
        return pretrained(
            options.network,
            options.data,
            path=options.checkpoint or checkpoint_path(options.network),
            epochs=options.pretrain_epochs,
            device=options.device,
        )
    if options.checkpoint is not None:
        raise ValueError(f"`--checkpoint` must not be given with {options.network}.")
    return paper_checkpoint(options.network)


def compare(
    setting: Setting,
    checkpoint: Checkpoint,
    target: Target | PaperTarget,
    *,
    storage: str,
    n_trials: int,
    device: str,
) -> dict[str, Any]:
    """Search, refit the best plan and the baselines, and return everything about it.

    Args:
        setting: The setting.
        checkpoint: The pre-trained network.
        target: The target set.
        storage: URL of the database that keeps the study.
        n_trials: Complete and pruned trials that the study is to have.
        device: ``"auto"`` or a torch device.

    Returns:
        What is written as JSON, except the command.

    Raises:
        ValueError: If the setting is out of range, or not that of the stored study.
    """
    model = partial(checkpoint.build, len(target.classes))
    objective = setting.objective(model, target, refit=False, device=device)
    study = search(setting, checkpoint.record, objective, make_storage(storage), n_trials)
    recommended = best_trial(study)
    print(f"Recommended plan: trial {recommended.number}, validation {recommended.value:.3f}.")
    print("Training the baselines as trials.", flush=True)
    start = time.perf_counter()
    trials = {"BioTune": recommended, **baseline_trials(objective)}
    baseline_seconds = round(time.perf_counter() - start, 1)
    print(f"Refitting each with {setting.refit_seeds} seeds.", flush=True)
    refitter = setting.objective(model, target, refit=True, device=device)
    return {
        "setting": asdict(setting),
        "checkpoint": asdict(checkpoint.record),
        "data": {
            "shows": _SHOWN[setting.target],
            "train": len(target.train),
            "val": len(target.val),
            "test": len(target.test),
            "classes": len(target.classes),
        },
        "search": describe_search(study),
        "baseline_seconds": baseline_seconds,
        "refits": refit_all(refitter, trials, target),
        "machine": {
            "device": _device_name(device),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "versions": library_versions(),
    }


def _device_name(device: str) -> str:
    """Return "CPU", or the name of the CUDA device that an argument ``device`` means."""
    if device == "cpu" or not torch.cuda.is_available():
        return "CPU"
    return torch.cuda.get_device_name(None if device == "auto" else device)


def command_of(setting: Setting, n_trials: int) -> str:
    """Return the command that gives this run, with all that differs from the defaults."""
    default = Setting(target=setting.target, network=setting.network)
    words = [
        "python benchmarks/run_target.py --data DIR",
        f"--target {setting.target} --network {setting.network} --trials {n_trials}",
    ]
    for field in fields(Setting):
        value = getattr(setting, field.name)
        if value != getattr(default, field.name):
            words.append(f"--{field.name.replace('_', '-')} {0 if value is None else value}")
    return " ".join(words)


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    default = Setting(target="", network="small_resnet")
    parser = argparse.ArgumentParser(
        description="Search a fine-tuning plan for a target set with BioTune, refit the best one "
        "with several seeds, and compare it on the test data with the usual ways to fine-tune. "
        "The same command resumes a search that was stopped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, help="directory of the data; the paper's sets are downloaded into it")
    add("--target", choices=_SHOWN, metavar="NAME", help=f"one of {', '.join(_SHOWN)}")
    add("--network", choices=[*NETWORKS, *PAPER_NETWORKS], default=default.network)
    add("--trials", type=int, default=60, help="trials of the search, pruned ones counted")
    add("--size", type=int, help="height and width of the images; default: the network's")
    add("--max-train", type=int, default=default.max_train, help="most training images; 0: all")
    add("--lr", type=float, default=default.lr, help="base learning rate of Adam")
    add("--epochs", type=int, default=default.epochs, help="most epochs of a training")
    add("--patience", type=int, default=default.patience, help="epochs without improvement")
    add("--batch-size", type=int, default=default.batch_size)
    add("--search-seeds", type=int, default=default.search_seeds, help="networks for each trial")
    add("--refit-seeds", type=int, default=default.refit_seeds, help="networks for each refit")
    add("--pruner", choices=PRUNERS, default=default.pruner)
    add("--seed", type=int, default=default.seed, help="seed of the sampler")
    add("--device", default="auto", help='"auto" or a torch device')
    add("--checkpoint", type=Path, help="weights of a small network; default: the committed ones")
    add("--pretrain-epochs", type=int, default=12, help="epochs, if the checkpoint is missing")
    add("--out", type=Path, default=RESULTS / "run_target", help="directory of the results")
    add("--storage", help="URL of the study's database; default: a SQLite file in --out")
    add("--table", action="store_true", help="only print all results in --out as Markdown")
    return parser


def _check_at_least_one(options: argparse.Namespace) -> None:
    """Raise ValueError if a number that nothing else checks is below 1."""
    for name in ("trials", "search_seeds", "refit_seeds", "pretrain_epochs"):
        if getattr(options, name) < 1:
            flag = name.replace("_", "-")
            raise ValueError(f"`--{flag}` must be at least 1, but got {getattr(options, name)}.")


def setting_of(options: argparse.Namespace) -> Setting:
    """Return the setting that the options describe; without a size, images have the network's.

    Args:
        options: The parsed command line.
    """
    # Every option of a run that has a field in the setting carries its name.
    given = {field.name: getattr(options, field.name) for field in fields(Setting)}
    given["max_train"] = options.max_train or None
    if options.size is None:
        given["size"] = network_named(options.network).size
    return Setting(**given)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run one target as the options say, print the comparison and write the JSON file.

    Args:
        options: The parsed command line, with ``data`` and ``target``.

    Returns:
        The results.

    Raises:
        ValueError: If an option is out of range.
        FileNotFoundError: If data are missing and cannot be downloaded.
        ConnectionError: If weights cannot be downloaded.
    """
    _check_at_least_one(options)
    setting = setting_of(options)
    checkpoint = _checkpoint(options)
    load = load_paper_target if setting.target.startswith(_PAPER) else load_target
    target = load(
        options.data,
        setting.target.removeprefix(_PAPER),
        mean=checkpoint.record.mean,
        std=checkpoint.record.std,
        size=setting.size,
        max_train=setting.max_train,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"{setting.target}-{setting.network}"
    result = compare(
        setting,
        checkpoint,
        target,
        storage=options.storage or f"sqlite:///{(options.out / f'{name}.db').absolute()}",
        n_trials=options.trials,
        device=options.device,
    )
    result = {"command": command_of(setting, options.trials), **result}
    text = json.dumps(result, indent=1)
    (options.out / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
    print(f"\nTest metrics, mean ± standard deviation over {setting.refit_seeds} seeds:\n")
    print(plain_table(result))
    print(f"\nPlan:\n{plan_lines(result)}\n\n{timing_line(result)}")
    return result


def main(arguments: list[str] | None = None) -> None:
    """Run one target, or print the table of all that were run.

    Args:
        arguments: The command line; None for that of the process.
    """
    parser = command_line()
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if options.table:
            print(markdown(read_results(options.out)))
            return
        if options.data is None or options.target is None:
            parser.error("--data and --target are required")
        run(options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
