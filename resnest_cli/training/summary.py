"""What a training run reports while it runs, and what it came to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnest_cli.errors import OutputError
from resnest_cli.files import atomic_write
from resnest_cli.progress import Progress

SUMMARY_FILE = "summary.json"  # by which a run is known to have ended


@dataclass(frozen=True)
class Step:
    """One step of the optimizer."""

    epoch: int  # from 1
    epochs: int
    step: int  # in this epoch, from 1
    steps: int  # in an epoch
    batch_size: int
    loss: float  # mean of the epoch so far
    lr: float


@dataclass(frozen=True)
class EpochStats:
    """One row of the history."""

    epoch: int  # from 1
    lr: float  # at its end
    train_loss: float
    val_loss: float
    val_top1: float  # per cent
    val_top5: float
    images_per_second: float
    seconds: float


class TrainingProgress(Progress):
    """Receives the steps and epochs of a run as well; override what you want to show."""

    def step(self, step: Step) -> None:
        """A step is done; called a few times a second at most, and after each epoch's last."""

    def epoch(self, stats: EpochStats) -> None:
        """An epoch is done, validated and saved."""


SILENT_TRAINING = TrainingProgress()


@dataclass(frozen=True)
class TrainingSummary:
    """What a training run came to; `summary.json` in its folder holds the same."""

    folder: Path  # of the run
    name: str  # of the model
    tool: str  # that trained it, with its version
    best: EpochStats  # the epoch whose weights are in best.safetensors
    last: EpochStats
    seconds: float  # of all epochs
    data: str  # folder of the training set
    validation: str  # folder, or the fraction of each class that was held out
    initial_weights: str | None  # a model or a file; None: random
    images: Mapping[str, int]  # in `train` and `val`
    classes: Mapping[str, int]  # images of the training set in each
    device: str
    processes: int
    parameters: int
    architecture: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    recipe: Mapping[str, Any]  # everything that repeats the run, as a recipe file holds it

    @property
    def weights(self) -> Path:
        """The best epoch's checkpoint."""
        return self.folder / "best.safetensors"

    def write(self) -> None:
        """Write it into the run's folder."""
        values = {name: value for name, value in asdict(self).items() if name != "folder"}
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        with atomic_write(self.folder / SUMMARY_FILE) as path:
            # what is not UTF-8 in a path becomes JSON's own escape
            path.write_text(text, encoding="utf-8", errors="backslashreplace")

    @classmethod
    def read(cls, folder: Path) -> TrainingSummary:
        """The summary in a run's folder; raises `OutputError` if it is missing or damaged."""
        path = folder / SUMMARY_FILE
        try:
            values = dict(json.loads(path.read_text(encoding="utf-8")))
            best, last = (EpochStats(**values.pop(name)) for name in ("best", "last"))
            return cls(folder=folder, best=best, last=last, **values)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"'{path}' is missing, damaged, or from another version") from error


def best_epoch(history: Sequence[EpochStats]) -> EpochStats:
    """The epoch with the best top-1; of equals, the one with the lowest loss."""
    return max(history, key=lambda row: (row.val_top1, -row.val_loss))
