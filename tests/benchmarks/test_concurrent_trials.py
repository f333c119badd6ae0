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


@pytest.mark.parametrize(
    ("processes", "message"), [(["1", "4"], "at most the number of"), (["2", "3"], "begin with 1")]
)
def test_counts_that_cannot_be_compared_are_refused(
    processes: list[str], message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from concurrent_trials import main

    with pytest.raises(SystemExit):
        main(["--data", str(data), *SIZES, "--processes", *processes])
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_error_of_a_process_is_told(data: Path, tmp_path: Path) -> None:
    from concurrent_trials import main

    options = ["--data", str(data), "--device", "cpu", "--networks", "no_such_network", *SIZES]
    with pytest.raises(ValueError, match="no_such_network"):
        main([*options, "--out", str(tmp_path), "--processes", "1", "2"])
