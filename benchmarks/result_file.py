"""The JSON file of a study that goes on where it was stopped, and its tables beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from checkpoints import library_versions

from optuna_biotune.whole_file import replacing


def load_results(path: Path, frame: Mapping[str, Any]) -> dict[str, Any]:
    """Read the results of a study that was begun, or begin one.

    Args:
        path: The JSON file.
        frame: What must be the same for the study to go on.

    Returns:
        The frame, ``versions`` of the libraries, and ``searches``, a list.

    Raises:
        ValueError: If the file's study was made otherwise.
    """
    frame = json.loads(json.dumps(frame))
    if not path.is_file():
        return {**frame, "versions": library_versions(), "searches": []}
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    changed = [key for key, value in frame.items() if stored.get(key) != value]
    if changed:
        raise ValueError(
            f"{path.name} was made with another {', '.join(changed)}: give the same options to go "
            "on with it, or another `--out`."
        )
    return stored


def write_results(
    path: Path, result: Mapping[str, Any], markdown: Callable[[Mapping[str, Any]], str]
) -> None:
    """Write the JSON file, whole or not at all, and the tables beside it.

    Args:
        path: The JSON file; the tables go into ``.md`` of the same name.
        result: The results.
        markdown: Makes tables of them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(result) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(result) + "\n", encoding="utf-8")
