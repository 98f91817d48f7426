"""Results as rows: JSON Lines, JSON, CSV, Parquet and a plain table, behind one `Writer`.

Every writer appends and flushes a row at a time, so that a kill loses at most the row in hand.
Those that can be resumed also read back what they wrote: `finished_rows`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import IO, Any, NamedTuple, Protocol

from resnest_cli.errors import OutputError
from resnest_cli.results import Prediction, Result


class Writer(Protocol):
    """Writes results one by one to a binary stream."""

    def write(self, result: Result) -> None:
        """Append one result and flush it."""

    def close(self) -> None:
        """Write what stands behind the last result; the stream stays open."""


class FinishedRow(NamedTuple):
    """A row that an earlier run wrote whole."""

    path: str
    failed: bool
    end: int  # bytes from the file's start to behind the row


class RowWriter(Writer, Protocol):
    """A writer whose output can be read back, to go on with it."""

    def __init__(self, stream: IO[bytes], *, top_k: int, resumed: bool = False) -> None:
        """Write to a stream; `resumed` if finished rows stand before its position."""

    @staticmethod
    def finished_rows(file: IO[bytes], top_k: int) -> Iterator[FinishedRow]:
        """The rows of an earlier run that are whole.

        Raises:
            OutputError: the file was not written by this writer with this `top_k`.
        """


class JSONLinesWriter:
    """One JSON object a line."""

    def __init__(self, stream: IO[bytes], *, top_k: int, resumed: bool = False) -> None:
        self._stream = stream

    def write(self, result: Result) -> None:
        """Append one line."""
        self._stream.write(encode(as_json(result)) + b"\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing stands behind the last line."""
        self._stream.flush()

    @staticmethod
    def finished_rows(file: IO[bytes], top_k: int) -> Iterator[FinishedRow]:
        """Lines that end, each a result."""
        end = 0
        for number, line in enumerate(file, 1):
            end += len(line)
            if line.endswith(b"\n"):
                yield _finished(line, number, end)


class JSONWriter:
    """A JSON list, one object a line, so that it can be gone on with."""

    def __init__(self, stream: IO[bytes], *, top_k: int, resumed: bool = False) -> None:
        self._stream = stream
        self._lead = b",\n" if resumed else b"[\n"

    def write(self, result: Result) -> None:
        """Append one object."""
        self._stream.write(self._lead + encode(as_json(result)))
        self._stream.flush()
        self._lead = b",\n"

    def close(self) -> None:
        """The list's end."""
        self._stream.write(b"[]\n" if self._lead == b"[\n" else b"\n]\n")
        self._stream.flush()

    @staticmethod
    def finished_rows(file: IO[bytes], top_k: int) -> Iterator[FinishedRow]:
        """Objects that are whole, each on its line."""
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
            yield _finished(row, number, offset + len(row))
            offset += len(line)


class CSVWriter:
    """One row a picture: path, four columns a rank, error."""

    def __init__(self, stream: IO[bytes], *, top_k: int, resumed: bool = False) -> None:
        self._stream = stream
        self._top_k = top_k
        if not resumed:
            self._row(csv_header(top_k))

    def write(self, result: Result) -> None:
        """Append one row."""
        cells: list[object] = [result.path]
        for p in result.predictions:
            cells += [p.index, p.wnid or "", p.label, p.probability]
        cells += [""] * (1 + 4 * self._top_k - len(cells))
        self._row([*cells, result.error or ""])

    def close(self) -> None:
        """Nothing stands behind the last row."""
        self._stream.flush()

    def _row(self, cells: list[Any]) -> None:
        # older Pythons leave a lone carriage return unquoted, and then cannot read it
        returns = any("\r" in str(cell) for cell in cells)
        text = io.StringIO()
        dialect = csv.unix_dialect if returns else csv.excel  # quotes all, or what needs it
        csv.writer(text, dialect, lineterminator="\n").writerow(cells)
        self._stream.write(text.getvalue().encode("utf-8", "backslashreplace"))
        self._stream.flush()

    @staticmethod
    def finished_rows(file: IO[bytes], top_k: int) -> Iterator[FinishedRow]:
        """Rows that are whole, behind the right header."""
        header = csv_header(top_k)
        offset = 0

        def lines() -> Iterator[str]:
            nonlocal offset
            for line in file:
                if not line.endswith(b"\n"):
                    return  # the row that a kill cut short
                offset += len(line)
                yield line.decode("utf-8", "replace")

        rows = csv.reader(lines())
        try:
            for number, cells in enumerate(rows):
                if number == 0 and cells != header:
                    raise OutputError("its header is not that of these settings")
                if len(cells) != len(header):
                    if next(rows, None):
                        raise OutputError(f"row {number} is not a result")
                    return  # cut short inside of a quoted cell
                if number:
                    yield FinishedRow(cells[0], bool(cells[-1]), offset)
        except csv.Error as error:
            raise OutputError(f"it is not the CSV of a run: {error}") from error


class TextWriter:
    """A plain table for pipes and files; at a terminal `terminal.TableWriter` does it."""

    def __init__(self, stream: IO[bytes], *, foot: str) -> None:
        self._stream = stream
        self._foot = foot

    def write(self, result: Result) -> None:
        """Append a block of lines."""
        lines = [printable(result.path)]
        lines += [f"  {p.rank:>3}  {p.probability:>8.2%}  {title(p)}" for p in result.predictions]
        if result.error:
            lines.append(f"  error: {printable(result.error)}")
        elif not result.predictions:
            lines.append("  nothing reached the threshold")
        self._stream.write(("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))
        self._stream.flush()

    def close(self) -> None:
        """Model, preprocessing, engine, device and precision, once."""
        self._stream.write(f"\n{self._foot}\n".encode())
        self._stream.flush()


ROW_WRITERS: dict[str, type[RowWriter]] = {
    "jsonl": JSONLinesWriter,
    "json": JSONWriter,
    "csv": CSVWriter,
    "parquet": JSONLinesWriter,  # the journal that the Parquet file is made of at the end
}
FORMATS = ("table", "json", "jsonl", "csv", "parquet")
_SUFFIXES: dict[str, str] = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}


def format_of(suffix: str) -> str:
    """The format that an output's suffix stands for; `table` for any other."""
    return _SUFFIXES.get(suffix.lower(), "table")


def as_json(result: Result) -> dict[str, Any]:
    """A result's keys and plain values."""
    return {
        "path": result.path,
        "predictions": [asdict(p) for p in result.predictions],
        "error": result.error,
    }


def encode(value: object) -> bytes:
    """One line of JSON in UTF-8; a name that is no valid text is escaped."""
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def csv_header(top_k: int) -> list[str]:
    """The columns of CSV and Parquet for a number of ranks."""
    columns = ("index", "wnid", "label", "probability")
    ranks = [f"{column}_{rank}" for rank in range(1, top_k + 1) for column in columns]
    return ["path", *ranks, "error"]


def title(prediction: Prediction) -> str:
    """A class's name for people, with its WordNet id where it has one."""
    name = printable(prediction.label)
    return f"{name} ({prediction.wnid})" if prediction.wnid else name


def utf8(text: str) -> str:
    """Text as UTF-8 can hold it: bytes of file names that are no valid text as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    """Text that is safe at a terminal: control characters and lone surrogates as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _finished(line: bytes, number: int, end: int) -> FinishedRow:
    try:
        row = json.loads(line)
        return FinishedRow(str(row["path"]), row["error"] is not None, end)
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"line {number} is not a result") from error
