"""All progress bars: on standard error, at a terminal only."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from resnest_cli.progress import SILENT, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import ProgressColumn


def chosen_progress(label: str, *, quiet: bool = False, tasks: bool = True) -> Progress:
    """Bars at a terminal unless `quiet`: downloads, called `label`, and tasks over images."""
    return TerminalProgress(label, tasks=tasks) if sys.stderr.isatty() and not quiet else SILENT


class TerminalProgress(Progress):
    """One bar at a time: of a download in bytes, or of a task in images with rate and time left."""

    def __init__(self, label: str, *, tasks: bool = True) -> None:
        self.wants_total = tasks
        self._label = label
        self._bars: Bars | None = None
        self._began = 0.0
        self._seen = 0

    def download(self, done: int, total: int | None) -> None:
        """Show the bytes so far; the bar appears with the first ones."""
        from rich import progress

        if self._bars is None:
            columns = progress.DownloadColumn(), progress.TransferSpeedColumn()
            self._begin(self._label, bars(*columns, progress.TimeRemainingColumn()))
        assert self._bars is not None
        self._bars.update(self._bars.task_ids[0], completed=done, total=total)
        if done == total:
            self.finish()

    def start(self, task: str, done: int = 0) -> None:
        """Show a task over images, of which `done` are finished already."""
        from rich import progress

        self.finish()
        if self.wants_total:
            rate = progress.TextColumn("{task.fields[rate]}")
            columns = progress.MofNCompleteColumn(), rate, progress.TimeRemainingColumn()
            self._begin(task, bars(*columns), done)

    def total(self, count: int) -> None:
        """Show how many images there are."""
        if self._bars is not None:
            self._bars.update(self._bars.task_ids[0], total=count)

    def advance(self) -> None:
        """Show one more image, and the rate."""
        if self._bars is not None:
            self._seen += 1
            rate = self._seen / max(time.monotonic() - self._began, 1e-9)
            self._bars.update(self._bars.task_ids[0], advance=1, rate=f"{rate:.1f}/s")

    def finish(self) -> None:
        """Remove the bar."""
        if self._bars is not None:
            with suppress(OSError):  # the terminal may have been closed
                self._bars.stop()
        self._bars = None

    def _begin(self, task: str, made: Bars, done: int = 0) -> None:
        self._bars = made
        made.add_task(task, total=None, completed=done, rate="")
        self._began, self._seen = time.monotonic(), 0
        made.start()


def bars(*columns: ProgressColumn) -> Bars:
    """Bars on standard error, each with a description, the bar and these columns."""
    from rich import progress
    from rich.console import Console

    first = (progress.TextColumn("{task.description}"), progress.BarColumn())
    return progress.Progress(*first, *columns, console=Console(stderr=True), transient=True)
