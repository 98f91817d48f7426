"""Where rows go: a stream, or a file that a later run can resume.

Beside an output FILE stands FILE.run.json: which model, preprocessing and settings gave it. On
resuming, finished rows stay, a row that a kill cut short is removed, and inputs that have their row
already are skipped.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Generic, Protocol

from resnest_cli.errors import OutputError, UsageError, require_extra
from resnest_cli.files import PLAIN, CSVStyle, atomic_write, check_new, lock, os_errors
from resnest_cli.inputs.source import Source
from resnest_cli.outputs.formats import ROW_WRITERS, encode, read_parquet, write_parquet
from resnest_cli.outputs.run_info import RunInfo, record_path
from resnest_cli.outputs.schema import Item, PredictionSchema, Schema
from resnest_cli.outputs.terminal import TerminalWriter, TextWriter
from resnest_cli.results import Result
from resnest_cli.text import utf8


def check_target(
    path: Path | None, *, fmt: str, resume: bool, overwrite: bool, resumable: bool = True
) -> None:
    """Refuse an output that cannot be used; `resumable`: `resume` is offered for one that exists.

    Raises:
        UsageError: a format or an option does not suit it.
        OutputError: it exists and is neither to be resumed nor replaced, or it cannot be written.
    """
    if fmt == "parquet":
        require_extra("parquet", "pyarrow")
    if path is None:
        if fmt == "parquet" and sys.stdout.isatty():
            raise UsageError("Parquet is not for a terminal; name a file with `output`")
    elif _is_special(path):
        if resume or fmt == "parquet":
            raise OutputError(f"'{path}' is not a file: it takes neither `resume` nor Parquet")
    elif resume and fmt == "table":
        raise OutputError("a table cannot be resumed; use jsonl, json, csv, tsv or parquet")
    else:
        check_new(path, overwrite=True)
        for file in [] if resume or overwrite else started(path):
            check_new(file, resumable=resumable)
        if fmt != "table":
            _check_beside(path, overwrite=overwrite)
        if path.exists() and not os.access(path, os.W_OK):
            raise OutputError(f"'{path}' cannot be written")


def _check_beside(path: Path, *, overwrite: bool) -> None:
    """Raise `OutputError` if what lies where a record or a journal will be is not one."""
    for file in files_of(path)[1:]:
        if os.path.lexists(file) and not file.is_file():
            raise OutputError(f"'{file}' is not a file, and is not replaced by one")
    record = record_path(path)
    if not (overwrite or started(path)) and record.is_file() and not RunInfo.is_at(record):
        raise OutputError(
            f"'{record}' exists already, and is not a record that resnest wrote\n"
            "replace it with `overwrite`, or choose another path"
        )


def started(path: Path) -> list[Path]:
    """The files of an output that hold rows already."""
    return [file for file in (path, journal_path(path)) if _has_content(file)]


def files_of(path: Path) -> list[Path]:
    """The files that an output consists of, at most."""
    return [path, record_path(path), journal_path(path)]


class Writer(Protocol[Item]):
    """Writes items one by one."""

    def write(self, item: Item, /) -> None:
        """Append one item and flush it."""

    def close(self) -> None:
        """Write what ends the output; a stream stays open."""


class Output(Generic[Item]):
    """Items to a stream, which cannot be resumed; `name` is what a message calls it."""

    resumable = False  # whether another run can continue what this one leaves
    finished = 0  # rows of earlier runs
    failed = 0  # how many of them are errors

    def __init__(self, writer: Writer[Item], name: str = "the results") -> None:
        self._writer, self._name = writer, name

    def remaining(self, sources: Iterable[Source]) -> Iterator[Source]:
        """The sources that have no row yet."""
        return iter(sources)

    def write(self, item: Item) -> None:
        """Append one item; `OutputError` if it was not taken, `BrokenPipe` if by a closed pipe."""
        with os_errors(self._name):
            self._writer.write(item)

    def finish(self) -> None:
        """Write what ends the output."""
        with os_errors(self._name):
            self._writer.close()


class FileOutput(Output[Item]):
    """Items appended to a file, row by row.

    Args:
        path: the file.
        fmt: one of `ROW_WRITERS`.
        schema: what a row holds.
        info: what gave the rows; kept beside the file and compared by a resume.
        resume: continue what the file holds.
        csv: how CSV and TSV are written.
        rows: the file of rows, if they are kept beside what the record is of.

    Raises:
        OutputError: the file cannot be written, or is no earlier part of this run.
    """

    resumable = True

    def __init__(
        self, path: Path, *, fmt: str, schema: Schema[Item], info: RunInfo, resume: bool,
        csv: CSVStyle = PLAIN, rows: Path | None = None,
    ) -> None:  # fmt: skip
        self._path, self._fmt, self._schema, self._csv = path, fmt, schema, csv
        self._rows_path = journal_path(path) if fmt == "parquet" else rows or path
        self._done: Counter[str] = Counter()  # rows that each path has already
        with os_errors(f"'{path}'"):
            self._file = self._resumed(info) if resume else self._fresh(info)
            writer = ROW_WRITERS[fmt](self._file, schema, csv, resumed=self._file.tell() > 0)
        super().__init__(writer, f"'{path}'")

    def remaining(self, sources: Iterable[Source]) -> Iterator[Source]:
        """The sources that have no row yet."""
        done = self._done.copy()
        for source in sources:
            if done[utf8(source.name)] > 0:
                done[utf8(source.name)] -= 1
            else:
                yield source

    def finish(self) -> None:
        """Write what ends the file, and make the Parquet file."""
        super().finish()
        with os_errors(self._name):
            os.fsync(self._file.fileno())
            self._file.close()
            if self._fmt == "parquet":
                with atomic_write(self._path) as beside, self._rows_path.open("rb") as journal:
                    write_parquet(journal, beside, self._schema)
                self._rows_path.unlink()
            self._info.ended().write(self._path)

    def close(self) -> None:
        """Let go of the file; what was written stays."""
        with suppress(OSError):  # what a full disk did not take has been reported
            self._file.close()

    def _fresh(self, info: RunInfo) -> IO[bytes]:
        file = self._locked()
        file.truncate(0)  # before the record says other settings
        file.seek(0)
        self._info = replace(info, finished="")
        self._info.write(self._path)
        return file

    def _resumed(self, info: RunInfo) -> IO[bytes]:
        from_parquet = self._fmt == "parquet" and not self._rows_path.exists()
        if not _has_content(self._path if from_parquet else self._rows_path):
            return self._fresh(info)
        self._info = replace(RunInfo.read(self._path), finished="")
        info.check_resumes(self._info)
        if from_parquet:
            with (
                _resuming(self._path),
                atomic_write(self._rows_path) as beside,
                beside.open("wb") as journal,
            ):
                journal.writelines(encode(row) + b"\n" for row in read_parquet(self._path))
        file = self._locked()
        try:
            with _resuming(self._path):
                end = self._read_rows(file)
            file.truncate(end)
            file.seek(end)
            self._info.write(self._path)
        except BaseException:
            file.close()
            raise
        return file

    def _locked(self) -> IO[bytes]:
        """The file of rows, opened to append to, and this process's alone."""
        file = self._rows_path.open("a+b")
        lock(file, self._path)
        file.seek(0)
        return file

    def _read_rows(self, file: IO[bytes]) -> int:
        """Note the finished rows; where they end, in bytes."""
        end = 0
        rows = ROW_WRITERS[self._fmt].finished_rows(file, self._schema, self._csv)
        for record, row_end in rows:
            end = row_end
            self._done[utf8(record["path"])] += 1
            self.finished += 1
            self.failed += record["error"] is not None
        return end


