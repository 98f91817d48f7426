"""What a person at a terminal sees of a training run."""

from __future__ import annotations

import time

from rich import progress

from resnest_cli.terminal import progress_bar
from resnest_cli.training.parts import Epoch, Step


class TrainingView:
    """Two bars on standard error: the whole run, and the epoch with its loss and learning rate."""

    def __init__(self, epochs: int) -> None:
        self._bar = progress_bar(
            progress.TextColumn("{task.percentage:>3.0f} %"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[note]}"),
        )
        self._epochs = epochs
        self._run = self._bar.add_task("training", total=1.0, note="")
        self._epoch = self._bar.add_task("epoch", total=1.0, note="")
        self._began: tuple[float, float] | None = None  # when, and at which step of the whole run

    def step(self, at: Step) -> None:
        """Show where the run is."""
        done = (at.epoch - 1) * at.steps + at.step
        now = time.monotonic()
        began, first = self._began = self._began or (now, done)
        rate = (done - first) * at.batch_size / max(now - began, 1e-9)
        self._bar.update(self._run, total=self._epochs * at.steps, completed=done)
        self._bar.update(
            self._epoch,
            description=f"epoch {at.epoch}/{self._epochs}",
            total=at.steps,
            completed=at.step,
            note=f"loss {at.loss:.3f}  lr {at.lr:.2g}  {rate:,.0f} pictures/s",
        )

    def epoch(self, ended: Epoch) -> None:
        """Show how good the network was at the end of an epoch."""
        self._bar.update(self._run, note=f"validation: top-1 {ended.val_top1:.2f} %")

    def __enter__(self) -> TrainingView:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
