"""Compare ways to fine-tune at equal budgets: BioTune, TPE, and the usual baselines.

python benchmarks/compare_methods.py --data DIR --workers 2

Every method in `methods/` trains the same networks on the same images by the same loop. Two
protocols: with constants as published (`paper`), and with all constants tuned for the same number
of trained epochs (`fair`). The chosen constants are trained with new seeds and tested once. Each
cell (a method on a target) is kept in a SQLite file: the same command goes on where it was stopped,
and several may run at once on one machine. `plot_methods.py` draws the results.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from checkpoints import checkpoint_path, load_checkpoint
from methods.cells import PROTOCOLS, SUITES, Setting, list_cells
from methods.problem import Sizes
from methods.store import CellStore
from methods.tables import groups, markdown, write_csv
from methods.work import Work, run_cells
from networks import NETWORKS
from targets import TARGETS
from tqdm import tqdm

from optuna_biotune.finetune.device import resolve_device
from optuna_biotune.whole_file import replacing

RESULTS = Path(__file__).parent / "results" / "methods"

_SECONDS_BETWEEN_LOOKS = 1.0


def _parser() -> argparse.ArgumentParser:
    sizes, setting = Sizes(), Setting()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, help="directory of the .npz files")
    add("--suite", choices=SUITES, default="main")
    add("--targets", nargs="+", choices=TARGETS, help="default: those of the suite")
    add("--methods", nargs="+", help="names of methods or variants; default: all of the suite")
    add("--network", nargs="+", choices=NETWORKS, default=["small_resnet"])
    add("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    add("--searches", type=int, default=1, help="searches of each method on each target")
    add("--first-search", type=int, default=0, help="number of the first one: other seeds (0)")
    add("--budget", type=float, help="epochs of a search (240; for ablations 720)")
    add("--search-seeds", type=int, default=setting.search_seeds, help="networks a trial (2)")
    add("--final-seeds", type=int, default=setting.final_seeds, help="networks tested (5)")
    add("--size", type=int, default=sizes.size, help="height and width of the images (32)")
    add("--max-train", type=int, default=sizes.max_train, help="training images (200); 0: all")
    add("--max-val", type=int, default=sizes.max_val, help="validation images (200); 0: all")
    add("--batch-size", type=int, default=sizes.batch_size, help="images a step (32)")
    add("--epochs", type=int, default=sizes.epochs, help="most epochs of a training (8)")
    add("--patience", type=int, default=sizes.patience, help="epochs without improvement (3)")
    add("--lr", type=float, default=sizes.lr, help="base learning rate (0.001)")
    add("--workers", type=int, default=1, help="processes (1)")
    add("--minutes", type=float, default=math.inf, help="begin no cell after this time")
    add("--device", default="auto", help='"auto" or a torch device')
    add("--checkpoint", type=Path, help="pre-trained weights; default: the committed ones")
    add("--out", type=Path, default=RESULTS, help="directory of the results")
    add("--table", action="store_true", help="only write the tables of what is finished")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Raise ValueError if an option is out of range."""
    for name in ("searches", "search_seeds", "final_seeds", "epochs", "patience", "workers"):
        if getattr(options, name) < 1:
            flag = name.replace("_", "-")
            raise ValueError(f"`--{flag}` must be at least 1, but got {getattr(options, name)}.")
    if options.first_search < 0:
        raise ValueError(f"`--first-search` must be at least 0, but got {options.first_search}.")
    if options.budget is not None and not options.budget > 0:
        raise ValueError(f"`--budget` must be above 0, but got {options.budget}.")
    known = SUITES[options.suite].methods
    for name in options.methods or ():
        if name not in known:
            raise ValueError(f"`--methods` must be of {', '.join(known)}, but got {name!r}.")
    if options.checkpoint is not None and len(options.network) > 1:
        raise ValueError("`--checkpoint` is of one network, but `--network` names several.")


