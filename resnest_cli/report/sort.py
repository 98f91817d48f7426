"""Images into folders by class, with a journal by which it is continued and undone."""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from resnest_cli.errors import OutputError, UsageError, check_number
from resnest_cli.files import check_regular, lock, os_errors
from resnest_cli.outputs.formats import encode
from resnest_cli.progress import SILENT, Progress
from resnest_cli.report.naming import ClassFolders, FileNames
from resnest_cli.report.placing import COPY, LINK, MOVE, Kept, Place, place, put_back
from resnest_cli.report.rows import open_rows, source_of
from resnest_cli.results import Result

JOURNAL = ".resnest-sort.jsonl"
UNSURE, FAILED = "unsure", "failed"
_AHEAD = 100  # places that are written to the journal at once, before the first is taken


@dataclass
class SortSummary:
    """What was sorted, or put back."""

    folders: Counter[str] = field(default_factory=Counter)  # images of each folder
    earlier: int = 0  # images that an earlier run had sorted
    kept: list[tuple[str, str]] = field(default_factory=list)  # images left alone, and why

    @property
    def images(self) -> int:
        """How many images were sorted, or put back, by this run."""
        return sum(self.folders.values())


def sort(
    results: str | Path,
    to: str | Path,
    *,
    how: str = LINK,
    threshold: float = 0.0,
    fmt: str | None = None,
    progress: Progress = SILENT,
) -> SortSummary:
    """Put the images of a results file into a folder for each class.

    Each place is written to a journal in the folder before it is taken, so that a run that was
    killed is continued by the same call, and `undo` puts everything back. No file is overwritten:
    a name that is taken gets a number.

    Args:
        results: what a prediction job wrote: .jsonl, .json, .csv, .tsv or .parquet, or a folder of
            partitions. Relative paths in it count from the current folder.
        to: the folder; it is made if it is missing.
        how: link (a symbolic link), copy or move.
        threshold: images whose best probability is lower go to `unsure`, 0 to 1.
        fmt: the format of the results, where the suffix does not say.

    Raises:
        UsageError: an argument is wrong.
        OutputError: the results cannot be read, the folder cannot be written to, or it was sorted
            with other settings.
    """
    check_number("threshold", threshold, 0, 1, whole=False)
    if how not in (LINK, COPY, MOVE):
        raise UsageError(f"`how` must be link, copy or move, not '{how}'")
    root, summary = Path(to).absolute(), SortSummary()
    rows = open_rows(Path(results), fmt).results
    first = next(rows, None)  # so that nothing is made for what holds no results
    with os_errors(f"'{root}'"), _open_journal(root, how, threshold) as journal:
        run = _Run(root, journal, how, threshold, summary)
        progress.start("sorting")
        try:
            run.finish_earlier()
            run.take(row for row in _chained(first, rows, progress))
        finally:
            progress.finish()
    return summary


def undo(to: str | Path, *, progress: Progress = SILENT) -> SortSummary:
    """Put back what `sort` placed in a folder, and remove the folders that it made.

    Files that were changed since, or whose old place is taken, stay, and are named.

    Raises:
        OutputError: the folder holds no journal, or cannot be written to.
    """
    root, summary = Path(to).absolute(), SortSummary()
    if not (root / JOURNAL).is_file():
        raise OutputError(f"'{to}' holds no journal of a sort, so there is nothing to undo")
    with os_errors(f"'{root}'"), _open_journal(root) as journal:
        progress.start("undoing")
        try:
            for entry in reversed(journal.entries):
                if "target" in entry:
                    _put_back(root, journal.how, entry, summary)
                    progress.advance()
        finally:
            progress.finish()
    if journal.how == MOVE:  # at the end: two names may be of one image
        _note_lost(root, journal.entries, summary)
    if not summary.kept:
        made = [e["folder"] for e in journal.entries if e.get("made")]
        _remove(root, made, all_of_it=bool(journal.head.get("made")))
    return summary


@dataclass
class _Journal:
    """A file of lines: the settings, then folders and places, each written before it is used."""

    file: IO[bytes]
    head: dict[str, Any]
    entries: list[dict[str, Any]]

    @property
    def how(self) -> str:
        return str(self.head["how"])

    def write(self, entries: list[dict[str, Any]]) -> None:
        self.file.write(b"".join(encode(entry) + b"\n" for entry in entries))
        self.file.flush()
        os.fsync(self.file.fileno())


