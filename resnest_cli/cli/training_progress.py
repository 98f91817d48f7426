"""A training run's progress bar."""

from __future__ import annotations

import sys
import time

from resnest_cli.cli.progress import TerminalProgress, bars
from resnest_cli.training.summary import SILENT_TRAINING, EpochStats, Step, TrainingProgress


def chosen_training_progress(*, quiet: bool) -> TrainingProgress:
    """What shows the progress of training: a bar at a terminal unless `quiet`, else nothing."""
    return TerminalTraining("weights") if sys.stderr.isatty() and not quiet else SILENT_TRAINING


class TerminalTraining(TerminalProgress, TrainingProgress):
    """One bar for the whole run, with the epoch, its loss and learning rate, and the accuracy."""

    _first: int | None = None  # steps of the run that were done before
    _accuracy = ""

    def step(self, step: Step) -> None:
        """Show where the run is; the bar appears with the first step."""
        from rich import progress

        done = (step.epoch - 1) * step.steps + step.step
        if self._first is None:
            self._first = done
            percent = progress.TextColumn("{task.percentage:>3.0f} %")
            note = progress.TextColumn("{task.fields[rate]}")
            self._begin("", bars(percent, progress.TimeRemainingColumn(), note))
        assert self._bars is not None
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = (done - self._first) * step.batch_size / seconds
        self._bars.update(
            self._bars.task_ids[0],
            description=f"epoch {step.epoch}/{step.epochs}",
            total=step.epochs * step.steps,
            completed=done,
            rate=f"loss {step.loss:.3f}  lr {step.lr:.2g}  {rate:,.0f} images/s{self._accuracy}",
        )

    def epoch(self, stats: EpochStats) -> None:
        """Show the accuracy from now on."""
        self._accuracy = f"  top-1 {stats.val_top1:.2f} %"
