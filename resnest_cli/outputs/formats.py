"""Rows as JSON Lines, JSON, CSV and TSV: written so that a kill costs one row, and read back.

Parquet cannot be appended to: it is made of a journal in JSON Lines at the end of a run.
"""

from __future__ import annotations

import codecs
import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any, Generic

from resnest_cli.errors import OutputError, UsageError
from resnest_cli.files import PLAIN, CSVStyle, csv_line
from resnest_cli.outputs.run_info import RunInfo
from resnest_cli.outputs.schema import INTEGER, NUMBER, Item, PredictionSchema, Record, Schema
from resnest_cli.results import Result
from resnest_cli.text import utf8

_SUFFIXES = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "table",
}

_CELLS_PER_GROUP = 500_000  # of Parquet: what is held in memory at once


def format_of(output: Path, *, read: bool = False) -> str:
    """The format that a suffix stands for, of an output or a file to `read`; else `UsageError`."""
    suffix = output.suffix.lower()
    if suffix not in _SUFFIXES:
        if read:
            known = ", ".join(suffix for suffix, fmt in _SUFFIXES.items() if fmt != "table")
            raise UsageError(f"results are in files that end in {known}, not '{output}'")
        known = ", ".join(_SUFFIXES)
        raise UsageError(
            f"`output` must end in one of {known}, not '{output}'; or choose the `format`"
        )
    return _SUFFIXES[suffix]


FinishedRows = Iterator[tuple[Record, int]]  # each with its end, in bytes from the file's start


class RowWriter(ABC, Generic[Item]):
    """Writes items as rows to a binary stream, which stays open, and reads rows back."""

    def __init__(
        self,
        stream: IO[bytes],
        schema: Schema[Item],
        style: CSVStyle = PLAIN,
        *,
        resumed: bool = False,
    ) -> None:
        """`style` is for CSV and TSV; `resumed`: rows stand before the stream's position."""
        self._stream, self._schema, self._style = stream, schema, style
        self._begin(resumed=resumed)

    def write(self, item: Item) -> None:
        """Append one row and flush it."""
        self._put(self._encoded(self._schema.record(item)))

    def close(self) -> None:
        """Write what ends the file."""

    @classmethod
    @abstractmethod
    def finished_rows(cls, file: IO[bytes], schema: Schema[Item], style: CSVStyle) -> FinishedRows:
        """The rows that are whole; one that a kill cut short ends them.

        Raises:
            OutputError: the file was not written by this writer with this schema.
        """

    def _begin(self, *, resumed: bool) -> None:
        """Write what begins the file."""

    @abstractmethod
    def _encoded(self, record: Record) -> bytes: ...

    def _put(self, data: bytes) -> None:
        self._stream.write(data)
        self._stream.flush()


class JSONLinesWriter(RowWriter[Item]):
    """One JSON object a line."""

    @classmethod
    def finished_rows(cls, file: IO[bytes], schema: Schema[Item], style: CSVStyle) -> FinishedRows:
        """Complete lines, each a row."""
        end = 0
        for number, line in enumerate(file, 1):
            end += len(line)
            if line.endswith(b"\n"):
                yield _record(line, number), end

    def _encoded(self, record: Record) -> bytes:
        return encode(record) + b"\n"


class JSONWriter(RowWriter[Item]):
    """A JSON list, one object a line, so that it can be resumed."""

    def _begin(self, *, resumed: bool) -> None:
        self._lead = b",\n" if resumed else b"[\n"

    def close(self) -> None:
        """End the list."""
        self._put(b"[]\n" if self._lead == b"[\n" else b"\n]\n")

    @classmethod
    def finished_rows(cls, file: IO[bytes], schema: Schema[Item], style: CSVStyle) -> FinishedRows:
        """Complete objects, each on its line."""
        start = file.readline()
        if start not in (b"[\n", b"[]\n", b"["):
            raise OutputError("it does not begin as a list of results")
        offset = len(start)
        for number, line in enumerate(file, 2):
            row = line.removesuffix(b"\n").removesuffix(b",")
            if row == b"]":
                break
            if not _is_json(row):
                if file.read(1):
                    raise OutputError(f"line {number} is not a result")
                break  # the row that a kill cut short
            yield _record(row, number), offset + len(row)
            offset += len(line)

    def _encoded(self, record: Record) -> bytes:
        lead, self._lead = self._lead, b",\n"
        return lead + encode(record)


