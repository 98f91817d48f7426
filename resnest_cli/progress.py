"""What a caller sees of the work: progress, as a callback, and log messages, by their level."""

from __future__ import annotations

import logging

SUMMARY = logging.WARNING + 1  # shown unless quiet, and not a warning


class Progress:
    """Receives how far some work is; this one ignores it. Override what you want to show."""

    wants_total = False  # whether inputs are listed ahead of the work, to know their number

    def download(self, done: int, total: int | None) -> None:
        """`done` of `total` bytes of a checkpoint have arrived; None: unknown."""

    def start(self, task: str, done: int = 0) -> None:
        """A task over images begins, of which `done` are finished already."""

    def total(self, count: int) -> None:
        """The number of images of the task in progress is now known."""

    def advance(self) -> None:
        """One more image is done."""

    def finish(self) -> None:
        """The task in progress has ended, well or not."""


SILENT = Progress()


def set_verbosity(*, quiet: bool, verbose: bool) -> None:
    """Choose what is logged: errors only, everything, or warnings and summaries."""
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    logging.getLogger("resnest_cli").setLevel(level)
