"""Main memory: how much is free for this process, and how much it holds."""

from __future__ import annotations

import os
from pathlib import Path

_UNKNOWN = 4 * 2**30


def available_memory() -> int:
    """Return how many bytes of main memory new data can take; 4 GiB if that is not known.

    In a container or a batch job this is what is left of its limit.
    """
    try:
        free = _fields(Path("/proc/meminfo"))["MemAvailable"] * 1024
    except (OSError, KeyError, ValueError):
        free = _UNKNOWN
    left = left_in_control_group(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    return free if left is None else max(0, min(free, left))


def left_in_control_group(root: Path, membership: Path) -> int | None:
    """Return what the control groups (version 2) of a process still let it take, in bytes.

    Args:
        root: Where the tree of the groups is mounted.
        membership: File that names the process's group, such as ``/proc/self/cgroup``.

    Returns:
        The least over its group and those above it; None without a limit.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
        name = next(line for line in lines if line.startswith("0::"))[3:]
    except (OSError, StopIteration):
        return None
    group = root / name.strip("/")
    left = [
        _left_in(directory)
        for directory in (group, *group.parents)
        if root in (directory, *directory.parents)
    ]
    return min((value for value in left if value is not None), default=None)


def _left_in(directory: Path) -> int | None:
    """Return what one control group has left; None if it has no limit."""
    try:
        limit = int((directory / "memory.max").read_text())
        used = int((directory / "memory.current").read_text())
        # Cached files that nobody needs make room for data.
        return limit - used + _fields(directory / "memory.stat").get("inactive_file", 0)
    except (OSError, ValueError):
        return None


def _fields(path: Path) -> dict[str, int]:
    """Read a file with a name and a number in each line."""
    rows = (line.replace(":", " ").split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}


def resident_memory() -> int:
    """Return how many bytes of main memory this process holds; 0 if that is not known."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
