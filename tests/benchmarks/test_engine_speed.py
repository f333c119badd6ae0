from __future__ import annotations

import json
from pathlib import Path

import pytest


def test_all_plans_are_measured_in_all_ways_and_learn_alike(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from engine_speed import WAYS, main

    sizes = ["--epochs", "3", "--seeds", "1", "--batch-size", "16", "--genotypes", "2"]
    main(["--data", str(data), "--device", "cpu", "--out", str(tmp_path), "--workers", "0", *sizes])
    result = json.loads((tmp_path / "cpu.json").read_text())
    trials = result["networks"]["small_resnet"]["trials"]
    assert list(trials) == [
        "full fine-tuning",
        "first half frozen",
        "linear probe",
        "mean of 2 random genotypes",
    ]
    for row in trials.values():
        assert list(row) == list(WAYS)
        assert all(measured["seconds"] > 0 for measured in row.values())
    # The images differ by colour only: all ways learn them.
    full = [trials["full fine-tuning"][way]["accuracy"] for way in WAYS]
    assert min(full) > 0.8
    assert str(data) not in json.dumps(result)
    assert capsys.readouterr().out.strip() == (tmp_path / "cpu.md").read_text().strip()
