"""Files that are either whole or missing, locks, and checks of what is to be written."""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

from resnest_cli.errors import BrokenPipe, OutputError, UsageError, WriteError

_NEW_NAME = re.compile(r"\.resnest-[0-9a-f]{16}\.part")
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


def check_no_input(outputs: Iterable[Path], inputs: Iterable[str | Path | None]) -> None:
    """Raise `UsageError` if a file that is to be written is an input, also by way of a link.

    `-` is standard input, which may be a file.
    """
    written = {_identity(path) for path in outputs if path.is_file()}
    for path in inputs if written else ():
        with suppress(OSError, ValueError):  # what does not exist is not replaced
            if path is not None and _identity(path) in written:
                raise UsageError(
                    f"`output` would replace an input, '{path}'\nchoose another file or folder"
                )


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.fstat(0) if str(path) == "-" else Path(path).stat()
    return status.st_dev, status.st_ino


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
    path = folder / ".lock"
    made = not os.path.lexists(path)  # else it is another's, and stays
    check_regular(path)
    with path.open("a") as file:
        lock(file, folder)
        try:
            yield
        finally:
            with suppress(PermissionError):  # Windows removes no open file
                if made:
                    path.unlink(missing_ok=True)


def check_regular(path: Path) -> None:
    """Raise `OSError` if a path is a pipe, a socket, a device or a folder: opening it may block."""
    if os.path.lexists(path) and not path.is_file():
        kind = "Is a folder" if path.is_dir() else "Not a regular file (a pipe, socket or device?)"
        raise OSError(errno.EINVAL, kind, os.fspath(path))


@contextmanager
def os_errors(what: str) -> Iterator[None]:
    """Turn the system's refusal to write into `WriteError`, or `BrokenPipe`."""
    try:
        yield
    except BrokenPipeError as error:
        raise BrokenPipe from error
    except OSError as error:
        refused = error.__cause__ if isinstance(error, WriteError) else error  # in other words
        reason = getattr(refused, "strerror", None) or refused
        raise WriteError(f"{what} cannot be written: {reason}") from refused


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path beside a file to write to; it replaces the file at the end, unless that failed.

    Raises:
        WriteError: the system refuses, or a pipe, a device or a folder is in the file's place.
    """
    beside = path.with_name(_new_name())
    try:
        with os_errors(f"'{path}'"):
            check_regular(path)
            yield beside
            _to_disk(beside)
            beside.replace(path)
            _name_to_disk(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_new(path: Path, content: bytes) -> bool:
    """Write a file, whole or not at all, unless it exists; whether it was written.

    Of several processes that do so at once, one succeeds. On a file system without hard links that
    is likely, but not certain.

    Raises:
        WriteError: the system refuses.
    """
    beside = path.with_name(_new_name())
    try:
        with os_errors(f"'{path}'"):
            beside.write_bytes(content)
            _to_disk(beside)
            try:
                os.link(beside, path)
            except FileExistsError:
                return False
            except OSError:  # no hard links
                if os.path.lexists(path):
                    return False
                beside.replace(path)
            _name_to_disk(path)
        return True
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def all_or_none(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """A new folder in `folder` to write files to; at the end those called `names` move up.

    The first one moves last: where it is, all are. If writing fails, nothing has changed.
    """
    beside = folder / _new_name()
    beside.mkdir()
    try:
        yield beside
        written = [name for name in reversed(names) if (beside / name).exists()]
        for name in written:
            _to_disk(beside / name)
        if len(written) > 1:
            (folder / names[0]).unlink(missing_ok=True)
        for name in written:
            (beside / name).replace(folder / name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def leftovers(folder: Path) -> list[Path]:
    """What killed runs were about to write in a folder: files unchanged for an hour."""
    found = [path for path in folder.glob(".resnest-*") if _NEW_NAME.fullmatch(path.name)]
    return [f for f in found if f.is_file() and time.time() - f.stat().st_mtime > 3600]


def _new_name() -> str:
    """A name for a file that is not finished, which nobody else has given."""
    return f".resnest-{secrets.token_hex(8)}.part"


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _name_to_disk(path: Path) -> None:
    """Make a file's new name survive a power cut, where the system can."""
    if os.name != "posix":
        return
    with suppress(OSError):  # a folder that cannot be read, or a file system that refuses
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


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


def write_csv(
    path: Path,
    head: Sequence[str],
    rows: Iterable[Iterable[object]],
    style: CSVStyle = PLAIN,
) -> None:
    """Write a whole CSV file; file names that are not UTF-8 keep their bytes."""
    encoding = "utf-8-sig" if style.bom else "utf-8"
    with (
        atomic_write(path) as beside,
        beside.open("w", newline="", encoding=encoding, errors="surrogateescape") as file,
    ):
        file.writelines(csv_line([*map(style.written, row)]) for row in chain([head], rows))


def csv_line(cells: Sequence[object], delimiter: str = ",") -> str:
    """A row of CSV with its line end, such that it is read back as it was."""
    # older Pythons leave a lone carriage return unquoted, and then cannot read it
    returns = any("\r" in str(cell) for cell in cells)
    dialect = csv.unix_dialect if returns else csv.excel  # quotes all, or what needs it
    text = io.StringIO()
    csv.writer(text, dialect, delimiter=delimiter, lineterminator="\n").writerow(cells)
    return text.getvalue()
