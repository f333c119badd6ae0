from __future__ import annotations

from pathlib import Path

import pytest

from optuna_biotune.finetune.host_memory import available_memory, left_in_control_group

MEBIBYTE = 2**20


def write_group(directory: Path, limit: str, used: int, cached: int = 0) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.max").write_text(f"{limit}\n")
    (directory / "memory.current").write_text(f"{used}\n")
    (directory / "memory.stat").write_text(f"anon {used - cached}\ninactive_file {cached}\n")


@pytest.fixture
def membership(tmp_path: Path) -> Path:
    path = tmp_path / "cgroup"
    path.write_text("1:name=systemd:/other\n0::/jobs/step\n")
    return path


def test_the_narrowest_group_decides_and_cached_files_make_room(
    tmp_path: Path, membership: Path
) -> None:
    root = tmp_path / "groups"
    write_group(root / "jobs", str(100 * MEBIBYTE), used=70 * MEBIBYTE, cached=30 * MEBIBYTE)
    write_group(root / "jobs" / "step", "max", used=50 * MEBIBYTE)
    assert left_in_control_group(root, membership) == 60 * MEBIBYTE
    write_group(root / "jobs" / "step", str(64 * MEBIBYTE), used=50 * MEBIBYTE)
    assert left_in_control_group(root, membership) == 14 * MEBIBYTE


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/\n")
    write_group(tmp_path / "groups", str(10 * MEBIBYTE), used=4 * MEBIBYTE)
    assert left_in_control_group(tmp_path / "groups", membership) == 6 * MEBIBYTE


def test_without_groups_or_limits_there_is_none(tmp_path: Path, membership: Path) -> None:
    assert left_in_control_group(tmp_path / "groups", tmp_path / "nothing") is None
    assert left_in_control_group(tmp_path / "groups", membership) is None
    write_group(tmp_path / "groups" / "jobs" / "step", "max", used=1)
    assert left_in_control_group(tmp_path / "groups", membership) is None


def test_this_process_can_take_some_memory() -> None:
    assert available_memory() > MEBIBYTE
