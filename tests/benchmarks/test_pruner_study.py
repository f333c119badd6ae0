from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

TRIALS, EPOCHS = 4, 3
OPTIONS = ["--targets", "isic8", "--trials", str(TRIALS), "--epochs", str(EPOCHS)]
OPTIONS += ["--max-train", "24", "--refit-seeds", "2", "--seeds", "1"]


def study(data: Path, out: Path, *more: str) -> list[dict[str, object]]:
    from pruner_study import main

    main(["--data", str(data), "--out", str(out), *OPTIONS, *more])
    searches: list[dict[str, object]] = json.loads((out / "pruner_study.json").read_text())[
        "searches"
    ]
    return searches


def test_every_pruner_searches_and_a_second_run_goes_on(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pruner_replay import PRUNERS
    from pruner_study import main

    searches = study(data, tmp_path)
    assert [search["pruner"] for search in searches] == 2 * list(PRUNERS)
    assert {str(search["sampler"]) for search in searches} == {"prescreened", "paper"}
    assert study(data, tmp_path) == searches
    path = tmp_path / "pruner_study.json"
    result = json.loads(path.read_text())
    expected = result["searches"].pop()
    path.write_text(json.dumps(result))
    again = study(data, tmp_path)[-1]
    assert {**again, "seconds": 0} == {**expected, "seconds": 0}
    capsys.readouterr()
    main(["--out", str(tmp_path), "--table"])
    table = capsys.readouterr().out
    assert table.strip() == (tmp_path / "pruner_study.md").read_text().strip()
    assert all(f"| {name} |" in table for name in PRUNERS)
    with pytest.raises(SystemExit, match="another command, setting"):
        study(data, tmp_path, "--epochs", "5")


def test_no_search_begins_after_the_time(data: Path, tmp_path: Path) -> None:
    from pruner_study import main

    main(["--data", str(data), "--out", str(tmp_path), *OPTIONS, "--minutes", "0"])
    assert not (tmp_path / "pruner_study.json").exists()


def test_a_replayed_pruner_sees_each_curve_up_to_where_it_prunes() -> None:
    from pruner_replay import replay

    good, bad = [0.5, 0.6, 0.7, 0.8, 0.9, 0.9], [0.1, 0.1, 0.1, 0.2, 0.3, 1.0]
    curves = [good] * 10 + [bad]
    all_kept = {"epochs": 66, "best_pruned": False, "top_pruned": 0, "lost": 0.0}
    assert replay(curves, "none", 8, "s") == all_kept
    # The warm-up of three epochs is over at step 3; the last trial would have become the best.
    pruned = {"epochs": 64, "best_pruned": True, "top_pruned": 1, "lost": pytest.approx(0.1)}
    assert replay(curves, "median", 8, "s") == pruned


def test_recorded_trainings_are_reported_as_the_objective_does() -> None:
    from landscapes.recorded import Recording
    from pruner_replay import reported_curves

    seeds = [[0.2, 0.4, 0.3, 0.3, 0.9], [0.1, 0.3, 0.5, 0.4, 0.6]]
    recording = Recording(("a",), np.zeros((1, 2)), np.array([seeds]))
    # The first seed stops after two epochs without improvement, and keeps its best value.
    assert reported_curves(recording, patience=2) == [pytest.approx([0.15, 0.35, 0.45, 0.45, 0.5])]
