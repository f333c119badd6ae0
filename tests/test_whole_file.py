from __future__ import annotations

from pathlib import Path

import pytest

from optuna_biotune.whole_file import replacing


def test_of_two_that_write_a_file_at_once_the_last_one_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:
            second.write_text("second, which is longer")
        assert path.read_text() == "second, which is longer"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), replacing(path) as partial:
        partial.write_text("ne")
        raise OSError("The disk is full.")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    with replacing(tmp_path / "recipe.json") as partial:
        partial.write_text("new")
    assert (tmp_path / "recipe.json").stat().st_mode == (tmp_path / "other").stat().st_mode
