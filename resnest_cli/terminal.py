"""What a person at a terminal sees: tables with bars, progress with rate and time left."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING

from resnest_cli.errors import ResNeStError
from resnest_cli.results import Result
from resnest_cli.writers import printable, title

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

SUMMARY = logging.WARNING + 1  # the level of what is shown unless --quiet, and no warning
_BAR_WIDTH = 24  # columns of a bar that stands for a probability of 1
_EIGHTHS = " ▏▎▍▌▋▊▉"


class TerminalWriter:
    """A block per picture: its path, then a bar, a percentage and a name for each prediction."""

    def __init__(self, *, foot: str) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, soft_wrap=True)
        self._foot = foot

    def write(self, result: Result) -> None:
        """Print one result."""
        from rich.text import Text

        block = Text(printable(result.path), style="bold")
        for p in result.predictions:
            lead = p.rank == 1
            block.append(f"\n  {p.probability:>7.2%} ", style="bold" if lead else "not bold")
            block.append(self._bar(p.probability), style="green" if lead else "not bold cyan")
            block.append(f" {title(p)}", style="bold" if lead else "not bold")
        if result.error:
            block.append(f"\n  {printable(result.error)}", style="not bold red")
        elif not result.predictions:
            block.append("\n  nothing reached the threshold", style="not bold dim")
        self._console.print(block)

    def close(self) -> None:
        """Print what gave the results."""
        self._console.print(f"\n{self._foot}", style="dim")

    def _bar(self, probability: float) -> str:
        whole, eighths = divmod(round(probability * _BAR_WIDTH * 8), 8)
        bar = "█" * whole + (_EIGHTHS[eighths] if eighths else "")
        if not self._console.encoding.lower().startswith("utf"):
            bar = "#" * round(probability * _BAR_WIDTH)
        return bar.ljust(_BAR_WIDTH)


class DownloadBar:
    """A bar for a download, on standard error, drawn from its first byte on."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Progress | None = None

    def __call__(self, done: int, total: int | None) -> None:
        """Show that `done` of `total` bytes are there."""
        if self._bar is None:
            from rich import progress

            self._bar = progress_bar(
                progress.DownloadColumn(),
                progress.TransferSpeedColumn(),
                progress.TimeRemainingColumn(),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._label)
        self._bar.update(self._task, completed=done, total=total)

    def __enter__(self) -> DownloadBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def picture_bar(
    count: Callable[[], int | None], done: int, label: str = "classifying"
) -> Iterator[Callable[[], None]]:
    """A bar over pictures, on standard error; yields what to call for each.

    Args:
        count: how many there are in all; called in a thread, as it may walk large folders.
        done: how many an earlier run has done.
        label: what is done with them.
    """
    from rich import progress

    bar = progress_bar(
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
    )
    with bar:
        task = bar.add_task(label, total=None, completed=done, rate="")

        def show_total() -> None:
            with suppress(ResNeStError):  # what is wrong with the inputs is told elsewhere
                bar.update(task, total=count())

        Thread(target=show_total, daemon=True).start()
        start, seen = time.monotonic(), 0

        def advance() -> None:
            nonlocal seen
            seen += 1
            rate = seen / max(time.monotonic() - start, 1e-9)
            bar.update(task, advance=1, rate=f"{rate:.1f}/s")

        yield advance


def set_verbosity(*, quiet: bool, verbose: bool) -> None:
    """How much goes to standard error."""
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    logging.getLogger("resnest_cli").setLevel(level)


def stderr_is_terminal() -> bool:
    """Whether a person can see progress."""
    return sys.stderr.isatty()


def progress_bar(*columns: ProgressColumn) -> Progress:
    """Bars on standard error, each with a description, the bar and these columns."""
    from rich import progress
    from rich.console import Console

    first = (progress.TextColumn("{task.description}"), progress.BarColumn())
    return progress.Progress(*first, *columns, console=Console(stderr=True), transient=True)
