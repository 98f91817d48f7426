"""Parquet, made of a journal of JSON Lines and read back into one.

A Parquet file has its index at its end and cannot be appended to. So a run keeps its rows in a
journal, of which the Parquet file is made at the end, and `--resume` goes on with the journal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from resnest_cli.errors import OutputError
from resnest_cli.writers import csv_header, encode, utf8

if TYPE_CHECKING:
    import pyarrow as pa

_CELLS_PER_GROUP = 500_000  # what is held in memory at once


def require_pyarrow() -> None:
    """Raise `OutputError` where the extra is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise OutputError("Parquet needs pyarrow: pip install 'resnest-cli[parquet]'") from error


def write_parquet(journal: Path, target: Path, top_k: int) -> None:
    """Make a Parquet file of a journal's rows, a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(top_k)
    rows_per_group = max(_CELLS_PER_GROUP // len(schema), 1)
    with journal.open(encoding="utf-8") as lines, pq.ParquetWriter(target, schema) as writer:
        while rows := [_flat(json.loads(line)) for line in islice(lines, rows_per_group)]:
            writer.write_table(pa.Table.from_pylist(rows, schema))


def read_parquet(source: Path, journal: IO[bytes]) -> None:
    """Write a Parquet file's rows back as a journal.

    Raises:
        OutputError: the file is not one that `write_parquet` made.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source) as file:
            for batch in file.iter_batches(1000):
                journal.writelines(encode(_nested(row)) + b"\n" for row in batch.to_pylist())
    except (pa.ArrowException, KeyError) as error:
        raise OutputError("it is not a Parquet file of results") from error


def _schema(top_k: int) -> pa.Schema:
    import pyarrow as pa

    types = {"index": pa.int32(), "probability": pa.float32()}
    return pa.schema(
        [(name, types.get(name.rpartition("_")[0], pa.string())) for name in csv_header(top_k)]
    )


def _flat(result: dict[str, Any]) -> dict[str, Any]:
    row = {"path": _text(result["path"]), "error": _text(result["error"])}
    for p in result["predictions"]:
        for column in ("index", "wnid", "label", "probability"):
            row[f"{column}_{p['rank']}"] = _text(p[column])
    return row


def _nested(row: dict[str, Any]) -> dict[str, Any]:
    predictions = [
        {
            "rank": rank,
            "index": row[f"index_{rank}"],
            "wnid": row[f"wnid_{rank}"],
            "label": row[f"label_{rank}"],
            "probability": _float32(row[f"probability_{rank}"]),
        }
        for rank in _ranks(row)
    ]
    return {"path": row["path"], "predictions": predictions, "error": row["error"]}


def _ranks(row: dict[str, Any]) -> Iterator[int]:
    rank = 1
    while row.get(f"index_{rank}") is not None:
        yield rank
        rank += 1


def _float32(value: float) -> float:
    import numpy as np

    return float(str(np.float32(value)))


def _text(value: Any) -> Any:
    return utf8(value) if isinstance(value, str) else value
