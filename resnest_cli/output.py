"""Where results go: a stream, or a file that a later run can go on with.

Beside an output FILE stands FILE.run.json: which model, preprocessing and settings gave it. With
`--resume`, rows that are finished stay, a row that a kill cut short is removed, and inputs that
have their row already are passed over.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

from resnest_cli.errors import OutputError, ReaderGone
from resnest_cli.files import claim
from resnest_cli.parquet import read_parquet, require_pyarrow, write_parquet
from resnest_cli.results import Result
from resnest_cli.sources import Source
from resnest_cli.terminal import TerminalWriter
from resnest_cli.writers import ROW_WRITERS, TextWriter, Writer, utf8


def check_target(path: Path | None, *, fmt: str, resume: bool, overwrite: bool) -> None:
    """Say early, before a network is loaded, that an output cannot be used.

    Raises:
        OutputError: it exists and nobody said what to do with it, or it cannot be written.
    """
    if fmt == "parquet":
        require_pyarrow()
    if path is None:
        return
    if _is_special(path) and not path.is_dir():
        if resume or fmt == "parquet":
            raise OutputError(f"'{path}' is no file: it takes neither --resume nor Parquet")
        return
    if resume and fmt == "table":
        raise OutputError("a table cannot be resumed; use jsonl, json, csv or parquet")
    if path.is_dir():
        raise OutputError(f"'{path}' is a folder; name a file")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder '{path.parent}'")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OutputError(f"'{path}' cannot be written")
    if not resume and not overwrite and any(map(_has_content, (path, _journal(path)))):
        raise OutputError(
            f"'{path}' exists already; add --resume to go on with it or --overwrite to replace it"
        )


class Output(Protocol):
    """What a run writes to."""

    resumable: bool  # whether another run can go on with what this one leaves
    finished: int  # rows of earlier runs
    failed: int  # how many of them are errors

    def remaining(self, sources: Iterable[Source]) -> Iterator[Source]:
        """The sources that have no row yet."""

    def write(self, result: Result) -> None:
        """Append one result; `OutputError` if the disk did not take it."""

    def finish(self) -> None:
        """Write what stands behind the last result."""


class StreamOutput:
    """Results to a stream that nobody can resume."""

    resumable = False
    finished = failed = 0

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def write(self, result: Result) -> None:
        """Append one result.

        Raises:
            OutputError: the stream did not take it; `ReaderGone` if its other end is closed.
        """
        with _reported("the results"):
            self._writer.write(result)

    def finish(self) -> None:
        """Write what stands behind the last result."""
        with _reported("the results"):
            self._writer.close()

    def remaining(self, sources: Iterable[Source]) -> Iterator[Source]:
        """All of them."""
        return iter(sources)


class FileOutput:
    """Results appended to a file, row by row.

    Args:
        path: the file; for Parquet, what is made at the end.
        fmt: `jsonl`, `json`, `csv` or `parquet`.
        top_k: ranks per row.
        settings: what decides the rows; kept beside the file and compared by a resume.
        resume: go on with what is there.

    Raises:
        OutputError: the file cannot be written, or is no earlier part of this run.
    """

    def __init__(
        self, path: Path, *, fmt: str, top_k: int, settings: Mapping[str, Any], resume: bool
    ) -> None:
        self._path, self._fmt, self._top_k = path, fmt, top_k
        self._rows_path = _journal(path) if fmt == "parquet" else path  # where rows go
        self._writer_class = ROW_WRITERS[fmt]
        self._done: Counter[str] = Counter()  # rows that each path has already
        self.resumable = True
        self.finished = self.failed = 0
        with _reported(f"'{path}'"):
            self._file = self._resumed(settings) if resume else self._fresh(settings)
            resumed = self._file.tell() > 0
            self._writer = self._writer_class(self._file, top_k=top_k, resumed=resumed)

    def write(self, result: Result) -> None:
        """Append one result.

        Raises:
            OutputError: the disk did not take it.
        """
        with _reported(f"'{self._path}'"):
            self._writer.write(result)

    def remaining(self, sources: Iterable[Source]) -> Iterator[Source]:
        """The sources that have no row yet."""
        done = self._done.copy()
        for source in sources:
            if done[utf8(source.name)] > 0:
                done[utf8(source.name)] -= 1
            else:
                yield source

    def finish(self) -> None:
        """Write what stands behind the last row, and make the Parquet file."""
        with _reported(f"'{self._path}'"):
            self._writer.close()
            os.fsync(self._file.fileno())
            self._file.close()
            if self._fmt == "parquet":
                beside = self._path.with_name(self._path.name + ".part")
                write_parquet(self._rows_path, beside, self._top_k)
                beside.replace(self._path)
                self._rows_path.unlink()

    def close(self) -> None:
        """Let go of the file; what was written stays."""
        with suppress(OSError):  # what a full disk did not take has been reported
            self._file.close()

    def _fresh(self, settings: Mapping[str, Any]) -> IO[bytes]:
        file = self._claimed()
        file.truncate(0)  # before the record says other settings
        file.seek(0)
        record = _record(self._path)
        beside = record.with_name(record.name + ".part")
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(record)
        return file

    def _resumed(self, settings: Mapping[str, Any]) -> IO[bytes]:
        from_parquet = self._rows_path != self._path and not self._rows_path.exists()
        if not _has_content(self._path if from_parquet else self._rows_path):
            return self._fresh(settings)
        _compare(_record(self._path), settings)
        if from_parquet:
            with _resumable(self._path):
                self._journal_from_parquet()
        file = self._claimed()
        try:
            with _resumable(self._path):
                end = self._read_rows(file)
            file.truncate(end)
            file.seek(end)
        except BaseException:
            file.close()
            raise
        return file

    def _claimed(self) -> IO[bytes]:
        """The file of rows, opened to append to, and this process's alone."""
        file = self._rows_path.open("a+b")
        claim(file, self._path)
        file.seek(0)
        return file

    def _read_rows(self, file: IO[bytes]) -> int:
        end = 0
        for row in self._writer_class.finished_rows(file, self._top_k):
            self._done[utf8(row.path)] += 1
            self.finished += 1
            self.failed += row.failed
            end = row.end
        return end

    def _journal_from_parquet(self) -> None:
        beside = self._rows_path.with_name(self._rows_path.name + ".part")
        with beside.open("wb") as journal:
            read_parquet(self._path, journal)
        beside.replace(self._rows_path)