@contextmanager
def open_output(
    path: Path | None, *, fmt: str, top_k: int, info: RunInfo, foot: str, resume: bool,
    csv: CSVStyle = PLAIN,
) -> Iterator[Output[Result]]:  # fmt: skip
    """Where predictions go: a file, or standard output if `path` is None.

    A row has `top_k` ranks; `info` is what gives the rows, and `foot` the same as a line of text.
    """
    schema = PredictionSchema(top_k)
    if path is not None and fmt != "table" and not _is_special(path):
        file = FileOutput(path, fmt=fmt, schema=schema, info=info, resume=resume, csv=csv)
        with closing(file) as output:
            yield output
    elif path is None and fmt == "parquet":
        with _parquet_to_stdout(schema, info) as output:
            yield output
    elif path is None and fmt == "table" and sys.stdout.isatty():
        yield Output(TerminalWriter(foot=foot))
    else:
        name = f"'{path}'" if path else "the results"
        with _opened(path) as stream:
            with os_errors(name):  # a writer may begin with a header
                table = fmt == "table"
                writer = None if table else ROW_WRITERS[fmt](stream, schema, csv)
            yield Output(writer or TextWriter(stream, foot=foot), name)


@contextmanager
def _opened(path: Path | None) -> Iterator[IO[bytes]]:
    """A file, or standard output, as a binary stream."""
    if path is None:
        yield sys.stdout.buffer
        return
    with os_errors(f"'{path}'"):
        file = path.open("wb")
    try:
        yield file
    finally:
        with suppress(OSError):  # what it did not take has been reported by `finish`
            file.close()


@contextmanager
def _parquet_to_stdout(schema: Schema[Result], info: RunInfo) -> Iterator[Output[Result]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "results.parquet")
        file = FileOutput(path, fmt="parquet", schema=schema, info=info, resume=False)
        with closing(file) as output:
            yield output
        with path.open("rb") as content, os_errors("the results"):
            shutil.copyfileobj(content, sys.stdout.buffer)
            sys.stdout.buffer.flush()


@contextmanager
def _resuming(path: Path) -> Iterator[None]:
    """Name the output that cannot be resumed."""
    try:
        yield
    except OutputError as error:
        raise OutputError(f"'{path}' cannot be resumed: {error}") from error


def _is_special(path: Path) -> bool:
    """Whether an output is a device or a pipe, which cannot be resumed."""
    return path.exists() and not path.is_file() and not path.is_dir()


def journal_path(path: Path) -> Path:
    """Where an output that is made at the end of a run is collected: FILE.journal."""
    return path.with_name(path.name + ".journal")


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