def plan_work(options: argparse.Namespace) -> Work:
    """Return all that the command is to run.

    Args:
        options: The parsed command line.

    Raises:
        ValueError: If an option is out of range.
        FileNotFoundError: If a network has no checkpoint.
    """
    _check(options)
    checkpoints = {name: options.checkpoint or checkpoint_path(name) for name in options.network}
    for name, path in checkpoints.items():
        if not path.is_file():
            raise FileNotFoundError(
                f"No checkpoint of {name}: python benchmarks/pretrain.py --data DIR --network "
                f"{name}"
            )
    # Where a size is limited by 0, it is not limited.
    given = {field.name: getattr(options, field.name) for field in fields(Sizes)}
    limits = {name: given[name] or None for name in ("max_train", "max_val")}
    device = resolve_device(options.device)
    suite = SUITES[options.suite]
    return Work(
        data=options.data,
        checkpoints=checkpoints,
        setting=Setting(
            sizes=Sizes(**{**given, **limits}),
            budget=suite.budget if options.budget is None else options.budget,
            search_seeds=options.search_seeds,
            final_seeds=options.final_seeds,
            device=device.type,
            checkpoints={
                name: asdict(load_checkpoint(path).record) for name, path in checkpoints.items()
            },
        ),
        cells=list_cells(
            options.suite,
            targets=options.targets or suite.targets or tuple(TARGETS),
            methods=options.methods or tuple(suite.methods),
            networks=options.network,
            protocols=options.protocols,
            searches=range(options.first_search, options.first_search + options.searches),
        ),
        store=options.out / "cells.db",
        device=str(device),
        deadline=time.time() + 60 * options.minutes,
    )


def run(work: Work, workers: int) -> None:
    """Run all cells that are not finished, in this process or in several, with a progress bar.

    Args:
        work: What to run.
        workers: Processes.
    """
    store, keys = CellStore(work.store), list(work.keys())
    store.forget_failed(keys)

    def n_finished() -> int:
        return len(store.records(keys)) + len(store.records(keys, "failed"))

    with tqdm(total=len(keys), initial=n_finished(), desc="cells", smoothing=0) as bar:

        def show() -> None:
            bar.update(n_finished() - bar.n)

        if workers == 1:
            run_cells(work, show)
            return
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=run_cells, args=(work,)) for _ in range(workers)]
        for process in processes:
            process.start()
        try:
            while any(process.is_alive() for process in processes):
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                show()
        finally:
            for process in processes:
                process.terminate()
                process.join()


def export(work: Work, options: argparse.Namespace) -> None:
    """Write what is finished as JSON, CSV and Markdown, and print the tables.

    Args:
        work: What was run.
        options: The parsed command line.
    """
    store, keys = CellStore(work.store), list(work.keys())
    records = store.records(keys)
    for failed in store.records(keys, "failed"):
        print(f"Failed: {failed['cell']}\n{failed['error']}", file=sys.stderr)
    if len(records) < len(keys):
        print(
            f"{len(keys) - len(records)} of {len(keys)} cells are missing: the same command goes "
            "on.",
            file=sys.stderr,
        )
    if not records:
        return
    suite = SUITES[options.suite]
    methods = options.methods or list(suite.methods)
    path = options.out / f"{options.suite}.json"
    result = {
        "command": command_of(options),
        "setting": asdict(work.setting),
        "citations": {name: suite.methods[name].citation for name in methods},
        "records": records,
    }
    with replacing(path) as partial:
        partial.write_text(json.dumps(result) + "\n", encoding="utf-8")
    write_csv(path.with_suffix(".csv"), records)
    table = f"`{command_of(options)}`\n\n{markdown(list(groups(records, methods)))}"
    path.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)


def command_of(options: argparse.Namespace) -> str:
    """Return the command, with all that decides the results and differs from the defaults."""
    default = vars(_parser().parse_args([]))
    left_out = {"data", "workers", "minutes", "out", "table", "checkpoint"}
    words = ["python benchmarks/compare_methods.py --data DIR"]
    for name, value in vars(options).items():
        if name not in left_out and value != default[name]:
            values = value if isinstance(value, list) else [value]
            shown = " ".join(f'"{one}"' if " " in str(one) else str(one) for one in values)
            words.append(f"--{name.replace('_', '-')} {shown}")
    return " ".join(words)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a suite, or go on with it, and write its results.

    Args:
        arguments: The command line; None for that of the process.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.data is None and not options.table:
        parser.error("--data is required")
    try:
        work = plan_work(options)
        if not options.table:
            run(work, options.workers)
        export(work, options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
