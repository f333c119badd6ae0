"""The progress of a search: a bar in a terminal, a line a trial elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from optuna_biotune.commands.study import best_complete_trial, n_finished


class SearchProgress:
    """Shows how far a search is; a context manager, and a callback of ``study.optimize``.

    Args:
        console: Where to show it.
        n_trials: Number of trials that the search ends with, those of other workers included.
        n_epochs: Most epochs of a trial.
    """

    def __init__(self, console: Console, n_trials: int, n_epochs: int) -> None:
        self._console = console
        self._n_trials = n_trials
        self._n_epochs = n_epochs
        self._best: FrozenTrial | None = None
        self._begin = time.monotonic()
        self._n_before = 0
        self._bar = Progress(
            TextColumn("Searching"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[best]}"),
            TextColumn("[dim]{task.fields[now]}[/dim]"),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=n_trials, best="", now="", left="")

    def begin(self, study: optuna.Study) -> None:
        """Take over what the study has already, and say how trials will be shown."""
        self._console.print(
            "[dim]Each trial: validation score; its blocks in order, T trained, F frozen[/dim]",
            highlight=False,
        )
        self._n_before = n_finished(study)
        self._best = best_complete_trial(study)
        self._begin = time.monotonic()
        self._bar.update(self._task, completed=self._n_before, best=self._shown_best())

    def __enter__(self) -> SearchProgress:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the bar."""
        self._bar.stop()

    def epoch(self, number: int, epoch: int) -> None:
        """Show that a trial has finished an epoch, counted from 1."""
        now = f"trial {number} epoch {epoch}/{self._n_epochs}"
        self._bar.update(self._task, now=now)

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Show what a trial came to."""
        done = n_finished(study)
        self._best = best_complete_trial(study)
        self._bar.update(
            self._task,
            completed=done,
            best=self._shown_best(),
            now="",
            left=self._shown_time_left(done),
        )
        is_best = self._best is not None and self._best.number == trial.number
        if is_best or trial.state == TrialState.FAIL or not self._console.is_terminal:
            self._console.print(
                f"[dim]{done:3}/{self._n_trials}[/dim]  {_described(trial)}"
                f"{'  [green]best so far[/green]' if is_best else ''}",
                highlight=False,
            )

    def _shown_best(self) -> str:
        return "" if self._best is None else f"best [bold]{self._best.value:.3f}[/bold]"

    def _shown_time_left(self, done: int) -> str:
        """Say how long the rest takes at the pace of all workers together."""
        gained = done - self._n_before
        if gained <= 0:
            return ""
        seconds = (time.monotonic() - self._begin) / gained * max(self._n_trials - done, 0)
        return f"{shown_duration(seconds)} left"


class WatchedPruner(optuna.pruners.BasePruner):
    """A pruner that tells the progress of the epochs that it is asked about.

    Args:
        pruner: Decides.
        progress: Is told.
    """

    def __init__(self, pruner: optuna.pruners.BasePruner, progress: SearchProgress) -> None:
        self._pruner = pruner
        self._progress = progress

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Decide as the pruner does."""
        if trial.last_step is not None:
            self._progress.epoch(trial.number, trial.last_step + 1)
        return self._pruner.prune(study, trial)


def _described(trial: FrozenTrial) -> str:
    """Write a trial in one line."""
    text = f"trial {trial.number:<3}"
    mask = trial.user_attrs.get("mask", "")
    seconds = shown_duration(trial.user_attrs.get("seconds", 0.0))
    if trial.state == TrialState.FAIL:
        return f"{text} [red]failed[/red]: {trial.user_attrs.get('failure', 'see above')}"
    if trial.state == TrialState.PRUNED:
        return f"{text} [dim]pruned[/dim]  blocks {mask}  {seconds}"
    return f"{text} [bold]{trial.value:.4f}[/bold]  blocks {mask}  {seconds}"


def shown_duration(seconds: float) -> str:
    """Write a duration: ``8 s``, ``3:20 min``, ``2:05 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{int(seconds // 60)}:{int(seconds % 60):02} min"
    return f"{minutes // 60}:{minutes % 60:02} h"