@contextmanager
def _resumable(path: Path) -> Iterator[None]:
    """Say of which output it is that something is wrong."""
    try:
        yield
    except OutputError as error:
        raise OutputError(f"'{path}' cannot be resumed: {error}") from error


def _compare(record: Path, settings: Mapping[str, Any]) -> None:
    """Raise `OutputError` unless an output was written with these settings."""
    try:
        earlier = dict(json.loads(record.read_text(encoding="utf-8"))["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"'{record}' is missing or damaged, so nothing tells whether the output is of "
            "these settings; --overwrite starts anew"
        ) from error
    changed = [
        f"{key} was {earlier.get(key)!r}, now {value!r}"
        for key, value in settings["settings"].items()
        if earlier.get(key) != value
    ]
    if changed:
        raise OutputError(
            f"the output belongs to other settings: {'; '.join(changed)}"
            "\nresume with the same settings, or start anew with --overwrite"
        )


@contextmanager
def open_output(
    path: Path | None, *, fmt: str, top_k: int, settings: Mapping[str, Any], foot: str, resume: bool
) -> Iterator[Output]:
    """Where results of a format go: a file, or standard output where `path` is None."""
    if fmt == "table":
        if path is None and sys.stdout.isatty():
            yield StreamOutput(TerminalWriter(foot=foot))
        elif path is None:
            yield StreamOutput(TextWriter(sys.stdout.buffer, foot=foot))
        else:
            with _opened(path) as file:
                yield StreamOutput(TextWriter(file, foot=foot))
    elif path is None and fmt == "parquet":
        with _parquet_to_stdout(top_k, settings) as output:
            yield output
    elif path is None:
        yield StreamOutput(ROW_WRITERS[fmt](sys.stdout.buffer, top_k=top_k))
    elif _is_special(path):
        with _opened(path) as file:
            yield StreamOutput(ROW_WRITERS[fmt](file, top_k=top_k))
    else:
        with closing(
            FileOutput(path, fmt=fmt, top_k=top_k, settings=settings, resume=resume)
        ) as output:
            yield output


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with _reported(f"'{path}'"):
        file = path.open("wb")
    try:
        yield file
    finally:
        with suppress(OSError):  # what it did not take has been reported by `finish`
            file.close()


@contextmanager
def _reported(what: str) -> Iterator[None]:
    """Turn the system's refusal to write into `OutputError`."""
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGone from error
    except OSError as error:
        raise OutputError(f"{what} cannot be written: {error.strerror or error}") from error


def _is_special(path: Path) -> bool:
    """Whether an output is a device or a pipe, which nobody can resume."""
    return path.exists() and not path.is_file()


@contextmanager
def _parquet_to_stdout(top_k: int, settings: Mapping[str, Any]) -> Iterator[Output]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "results.parquet")
        with closing(
            FileOutput(path, fmt="parquet", top_k=top_k, settings=settings, resume=False)
        ) as output:
            yield output
        with path.open("rb") as file, _reported("the results"):
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def _journal(path: Path) -> Path:
    return path.with_name(path.name + ".journal")


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".run.json")


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
