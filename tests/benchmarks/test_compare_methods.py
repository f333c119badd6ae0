"""The comparison of methods: its cells, its store, its statistics, and the command."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import compare_methods
import numpy as np
import plot_methods
import psutil
import pytest
from checkpoints import load_checkpoint
from methods.cells import SUITES, Cell, Setting, list_cells
from methods.problem import Sizes, load_problem
from methods.ranks import best_of, complete_scores, difference, mean_ranks
from methods.store import CellStore
from methods.tables import groups, markdown

from tests.benchmarks.conftest import BENCHMARKS

SMALL = "--targets isic8 --size 16 --max-train 24 --batch-size 8 --epochs 2 --budget 6"
SEEDS = "--search-seeds 1 --final-seeds 2 --device cpu"
METHODS = ["BioTune", "full fine-tuning", "linear probe"]


def command(data: Path, checkpoint: Path, out: Path, *more: str) -> list[str]:
    places = ["--data", str(data), "--checkpoint", str(checkpoint), "--out", str(out)]
    return [*places, *SMALL.split(), *SEEDS.split(), *more]


def read(out: Path, suite: str = "main") -> dict[str, Any]:
    result: dict[str, Any] = json.loads((out / f"{suite}.json").read_text())
    return result


def without_seconds(result: dict[str, Any]) -> str:
    records = [{**record, "made_with": None} for record in result["records"]]
    return re.sub(r'"seconds": [0-9.e-]+', "", json.dumps(records))


@pytest.fixture(scope="module")
def whole(data: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a comparison of three methods that ran in one go."""
    out = tmp_path_factory.mktemp("whole")
    compare_methods.main(command(data, checkpoint, out, "--methods", *METHODS))
    return out


def test_every_method_runs_in_each_protocol(whole: Path) -> None:
    result = read(whole)

    found = [(r["cell"]["method"], r["cell"]["tuned"], r["protocol"]) for r in result["records"]]
    assert found == [
        ("BioTune", True, "fair"),
        ("full fine-tuning", True, "fair"),
        ("linear probe", True, "fair"),
        ("BioTune", False, "paper"),
        ("full fine-tuning", False, "paper"),
        ("linear probe", False, "paper"),
    ]
    for record in result["records"]:
        assert len(record["final"]["test"]) == 2
        assert record["final"]["seeds"] == [100, 101]
        assert record["made_with"]["versions"]["optuna"]
        constants = dict(record["tuning"]["constants"])
        finds_a_plan = constants.pop("multipliers", None) is not None
        assert finds_a_plan == (record["cell"]["method"] == "BioTune")
        if record["cell"]["tuned"]:
            assert constants["weight_decay"] > 0
        else:
            assert constants == {"lr": 1e-3, "weight_decay": 0.0}
        if record["cell"]["tuned"] or finds_a_plan:
            assert 6 <= record["tuning"]["epochs"] < 8
        else:
            assert record["tuning"]["epochs"] == 0


