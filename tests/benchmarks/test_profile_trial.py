from __future__ import annotations

import re
from pathlib import Path

import pytest


def test_the_parts_of_each_trial_add_up_to_it(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from profile_trial import main

    main(["--data", str(data), "--epochs", "1"])
    out = capsys.readouterr().out
    assert "| | full fine-tuning | first half frozen |" in out
    assert "48 training, 24 validation images, 1 epochs" in out
    rows = re.findall(r"\| ([^|]+) \| ([\d.]+)% \| ([\d.]+)% \|", out)
    shares = {name: (float(full), float(half)) for name, full, half in rows}
    assert shares["convolutions, backward"][0] > 5
    assert shares["optimizer"][1] > 0
    for column in range(2):
        assert sum(values[column] for values in shares.values()) == pytest.approx(100, abs=1)
