"""Run cells, alone or beside other workers."""

from __future__ import annotations

import os
import platform
import subprocess
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import optuna
import torch
from checkpoints import library_versions, load_checkpoint

from methods.cells import SUITES, Cell, Setting
from methods.problem import Problem, load_problem
from methods.store import CellStore
from methods.tuning import run_method


@dataclass(frozen=True)
class Work:
    """What a worker needs to know.

    Attributes:
        data: Directory of the target sets.
        checkpoints: Network to the file of its pre-trained weights.
        setting: The setting.
        cells: The cells, in the order in which they are to be run.
        store: The SQLite file.
        device: A torch device.
        deadline: Time, as ``time.time`` gives it, after which no cell begins.
    """

    data: Path
    checkpoints: Mapping[str, Path]
    setting: Setting
    cells: Sequence[Cell]
    store: Path
    device: str
    deadline: float

    def keys(self) -> dict[str, Cell]:
        """Return the cells by their keys in the store."""
        return {self.setting.key(cell): cell for cell in self.cells}


def run_cells(work: Work, note: Callable[[], None] = lambda: None) -> None:
    """Claim and run cells until none is left or the time is up.

    A cell that raises is stored as failed, with its traceback.

    Args:
        work: What to run.
        note: Called after each cell.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Of the surrogate's fit to few trials.
    warnings.filterwarnings("ignore", module="sklearn")
    if work.device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    store, cells = CellStore(work.store), work.keys()

    @lru_cache(maxsize=1)
    def problem(network: str, target: str, images_per_class: int | None) -> Problem:
        return load_problem(
            work.data,
            target,
            load_checkpoint(work.checkpoints[network]),
            work.setting.sizes,
            images_per_class=images_per_class,
            device=work.device,
        )

    while time.time() < work.deadline and (key := store.claim(cells)):
        cell = cells[key]
        record = {"cell": asdict(cell), "protocol": cell.protocol}
        try:
            found = _run(
                cell, work.setting, problem(cell.network, cell.target, cell.images_per_class)
            )
        except Exception:  # Kept with its traceback: the other cells go on without it.
            store.fail(key, {**record, "error": traceback.format_exc()})
        else:
            store.finish(key, {**record, **found, "made_with": made_with()})
        note()


def _run(cell: Cell, setting: Setting, problem: Problem) -> dict[str, Any]:
    """Run one cell."""
    method = SUITES[cell.suite].methods[cell.method]
    n_seeds = setting.search_seeds if method.search.seeds is None else method.search.seeds
    return run_method(
        method,
        problem,
        tuned=cell.tuned,
        budget=setting.budget,
        search_seeds=cell.search_seeds(n_seeds),
        final_seeds=cell.final_seeds(setting.final_seeds),
        sampler_seed=cell.search,
    )


@lru_cache(maxsize=1)
def made_with() -> dict[str, Any]:
    """Return the machine, the versions of the libraries, and the commit of this repository."""
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": library_versions(),
        "commit": _commit(),
    }


def _processor() -> str:
    """Return the name of the CUDA device, or that of the processor if it is known."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str | None:
    """Return the commit that is checked out; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