def test_finished_cells_are_not_run_again(
    whole: Path, data: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (whole / "main.json").read_text()
    monkeypatch.setattr("methods.work.run_method", lambda *_, **__: pytest.fail("ran again"))

    compare_methods.main(command(data, checkpoint, whole, "--methods", *METHODS))

    assert (whole / "main.json").read_text() == before


def test_a_changed_setting_is_another_cell(
    whole: Path, data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    database = tmp_path / "cells.db"
    database.write_bytes((whole / "cells.db").read_bytes())
    options = ["--methods", "linear probe", "--protocols", "paper"]

    compare_methods.main(command(data, checkpoint, tmp_path, *options, "--epochs", "3"))

    records = read(tmp_path)["records"]
    assert [record["final"]["epochs"] for record in records] == [6]
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM cells").fetchone() == (7,)


@pytest.mark.slow
def test_a_killed_run_goes_on(whole: Path, data: Path, checkpoint: Path, tmp_path: Path) -> None:
    options = command(data, checkpoint, tmp_path, "--methods", *METHODS)
    process = subprocess.Popen(
        [sys.executable, str(BENCHMARKS / "compare_methods.py"), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while "finished" not in _states(tmp_path) and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    done = [row for row in _rows(tmp_path) if row[1] == "finished"]
    assert 1 <= len(done) < 5

    compare_methods.main(options)

    assert without_seconds(read(tmp_path)) == without_seconds(read(whole))
    # What was finished before has not been touched.
    assert set(done) <= set(_rows(tmp_path))


@pytest.mark.slow
def test_two_workers_find_what_one_does(
    whole: Path, data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    compare_methods.main(
        command(data, checkpoint, tmp_path, "--methods", *METHODS, "--workers", "2")
    )

    assert without_seconds(read(tmp_path)) == without_seconds(read(whole))


def _claim_all(path: Path, mine: Path) -> None:
    """Claim and finish cells until none is left, in a process of its own."""
    store = CellStore(path)
    with mine.open("w") as file:
        while key := store.claim(str(n) for n in range(60)):
            file.write(f"{key}\n")
            store.finish(key, {})


def test_processes_claim_every_cell_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    files = [tmp_path / f"{n}.txt" for n in range(4)]
    processes = [
        context.Process(target=_claim_all, args=(tmp_path / "cells.db", file)) for file in files
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    claimed = [key for file in files for key in file.read_text().split()]
    assert sorted(claimed, key=int) == [str(n) for n in range(60)]


def _rows(out: Path) -> list[tuple[str, str, str]]:
    if not (out / "cells.db").is_file():
        return []
    try:
        with sqlite3.connect(out / "cells.db") as connection:
            return list(connection.execute("SELECT key, state, record FROM cells"))
    except sqlite3.OperationalError:  # not made yet
        return []


def _states(out: Path) -> list[str]:
    return [state for _, state, _ in _rows(out)]


def test_a_cell_is_claimed_once_until_its_process_is_gone(tmp_path: Path) -> None:
    store = CellStore(tmp_path / "cells.db")
    assert [store.claim("ab") for _ in range(3)] == ["a", "b", None]
    store.finish("a", {"value": 1})
    assert store.claim("ab") is None

    gone = subprocess.Popen([sys.executable, "-c", ""])
    start = psutil.Process(gone.pid).create_time()
    gone.wait()
    with sqlite3.connect(tmp_path / "cells.db") as connection:
        connection.execute("UPDATE cells SET pid = ?, process_start = ?", (gone.pid, start))

    assert [store.claim("ab") for _ in range(2)] == ["b", None]
    assert store.records("ba") == [{"value": 1}]


def test_the_number_of_a_dead_process_given_out_again_holds_no_cell(tmp_path: Path) -> None:
    store = CellStore(tmp_path / "cells.db")
    store.claim("a")
    with sqlite3.connect(tmp_path / "cells.db") as connection:
        connection.execute("UPDATE cells SET process_start = process_start - 3600")

    assert store.claim("a") == "a"


def test_a_failed_cell_is_reported_and_tried_again_by_the_next_command(
    data: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = command(data, checkpoint, tmp_path, "--methods", "linear probe")
    options += ["--protocols", "paper"]
    with monkeypatch.context() as context:
        context.setattr("methods.work.run_method", lambda *_, **__: 1 / 0)
        compare_methods.main(options)
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert not (tmp_path / "main.json").exists()

    compare_methods.main(options)

    assert len(read(tmp_path)["records"]) == 1


def test_no_cell_begins_after_the_time(
    data: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare_methods.main(command(data, checkpoint, tmp_path, "--minutes", "0"))

    assert "cells are missing" in capsys.readouterr().err
    assert _states(tmp_path) == []


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--budget", "0"], "`--budget` must be above 0"),
        (["--first-search", "-1"], "`--first-search` must be at least 0"),
        (["--workers", "0"], "`--workers` must be at least 1"),
        (["--methods", "magic"], "`--methods` must be of BioTune"),
        (["--suite", "labels", "--protocols", "paper"], "one of those of labels, fair, but got"),
    ],
)
def test_options_out_of_range_are_refused(
    option: list[str], message: str, data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=message):
        compare_methods.main(command(data, checkpoint, tmp_path, *option))


def test_all_methods_of_a_target_come_together() -> None:
    cells = list_cells(
        "main",
        targets=["a", "b"],
        methods=list(SUITES["main"].methods),
        networks=["small_resnet"],
        protocols=["paper", "fair"],
        searches=range(2),
    )

    assert len(cells) == 2 * 2 * 2 * 12
    order = [(cell.search, cell.target) for cell in cells]
    assert order == sorted(order)


def test_no_seed_is_in_a_search_and_in_a_test() -> None:
    cells = [Cell("main", "isic8", "small_resnet", "BioTune", True, n) for n in range(3)]
    searched = {seed for cell in cells for seed in cell.search_seeds(3)}
    tested = {seed for cell in cells for seed in cell.final_seeds(5)}

    assert len(searched) == 9
    assert len(tested) == 15
    assert not searched & tested


def test_the_key_of_a_cell_depends_on_all_that_decides_it() -> None:
    cell = Cell("main", "isic8", "small_resnet", "BioTune", True, 0)
    known = {"small_resnet": {"epochs": 12}, "small_densenet": {}}
    keys = {
        Setting(checkpoints=known).key(cell),
        Setting(checkpoints=known, budget=10).key(cell),
        Setting(checkpoints=known, sizes=Sizes(size=64)).key(cell),
        Setting(checkpoints={"small_resnet": {"epochs": 13}}).key(cell),
    }

    assert len(keys) == 4
    # Pre-training another network changes nothing.
    assert Setting(checkpoints={"small_resnet": {"epochs": 12}}).key(cell) in keys


def test_scarce_labels_are_as_many_of_each_class(data: Path, checkpoint: Path) -> None:
    pretrained = load_checkpoint(checkpoint)
    sizes = Sizes(size=16, max_val=9, batch_size=4)

    def labels(images: int) -> tuple[list[int], int]:
        problem = load_problem(
            data, "isic8", pretrained, sizes, images_per_class=images, device="cpu"
        )
        counts = problem.data.labels[problem.whole.train].bincount().tolist()
        return counts, len(problem.whole.val)

    assert labels(2) == ([2, 2, 2], 6)
    assert labels(10) == ([10, 10, 10], 9)
    with pytest.raises(ValueError, match="must be at most 16, the images of the rarest class"):
        labels(17)


def values() -> dict[tuple[str, str, int], list[float]]:
    return {
        ("a", "x", 0): [0.9, 0.8],
        ("b", "x", 0): [0.7, 0.8],
        ("c", "x", 0): [0.5, 0.5],
        ("a", "y", 0): [0.6, 0.6],
        ("b", "y", 0): [0.6, 0.6],
        ("c", "y", 0): [0.7, 0.7],
        ("a", "z", 0): [1.0, 1.0],
    }


def test_ranks_are_over_the_targets_that_every_method_has_run() -> None:
    scores = complete_scores(values(), ["a", "b", "c"])

    assert scores.places == (("x", 0), ("y", 0))
    ranks = mean_ranks(scores)
    assert [ranks[name].mean for name in "abc"] == [1.75, 2.25, 2.0]
    assert all(one.low <= one.mean <= one.high for one in ranks.values())
    assert best_of(scores, ["b", "c"]) == "b"


def test_differences_are_paired() -> None:
    scores = complete_scores(values(), ["a", "b", "c"])

    found = difference(scores, "a", "b")

    assert found.mean == pytest.approx(0.05)
    assert found.low == 0.0
    assert found.high <= 0.2
    same = difference(scores, "a", "a")
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)


def test_searches_of_a_target_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    one = {
        (name, target, search): (base + 0.01 * rng.random(5)).tolist()
        for name, shift in (("a", 0.1), ("b", 0.0))
        for target, base in (("x", 0.5 + shift), ("y", 0.5 - shift))
        for search in range(10)
    }

    # Over twenty independent places zero would be far less likely to be out of reach.
    found = difference(complete_scores(one, ["a", "b"]), "a", "b")
    assert found.low < -0.08
    assert found.high > 0.08


def test_the_tables_hold_every_method_and_what_it_is_compared_with(
    whole: Path, capsys: pytest.CaptureFixture[str], data: Path, checkpoint: Path
) -> None:
    compare_methods.main(command(data, checkpoint, whole, "--methods", *METHODS, "--table"))

    table = capsys.readouterr().out
    assert table.strip() == (whole / "main.md").read_text().strip()
    assert table.count("### small_resnet, ") == 2
    for record in read(whole)["records"]:
        mean = np.mean(record["final"]["test"])
        assert any(
            line.startswith(f"| {record['cell']['method']} | {mean:.3f} ±")
            for line in table.splitlines()
        )
    assert "the best baseline" in table
    rows = list(csv.DictReader((whole / "main.csv").open()))
    assert [row["method"] for row in rows][:3] == METHODS
    assert json.loads(rows[0]["constants"])["multipliers"].keys() >= {"stem", "fc"}


def test_a_target_that_a_method_lacks_is_in_no_rank(whole: Path) -> None:
    records = read(whole)["records"][:2]

    assert "No target has been run with every method" in markdown(list(groups(records, METHODS)))


def test_the_results_name_no_path(whole: Path, data: Path, checkpoint: Path) -> None:
    texts = [(whole / f"main.{kind}").read_text() for kind in ("json", "csv", "md")]

    assert all(str(path) not in text for text in texts for path in (data, checkpoint.parent, whole))


def test_the_figures_show_every_method(whole: Path) -> None:
    found = plot_methods.read_groups(whole / "main.json")

    ranks = plot_methods.draw_ranks(found)
    assert [set(trace.y) for trace in ranks.data] == 2 * [set(METHODS)]
    scattered = plot_methods.draw_parameters(found)
    assert {trace.name for trace in scattered.data} == set(METHODS)


def test_ablations_and_scarce_labels_run_and_are_drawn(
    data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["BioTune", "BioTune: freezing only", "BioTune, paper"]
    compare_methods.main(
        command(data, checkpoint, tmp_path, "--suite", "ablations", "--methods", *names)
    )
    assert "against its base" in (tmp_path / "ablations.md").read_text()
    bars = plot_methods.draw_ablations(plot_methods.read_groups(tmp_path / "ablations.json"))
    assert list(bars.data[0].y) == [names[2], names[1]]

    monkeypatch.setitem(SUITES, "labels", replace(SUITES["labels"], images_per_class=(2, 4)))
    compare_methods.main(
        command(
            data, checkpoint, tmp_path, "--suite", "labels", "--methods", "BioTune", "linear probe"
        )
    )
    curves = plot_methods.draw_labels(plot_methods.read_groups(tmp_path / "labels.json"))
    assert [(trace.name, list(trace.x)) for trace in curves.data] == [
        ("BioTune", [2, 4]),
        ("linear probe", [2, 4]),
    ]