class CSVWriter(RowWriter[Item]):
    """One row an image, under a header."""

    delimiter = ","

    def _begin(self, *, resumed: bool) -> None:
        if not resumed:
            header = self._line([column.name for column in self._schema.columns])
            self._put(codecs.BOM_UTF8 * self._style.bom + header)

    @classmethod
    def finished_rows(cls, file: IO[bytes], schema: Schema[Item], style: CSVStyle) -> FinishedRows:
        """Complete rows, after the right header."""
        header = [column.name for column in schema.columns]
        offset = 0

        def lines() -> Iterator[str]:
            nonlocal offset
            for line in file:
                if not line.endswith(b"\n"):
                    return  # the row that a kill cut short
                text = line if offset else line.removeprefix(codecs.BOM_UTF8)
                offset += len(line)
                yield text.decode("utf-8", "replace")

        rows = csv.reader(lines(), delimiter=cls.delimiter)
        try:
            for number, cells in enumerate(rows):
                if number == 0 and cells != header:
                    raise OutputError("its header is not that of these settings")
                if len(cells) != len(header):
                    if next(rows, None):
                        raise OutputError(f"row {number} is not a result")
                    return  # cut short inside a quoted cell
                if number:
                    yield _from_text([style.read(cell) for cell in cells], schema), offset
        except (csv.Error, ValueError) as error:
            raise OutputError(f"it is not the CSV of a run: {error}") from error

    def _encoded(self, record: Record) -> bytes:
        cells = ("" if cell is None else cell for cell in self._schema.flat(record))
        return self._line([self._style.written(cell) for cell in cells])

    def _line(self, cells: list[Any]) -> bytes:
        return csv_line(cells, self.delimiter).encode("utf-8", "backslashreplace")


class TSVWriter(CSVWriter[Item]):
    """As CSV, with tabs."""

    delimiter = "\t"


ROW_WRITERS: dict[str, type[RowWriter[Any]]] = {
    "jsonl": JSONLinesWriter,
    "json": JSONWriter,
    "csv": CSVWriter,
    "tsv": TSVWriter,
    "parquet": JSONLinesWriter,  # the journal
}


def write_parquet(
    lines: Iterable[bytes],
    target: Path,
    schema: Schema[Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Make a Parquet file of rows in JSON Lines, a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {INTEGER: pa.int32(), NUMBER: pa.float32()}
    columns = [(c.name, types.get(c.kind, pa.string())) for c in schema.columns]
    table = pa.schema(columns, metadata=metadata)
    rows_per_group, left = max(_CELLS_PER_GROUP // len(table), 1), iter(lines)
    with pq.ParquetWriter(target, table) as writer:
        while rows := [_cells(json.loads(line), schema) for line in islice(left, rows_per_group)]:
            writer.write_table(pa.Table.from_pylist(rows, table))


def read_parquet(source: Path | IO[bytes]) -> Iterator[Record]:
    """The rows of a Parquet file of predictions; `OutputError` if it holds none."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source) as file:
            schema = PredictionSchema.of_columns(file.schema_arrow.names)
            numbers = [column.name for column in schema.columns if column.kind == NUMBER]
            for batch in file.iter_batches(1000):
                for row in batch.to_pylist():
                    for name in numbers:  # the shortest decimal that is this float32
                        row[name] = None if row[name] is None else float(str(np.float32(row[name])))
                    yield schema.nested(row)
    except pa.ArrowException as error:
        raise OutputError(f"it is not a Parquet file of results: {error}") from error


def read_results(path: Path, fmt: str | None = None) -> Iterator[Result]:
    """The results in a file that a prediction job wrote, finished or not.

    Args:
        path: .jsonl, .json, .csv, .tsv or .parquet.
        fmt: its format, where the suffix does not say.

    Raises:
        OutputError: it cannot be read, or does not hold predictions.
        UsageError: the suffix is unknown.
    """
    fmt = fmt or format_of(path, read=True)
    if fmt == "table":
        raise OutputError(f"'{path}' is a table for people; write jsonl, json, csv, tsv or parquet")
    try:
        yield from map(PredictionSchema.result, _records(path, fmt))
    except OSError as error:
        raise OutputError(f"cannot read results from '{path}': {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise OutputError(
            f"cannot read results from '{path}': its rows are not those of predictions"
        ) from error


def encode(value: object) -> bytes:
    """One line of JSON in UTF-8; a name that is not valid text is escaped."""
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def _cells(record: Record, schema: Schema[Any]) -> dict[str, Any]:
    cells = zip(schema.columns, schema.flat(record), strict=True)
    return {c.name: utf8(cell) if isinstance(cell, str) else cell for c, cell in cells}


def _from_text(cells: list[str], schema: Schema[Any]) -> Record:
    kinds = {INTEGER: int, NUMBER: float}
    return schema.nested({
        column.name: None if column.optional and not cell else kinds.get(column.kind, str)(cell)
        for column, cell in zip(schema.columns, cells, strict=True)
    })  # fmt: skip


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _record(line: bytes, number: int) -> Record:
    try:
        record: Record = json.loads(line)
        return record | {"path": str(record["path"]), "error": record["error"]}
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"line {number} is not a result") from error


def _records(path: Path, fmt: str) -> Iterator[Record]:
    if fmt == "parquet":
        yield from read_parquet(path)
        return
    schema, style = PredictionSchema(0), PLAIN
    if fmt in ("csv", "tsv"):
        with suppress(OutputError):  # it has no record
            style = CSVStyle(safe=bool(RunInfo.read(path).settings.get("csv_safe")))
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as text:
            header = next(csv.reader(text, delimiter="\t" if fmt == "tsv" else ","), [])
        schema = PredictionSchema.of_columns(header)
    with path.open("rb") as file:
        yield from (record for record, _ in ROW_WRITERS[fmt].finished_rows(file, schema, style))
