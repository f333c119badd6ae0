from __future__ import annotations

import json
from pathlib import Path

import pytest

SIZES = ["--epochs", "1", "--seeds", "1", "--batch-size", "16", "--genotypes", "3"]


@pytest.mark.slow
def test_processes_share_the_trials(data: Path, tmp_path: Path) -> None:
    from concurrent_trials import main

    options = ["--data", str(data), "--device", "cpu", "--out", str(tmp_path), *SIZES]
    main([*options, "--processes", "1", "2"])

    result = json.loads((tmp_path / "cpu.json").read_text())
    assert result["processes"] == [1, 2]
    assert all(rate > 0 for rate in result["networks"]["small_resnet"])
    assert "(x 1.00)" in (tmp_path / "cpu.md").read_text()


def test_more_processes_than_plans_are_refused(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from concurrent_trials import main

    with pytest.raises(SystemExit):
        main(["--data", str(data), *SIZES, "--processes", "4"])
    assert "between 1 and the number of --genotypes" in capsys.readouterr().err