class _Run:
    """A sort that is going on."""

    def __init__(
        self, root: Path, journal: _Journal, how: str, threshold: float, summary: SortSummary
    ) -> None:
        self._root, self._journal, self._how = root, journal, how
        self._threshold, self._summary = threshold, summary
        known = {e["class"]: e["folder"] for e in journal.entries if "class" in e}
        self._classes = ClassFolders(root, known, (UNSURE, FAILED))
        self._folders = {e["folder"] for e in journal.entries if "folder" in e}
        self._names = FileNames(root)
        self._sources = {e["source"] for e in journal.entries if "target" in e}

    def finish_earlier(self) -> None:
        """Do what an earlier run had written down, and a kill kept it from doing."""
        for entry in self._journal.entries:
            if "folder" in entry:
                (self._root / entry["folder"]).mkdir(exist_ok=True)
            if "target" in entry:
                folder, _, name = entry["target"].partition("/")
                self._names.reserve(folder, name)
                self._place(entry, earlier=True)

    def take(self, results: Iterable[Result]) -> None:
        """Sort these, a block at a time: to the journal, to the disk, and to their places."""
        left = iter(results)
        while block := list(islice(left, _AHEAD)):
            entries = [entry for result in block for entry in self._planned(result)]
            self._journal.write(entries)
            for entry in entries:
                if "folder" in entry:
                    (self._root / entry["folder"]).mkdir(exist_ok=True)
                else:
                    self._place(entry)

    def _planned(self, result: Result) -> Iterator[dict[str, Any]]:
        source = Path(os.path.abspath(result.path))  # noqa: PTH100
        if str(source) in self._sources:  # by an earlier run, or it is listed twice
            return
        if not source.is_file():
            reason = result.error or "there is no such file, seen from the current folder"
            if result.error is None and source_of(result.path):
                reason = "it is in an archive: unpack that, and predict the folder"
            self._summary.kept.append((result.path, reason))
            return
        key, folder = self._folder(result)
        if folder not in self._folders:
            self._folders.add(folder)
            made = not (self._root / folder).exists()
            yield {"folder": folder, "made": made} | ({"class": key} if key else {})
        self._sources.add(str(source))
        name = self._names.new(folder, source.name)
        part = f".resnest-{secrets.token_hex(8)}.part"
        yield {"source": str(source), "target": f"{folder}/{name}", "part": part}

    def _folder(self, result: Result) -> tuple[str | None, str]:
        """The key of a result's class, if it is sure, and the folder."""
        if result.error is not None:
            return None, FAILED
        if not result.predictions or result.top1.probability < self._threshold:
            return None, UNSURE
        key = str(result.top1.index)
        return key, self._classes.of(key, result.top1.label)

    def _place(self, entry: dict[str, Any], *, earlier: bool = False) -> None:
        try:
            place(self._how, _at(self._root, entry))
        except (Kept, FileNotFoundError, FileExistsError, PermissionError) as error:
            self._summary.kept.append((entry["source"], _reason(error)))
        else:
            self._summary.earlier += earlier
            self._summary.folders[entry["target"].partition("/")[0]] += not earlier


def _chained(first: Result | None, rest: Iterator[Result], progress: Progress) -> Iterator[Result]:
    if first is not None:
        yield first
        progress.advance()
    for result in rest:
        yield result
        progress.advance()


def _put_back(root: Path, how: str, entry: dict[str, Any], summary: SortSummary) -> None:
    at = _at(root, entry)
    there = os.path.lexists(at.target)
    try:
        put_back(how, at)
    except (Kept, FileNotFoundError, FileExistsError, PermissionError) as error:
        summary.kept.append((str(at.target), _reason(error)))
    else:
        summary.folders[at.target.parent.name] += there


def _note_lost(root: Path, entries: list[dict[str, Any]], summary: SortSummary) -> None:
    for entry in entries:
        if "target" in entry and not any(map(os.path.lexists, _at(root, entry)[:2])):
            reason = f"it is no longer there, to go back to '{entry['source']}'"
            summary.kept.append((str(root / entry["target"]), reason))


def _at(root: Path, entry: dict[str, Any]) -> Place:
    target = root / entry["target"]
    return Place(Path(entry["source"]), target, target.with_name(entry["part"]))


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _remove(root: Path, folders: list[str], *, all_of_it: bool) -> None:
    """Remove the folders that were made, unless they hold something, and then the journal."""
    for folder in folders:
        with suppress(OSError):
            (root / folder).rmdir()
    (root / JOURNAL).unlink()
    if all_of_it:
        with suppress(OSError):
            root.rmdir()


@contextmanager
def _open_journal(
    root: Path, how: str | None = None, threshold: float | None = None
) -> Iterator[_Journal]:
    """The journal of a folder, kept to this process; with settings, it is begun or continued."""
    made = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    path = root / JOURNAL
    check_regular(path)
    with path.open("ab+") as file:
        lock(file, root)
        file.seek(0)
        lines = file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):  # cut by a kill, before its place was taken
            file.truncate(sum(map(len, lines[:-1])))
            lines.pop()
        entries = _parsed(lines, path)
        settings = {"how": how, "threshold": threshold}
        if entries and how and {key: entries[0][key] for key in settings} != settings:
            was, at = entries[0]["how"], entries[0]["threshold"]
            raise OutputError(
                f"'{root}' was sorted with other settings: `{was}`, `threshold={at}`\n"
                "sort with the same, take it back with `undo`, or choose another folder"
            )
        journal = _Journal(file, entries[0] if entries else settings | {"made": made}, entries[1:])
        if not entries:
            if how is None:
                raise OutputError(f"'{path}' is empty: nothing was sorted")
            journal.write([journal.head])
        yield journal


def _parsed(lines: list[bytes], path: Path) -> list[dict[str, Any]]:
    try:
        entries = [dict(json.loads(line)) for line in lines]
        if entries:
            _ = entries[0]["how"], entries[0]["threshold"]
        for entry in entries[1:]:
            if "target" in entry:
                _ = entry["source"], entry["part"]
                if Path(entry["target"]).is_absolute() or ".." in Path(entry["target"]).parts:
                    raise ValueError("it leads out of the folder")
            else:
                _ = entry["folder"]
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"'{path}' is not the journal of a sort: {error}") from error
    return entries
