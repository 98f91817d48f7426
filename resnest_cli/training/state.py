"""The state of a training run as a file: all that a later process goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resnest_cli.engines.torch_engine import is_out_of_memory
from resnest_cli.errors import CheckpointError, OutputError, ResNeStError
from resnest_cli.files import into_place
from resnest_cli.training.parts import Epoch, Position
from resnest_cli.training.recipe import Recipe


class State(NamedTuple):
    """What a run is made of between two steps; random numbers follow from the recipe's seed."""

    network: Mapping[str, Any]
    averaged: Mapping[str, Any] | None
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    at: Position
    loss_sum: Tensor | None  # of the epoch's steps so far
    recipe: Mapping[str, Any]
    seen: str  # a fingerprint of the pictures, and of how they are shown


def write_state(state: State, file: Path) -> None:
    """Write a state beside its file and rename it into place.

    Raises:
        OutputError: that cannot be done.
    """
    values = state._asdict()
    at: Position = values.pop("at")
    values["position"] = {**vars(at), "history": [vars(row) for row in at.history]}
    try:
        with into_place(file) as beside:
            torch.save(values, beside)
    except (OSError, RuntimeError) as error:  # the latter is torch's word for a full disk
        raise OutputError(
            f"'{file}' cannot be written; is the disk full?\n"
            "what was done before is kept: --resume goes on"
        ) from error


def read_state(file: Path) -> State:
    """What `write_state` wrote, on the CPU: a GPU may have no room for a second copy.

    Raises:
        CheckpointError: the file is damaged.
        ResNeStError: it cannot be read just now.
    """
    try:
        values = torch.load(file, map_location="cpu", weights_only=True)
        position = values.pop("position")
        history = [Epoch(**row) for row in position.pop("history")]
        return State(**values, at=Position(**position, history=history))
    except Exception as error:  # damaged files raise anything at all in torch's readers
        short_of_memory = isinstance(error, RuntimeError) and is_out_of_memory(error)
        if short_of_memory or isinstance(error, (OSError, MemoryError)):
            raise ResNeStError(
                f"'{file}' cannot be read just now: {error}\n"
                "it may well be whole: try --resume once more"
            ) from error
        raise CheckpointError(
            f"'{file}' is damaged, or another version's\nstart anew with --overwrite"
        ) from error


def check_same(state: State, recipe: Recipe, seen: str, folder: Path) -> None:
    """Raise `CheckpointError` for the state of a run of another recipe or of other pictures."""
    if state.seen != seen:
        raise CheckpointError(
            f"'{folder}' was begun with other pictures, classes or resolution\n"
            "go on with the same, or start anew with --overwrite"
        )
    mine, theirs = recipe.as_dict(), state.recipe
    differing = [f"{k} {theirs.get(k)}, now {mine[k]}" for k in mine if theirs.get(k) != mine[k]]
    if differing:
        raise CheckpointError(
            f"'{folder}' was begun with {'; '.join(differing)}\n"
            "go on with the same options, or start anew with --overwrite"
        )
