"""Errors of the command line: one line each, in the words of its options."""

from __future__ import annotations

import re

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

# Arguments that the library's messages name, and what the user has typed instead.
_OPTIONS = {
    "batch_size": "--batch-size",
    "device": "--device",
    "epochs": "--epochs",
    "framework": "--to",
    "image_size": "--image-size",
    "lr": "--lr",
    "network": "--network",
    "seeds": "--seeds",
    "test": "the test images",
    "train": "the training images",
    "url": "--storage",
    "val": "the validation images",
    "weights": "--weights FILE",
}

_EXPECTED = (ValueError, TypeError, ImportError, OSError, StorageInternalError, SQLAlchemyError)


class CommandError(Exception):
    """A command cannot go on; the message says why and what to do."""


def explained(error: Exception) -> str | None:
    """Return a line that says what is wrong and what to do; None for an error of the program."""
    kind = type(error).__name__
    if kind in ("MemoryError", "OutOfMemoryError"):  # the latter is torch's, which may not be here
        return "Out of memory: give a smaller --batch-size or --image-size."
    if kind == "NonFiniteLossError":
        return f"{translate(str(error))} Give a smaller --lr."
    if isinstance(error, CommandError):
        return str(error)
    if "Expected more than 1 value per channel" in str(error):
        return "BatchNorm cannot train on single images: give a --batch-size of at least 2."
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename} cannot be used: {error.strerror}."
    if isinstance(error, _EXPECTED):
        return translate(str(error) or kind)
    return None


def translate(message: str) -> str:
    """Return a message in one line, with options instead of arguments."""
    text = re.sub(r"`(\w+)`", lambda found: _OPTIONS.get(found[1], found[0]), message)
    return " ".join(text.split())
