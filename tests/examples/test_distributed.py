"""The distributed examples run as they stand, with smaller numbers."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import torch

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "distributed"
BLOCKS = {"stem", "conv1", "conv2", "conv3", "head"}


def start(directory: Path, *command: str | Path, **environment: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=directory,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> str:
    """Wait for a process to succeed and return what it printed."""
    try:
        printed, errors = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, errors
    return printed


def mask_of_the_best(printed: str) -> str:
    match = re.search(r"Best.*?: .*?([FT]{5})$", printed, re.MULTILINE)
    assert match is not None, printed
    return match[1]


def check_finished(study: optuna.Study, least: int, most: int) -> None:
    """Check that all trials ended and that BioTuneSampler proposed each of them."""
    trials = study.get_trials()
    assert least <= len(trials) <= most
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    assert all(trial.system_attrs["biotune"]["role"] != "adopted" for trial in trials)
    assert len({tuple(trial.params.items()) for trial in trials}) == len(trials)


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Give a function that runs an example in this process, which has loaded torch already."""
    threads, verbosity = torch.get_num_threads(), optuna.logging.get_verbosity()

    def run(name: str, *arguments: str) -> None:
        monkeypatch.syspath_prepend(EXAMPLES)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    yield run
    sys.modules.pop("digits", None)
    torch.set_num_threads(threads)
    optuna.logging.set_verbosity(verbosity)


def test_workers_create_and_join_one_study_until_it_has_all_trials(
    tmp_path: Path, run_here: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'digits.db'}"
    command = (EXAMPLES / "worker.py", "--trials", "6", "--epochs", "2")
    workers = [
        start(tmp_path, *command, "--storage", url),
        start(tmp_path, *command, BIOTUNE_STORAGE=url),
    ]
    printed = [output(worker) for worker in workers]

    study = optuna.load_study(study_name="digits", storage=url)
    check_finished(study, 6, 7)
    shares = [re.search(r"ran (\d+) of the study's", text) for text in printed]
    claimed = [int(share[1]) for share in shares if share is not None]
    counted = Counter(trial.user_attrs["worker"] for trial in study.trials)
    assert sorted(claimed) == sorted([*counted.values(), 0, 0][:2])
    assert sum(claimed) == len(study.trials)

    run_here("worker.py", "--trials", "6", "--storage", url)
    late = capsys.readouterr().out
    assert "This worker ran 0 of" in late
    best = study.best_trial
    assert f"trial {best.number}, {best.value:.3f}, {best.user_attrs['mask']}" in late


def test_a_worker_without_a_storage_says_what_it_needs(
    run_here: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BIOTUNE_STORAGE", "")

    with pytest.raises(SystemExit) as ended:
        run_here("worker.py", "--trials", "6")
    assert ended.value.code == 2
    assert "--storage or BIOTUNE_STORAGE is required" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["worker.sbatch", "worker.yaml"])
def test_the_cluster_files_call_the_worker_with_options_that_it_has(name: str) -> None:
    text = (EXAMPLES / name).read_text()

    assert "examples/distributed/worker.py" in text
    assert "BIOTUNE_STORAGE" in text
    source = (EXAMPLES / "worker.py").read_text()
    called = [line for line in text.splitlines() if "worker.py" in line and "--study" in line]
    assert len(called) == 1
    options = re.findall(r"--[a-z]+", called[0])
    assert {"--study", "--trials"} <= set(options)
    assert all(f'"{option}"' in source for option in options)


@pytest.mark.slow
def test_ranks_train_the_same_plans_and_prune_the_same_trials(tmp_path: Path) -> None:
    pytest.importorskip("optuna_integration")
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    command = (EXAMPLES / "data_parallel.py", "--trials", "12", "--epochs", "4")
    printed = output(start(tmp_path, *torchrun, *command))

    assert "12 trials. Best: " in printed
    mask_of_the_best(printed)
    pruned = dict(re.findall(r"Rank (\d) of 2 pruned (\d+) trials", printed))
    assert pruned.keys() == {"0", "1"}
    assert pruned["0"] == pruned["1"]
    assert int(pruned["0"]) > 0


@pytest.mark.slow
def test_dask_workers_share_a_study(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    pytest.importorskip("optuna_integration")
    command = (EXAMPLES / "dask_workers.py", "--trials", "12", "--epochs", "2")
    printed = output(start(tmp_path, *command))

    assert "12 trials. Best: " in printed
    mask_of_the_best(printed)
    assert set(re.findall(r"^  (\w+) +(?:0\.\d+|frozen)$", printed, re.MULTILINE)) == BLOCKS


@pytest.mark.slow
def test_ray_tune_runs_the_sampler_s_trials(tmp_path: Path) -> None:
    pytest.importorskip("ray.tune")
    url = f"sqlite:///{tmp_path / 'ray.db'}"
    command = (EXAMPLES / "ray_tune.py", "--trials", "12", "--epochs", "2", "--storage", url)
    printed = output(start(tmp_path, *command))

    study = optuna.load_study(study_name="digits", storage=url)
    check_finished(study, 12, 12)
    assert {trial.system_attrs["biotune"]["generation"] for trial in study.trials} == {0, 1}
    assert set(re.findall(r"^  (\w+) +(?:0\.\d+|frozen)$", printed, re.MULTILINE)) == BLOCKS
    mask_of_the_best(printed)
