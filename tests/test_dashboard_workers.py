"""Two processes publish one study at once: whatever is stored at any time is whole."""

from __future__ import annotations

import json
import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import optuna
import pytest

from optuna_biotune import make_storage
from optuna_biotune._compat import get_study_system_attrs
from optuna_biotune.dashboard import publish
from optuna_biotune.dashboard._figures import figures
from optuna_biotune.dashboard._note import BEGIN, END
from optuna_biotune.dashboard._storing import save_figure, save_note
from tests.synthetic_study import large_study

optuna_dashboard = pytest.importorskip(
    "optuna_dashboard", reason="optuna-dashboard is not installed"
)

STUDY = "shared"
N_FIRST, N_EACH, N_AGAIN = 30, 2, 10
OWN_TEXT = "Ask Ada about the labels."


def add_and_publish(url: str, begin: Barrier, worker: int) -> None:
    """Publish after every trial, and then store plots of another length than the other worker."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name=STUDY, storage=make_storage(url))
    trials = large_study(N_FIRST + 2 * N_EACH).trials[N_FIRST + worker * N_EACH :][:N_EACH]
    begin.wait(timeout=60)
    for trial in trials:
        study.add_trial(trial)
        publish(study)
    drawn, _ = figures(large_study(N_FIRST * (1 + worker)), None)
    for _ in range(N_AGAIN):
        for name, figure in drawn.items():
            save_figure(study, name, figure)


def plots_of(attributes: dict[str, Any]) -> dict[str, Any]:
    """Join the pieces of each plot as the dashboard does, and read it."""
    texts = optuna_dashboard._custom_plot_data.get_plotly_graph_objects(attributes)
    return {name: json.loads(text) for name, text in texts.items()}


def check_publishing_at_once(url: str) -> None:
    study = optuna.create_study(study_name=STUDY, storage=make_storage(url), direction="maximize")
    study.add_trials(large_study(N_FIRST).trials)
    save_note(study, OWN_TEXT)
    context = multiprocessing.get_context("spawn")
    begin = context.Barrier(3)
    workers = [
        context.Process(target=add_and_publish, args=(url, begin, worker)) for worker in range(2)
    ]
    for worker in workers:
        worker.start()
    begin.wait(timeout=60)
    while any(worker.is_alive() for worker in workers):
        plots_of(get_study_system_attrs(study))
        time.sleep(0.01)
    assert [worker.exitcode for worker in workers] == [0, 0]

    assert len(plots_of(get_study_system_attrs(study))) == 7
    note = optuna_dashboard.get_note(study)
    assert note.startswith(f"{OWN_TEXT}\n\n{BEGIN}") and note.endswith(END)
    assert note.count(BEGIN) == note.count(END) == 1


def test_two_processes_publish_into_one_file(tmp_path: Path) -> None:
    check_publishing_at_once(f"sqlite:///{tmp_path / 'biotune.db'}")


@pytest.mark.slow
@pytest.mark.services
def test_two_processes_publish_into_postgresql(postgresql_url: str) -> None:
    check_publishing_at_once(postgresql_url)


@pytest.mark.services
def test_a_plot_of_the_greatest_size_and_a_long_note_fit_into_mariadb(mariadb_url: str) -> None:
    study = optuna.create_study(storage=make_storage(mariadb_url), direction="maximize")
    study.add_trials(large_study(140).trials)
    long_text = ("Größe 📏 " * 10_000).strip()
    save_note(study, long_text)
    publish(study)
    attributes = get_study_system_attrs(study)
    assert len(plots_of(attributes)) == 7
    assert max(len(json.dumps(value)) for value in attributes.values()) > 20_000
    assert optuna_dashboard.get_note(study).startswith(long_text)


def test_a_short_note_in_the_place_of_a_long_one_leaves_nothing_of_it() -> None:
    study = optuna.create_study()
    optuna_dashboard.save_note(study, "long " * 10_000)
    save_note(study, "short")
    assert optuna_dashboard.get_note(study) == "short"


def test_what_two_publications_left_in_the_note_becomes_one() -> None:
    study = large_study(20)
    publish(study)
    once = optuna_dashboard.get_note(study)
    save_note(study, f"Before.\n\n{once}\n\n{once}\n\nAfter.")
    publish(study)
    assert optuna_dashboard.get_note(study) == f"Before.\n\n{once}\n\nAfter."
