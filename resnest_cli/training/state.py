"""The state of a training run as a file, from which a later process resumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resnest_cli.engines.torch_engine import is_out_of_memory
from resnest_cli.errors import CheckpointError, OutputError, ResNeStError, WriteError
from resnest_cli.files import atomic_write
from resnest_cli.training.summary import EpochStats


@dataclass
class RunProgress:
    """How far a run is."""

    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the next epoch
    seconds: float = 0.0  # spent on those steps
    history: list[EpochStats] = field(default_factory=list)


class TrainingState(NamedTuple):
    """All of a run between two steps; random numbers follow from the recipe's seed."""

    network: Mapping[str, Any]
    averaged: Mapping[str, Any] | None
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    progress: RunProgress
    loss_sum: Tensor  # of the epoch's steps so far
    recipe: Mapping[str, Any]
    data_digest: str  # of the images and their preprocessing

    def write(self, file: Path) -> None:
        """Write it beside the file and rename it into place; `OutputError` if that fails."""
        progress = self.progress
        history = [vars(row) for row in progress.history]
        values = self._asdict() | {"progress": {**vars(progress), "history": history}}
        try:
            with atomic_write(file) as beside, beside.open("wb") as opened:
                torch.save(values, opened)
        except (WriteError, RuntimeError) as error:
            refused = error.__cause__ or error.__context__  # torch's own error holds no reason
            if not isinstance(refused, OSError):
                raise
            raise OutputError(
                f"'{file}' cannot be written: {refused.strerror or refused}\n"
                "earlier progress is saved: `resume` continues"
            ) from error

    @classmethod
    def read(cls, file: Path) -> TrainingState:
        """What `write` wrote, on the CPU: a GPU may have no room for a second copy."""
        try:
            values = torch.load(file, map_location="cpu", weights_only=True)
            progress = values.pop("progress")
            history = [EpochStats(**row) for row in progress.pop("history")]
            return cls(**values, progress=RunProgress(**progress, history=history))
        except Exception as error:  # damaged files raise anything at all in torch's readers
            short_of_memory = isinstance(error, RuntimeError) and is_out_of_memory(error)
            if short_of_memory or isinstance(error, (OSError, MemoryError)):
                raise ResNeStError(
                    f"'{file}' cannot be read at the moment: {error}\n"
                    "it may well be intact: try `resume` once more"
                ) from error
            raise CheckpointError(
                f"'{file}' is damaged, or from another version\nstart from scratch with `overwrite`"
            ) from error
