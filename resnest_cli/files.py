"""Files that are either whole or missing, locks, and checks of what is to be written."""

from __future__ import annotations

import csv
import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from resnest_cli.errors import OutputError

_FORMULA = re.compile("'*[=+@\t\r-]")  # how a cell begins that a spreadsheet may execute


def check_new(path: Path, *, overwrite: bool = False, resumable: bool = False) -> None:
    """Raise `OutputError` unless a file may be written; `resumable`: `resume` is offered."""
    if path.is_dir():
        raise OutputError(f"'{path}' is a folder; name a file in it")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"the folder '{path.parent}' does not exist; create it first")
    if not os.access(path.absolute().parent, os.W_OK):
        raise OutputError(f"the folder '{path.parent}' cannot be written to")
    if os.path.lexists(path) and not overwrite:
        resume = "continue it with `resume`, " if resumable else ""
        raise OutputError(
            f"'{path}' exists already\n{resume}replace it with `overwrite`, or choose another path"
        )


def writable_folder(folder: Path) -> None:
    """Make a folder if it is missing; raise `OutputError` if no file can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"'{folder}' cannot be written to: {error.strerror or error}\nchoose another folder"
        ) from error


def lock(file: IO[Any], name: Path) -> None:
    """Keep an open file to this process until it is closed; `OutputError` if another has it.

    These are fcntl's record locks, not flock's (nor the filelock package's, which are flock's):
    those are shared with forked worker processes, so a worker that outlives a killed run would keep
    the next run out. Without effect on Windows and on file systems that have no locks.
    """
    try:
        import fcntl
    except ImportError:  # on Windows
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise OutputError(
            f"another run is writing to '{name}'\nwait until it has ended, or choose another path"
        ) from None
    except OSError:  # a file system without locks
        pass


def is_locked(lock: Path) -> bool:
    """Whether a process holds a `filelock.FileLock`, as while it fills the cache folder."""
    from filelock import FileLock, Timeout  # slow to import

    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder to this process until it ends; `OutputError` if another has it."""
    with (folder / ".lock").open("w") as file:
        lock(file, folder)
        try:
            yield
        finally:
            with suppress(PermissionError):  # Windows removes no open file
                (folder / ".lock").unlink(missing_ok=True)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path beside a file to write to; it replaces the file at the end, unless that failed."""
    beside = path.with_name(path.name + ".part")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a whole CSV file; file names that are not UTF-8 keep their bytes."""
    with (
        atomic_write(path) as beside,
        beside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        file.writelines(csv_line(list(row)) for row in (head, *rows))


@dataclass(frozen=True)
class CSVStyle:
    """How CSV and TSV are written for spreadsheets."""

    bom: bool = False  # begin with a byte order mark, by which Excel recognises UTF-8
    safe: bool = False  # put an apostrophe before text that spreadsheets take for a formula

    def written(self, cell: object) -> object:
        """What is written for a cell; `read` turns it back."""
        return f"'{cell}" if self.safe and isinstance(cell, str) and _FORMULA.match(cell) else cell

    def read(self, cell: str) -> str:
        """A cell as it was before it was written."""
        return cell[1:] if self.safe and cell[:1] == "'" and _FORMULA.match(cell) else cell


PLAIN = CSVStyle()


def csv_line(cells: Sequence[object], delimiter: str = ",") -> str:
    """A row of CSV with its line end, such that it is read back as it was."""
    # older Pythons leave a lone carriage return unquoted, and then cannot read it
    returns = any("\r" in str(cell) for cell in cells)
    dialect = csv.unix_dialect if returns else csv.excel  # quotes all, or what needs it
    text = io.StringIO()
    csv.writer(text, dialect, delimiter=delimiter, lineterminator="\n").writerow(cells)
    return text.getvalue()
