"""The weights in a `.pt2` file that `resnest export` wrote.

Such a file holds a program. It is not read, let alone run: the network is built from the card and
the weights, as from any other checkpoint.
"""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnest_cli.card import METADATA_KEY, ModelCard
from resnest_cli.errors import CheckpointError
from resnest_cli.model.stored import check_archive

CARD_FILE = f"{METADATA_KEY}.json"  # among the file's extras
_WEIGHTS = "data/weights/"
_DTYPES = {5: torch.int64, 7: torch.float32}  # by their numbers in the file


def read_archive(path: Path) -> tuple[dict[str, Tensor], ModelCard]:
    """The tensors and the card.

    Raises:
        CheckpointError: the file is damaged or was written by something else.
    """
    check_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            root = archive.namelist()[0].partition("/")[0]
            if f"{root}/extra/{CARD_FILE}" not in archive.namelist():
                raise CheckpointError(
                    f"'{path}' was not written by 'resnest export'; the program in it is not run\n"
                    "give its state_dict(), or an export of it"
                )
            card = ModelCard.from_json(_text(archive, f"{root}/extra/{CARD_FILE}"))
            table = json.loads(_text(archive, f"{root}/{_WEIGHTS}model_weights_config.json"))
            _check_sizes(table["config"], path)
            tensors = {
                name: _tensor(archive, f"{root}/{_WEIGHTS}{entry['path_name']}", entry)
                for name, entry in table["config"].items()
            }
    except (CheckpointError, OSError):
        raise
    except Exception as error:  # damaged files raise anything at all
        line = " ".join(str(error).split())[:200]
        raise CheckpointError(f"'{path}' is damaged or no export of resnest: {line}") from error
    return tensors, card


def _check_sizes(table: dict[str, Any], path: Path) -> None:
    """Raise `ValueError` if the tensors together are more than the file, before any is read."""
    total = 0
    for entry in table.values():
        described = entry["tensor_meta"]
        shape = [size["as_int"] for size in described["sizes"]]
        if min(shape, default=0) < 0:
            raise ValueError("a shape is negative")
        total += math.prod(shape) * _DTYPES[described["dtype"]].itemsize
    if total > path.stat().st_size:
        raise ValueError("its tensors are more than the file holds")


def _text(archive: zipfile.ZipFile, name: str) -> str:
    return _content(archive, name).decode()


def _content(archive: zipfile.ZipFile, name: str) -> bytearray:
    return bytearray(archive.read(name))


def _tensor(archive: zipfile.ZipFile, name: str, entry: dict[str, Any]) -> Tensor:
    described = entry["tensor_meta"]
    shape = [size["as_int"] for size in described["sizes"]]
    dtype = _DTYPES.get(described["dtype"])
    content = _content(archive, name)
    if entry["use_pickle"] or dtype is None:
        raise ValueError(f"{name} is not stored plainly")
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} is not as large as its shape")
    return torch.frombuffer(content, dtype=dtype).reshape(shape)
