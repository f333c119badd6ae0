"""Writing a file so that it is there as a whole or not at all."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a new, empty file to write, which takes the place of another one at the end.

    If the writing fails, the other one stays. Processes that write the same file at once do not
    meet: the last one's file stays.

    Args:
        path: The file to replace, which need not exist.

    Raises:
        OSError: If it cannot be written there.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.touch()
    except OSError as error:  # The user knows the other name only.
        raise type(error)(error.errno, error.strerror, str(path)) from None
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
