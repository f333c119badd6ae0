"""Storing plots and a note in a study so that each is whole at any time, whoever else writes.

optuna-dashboard's own functions cut a text into pieces of 2,045 characters and write one after
another: two that write at once leave pieces of both. Its reader joins however many pieces there
are, and Optuna's databases hold 65,535 bytes in a row, so here a text is one piece, which the
storage writes at once. Of two that write, the last one stays.
"""

from __future__ import annotations

import json

import plotly.graph_objects as go
from optuna import Study

from optuna_biotune._compat import get_study_system_attrs, set_study_system_attr

_PLOT = "dashboard:plot_data:"
_NOTE = "dashboard:note_str:"
_NOTE_VERSION = "dashboard:note_ver"
# MariaDB's type TEXT, which holds the text as JSON, ends at 65,535 bytes.
_MOST_BYTES_IN_A_ROW = 65_000
# A character takes at most twelve bytes in JSON.
_SMALL_PIECE = 5_000


def save_figure(study: Study, name: str, figure: go.Figure) -> None:
    """Store a figure, in the place of the one of this name.

    Args:
        study: The study.
        name: Its identifier: letters, digits and hyphens.
        figure: The figure. One of less than about 50 kB is whole at any time.
    """
    _save(study, f"{_PLOT}{name}:", figure.to_json())


def save_note(study: Study, note: str) -> None:
    """Store the study's note, in the place of the one that it has.

    Args:
        study: The study.
        note: Markdown. One of less than about 50 kB is whole at any time.
    """
    # By the version, the dashboard's editor sees that somebody else has written.
    version = get_study_system_attrs(study).get(_NOTE_VERSION, 0) + 1
    set_study_system_attr(study, _NOTE_VERSION, version)
    _save(study, _NOTE, note)


def _save(study: Study, prefix: str, text: str) -> None:
    """Write the pieces of a text, and empty those of a text in more pieces that was there."""
    pieces = _pieces(text)
    for index, piece in enumerate(pieces):
        set_study_system_attr(study, f"{prefix}{index}", piece)
    stored = get_study_system_attrs(study)
    n_stored = sum(key.startswith(prefix) for key in stored)
    for index in range(len(pieces), n_stored):
        if stored[f"{prefix}{index}"]:
            set_study_system_attr(study, f"{prefix}{index}", "")


def _pieces(text: str) -> list[str]:
    """Cut a text, if it must be, into pieces that fit into a row of each database."""
    if len(json.dumps(text)) <= _MOST_BYTES_IN_A_ROW:
        return [text]
    return [text[start : start + _SMALL_PIECE] for start in range(0, len(text), _SMALL_PIECE)]
