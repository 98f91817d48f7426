"""The rows of a results file, or of a run in partitions, finished or not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from resnest_cli.cluster import partitions
from resnest_cli.cluster.manifest import Folder, read_manifest
from resnest_cli.errors import OutputError
from resnest_cli.explain.draw import LARGEST_SIDE
from resnest_cli.files import lock
from resnest_cli.inputs.archives import is_archive_file, reader
from resnest_cli.inputs.source import Source, is_url
from resnest_cli.inputs.walk import LeftOut
from resnest_cli.outputs.formats import format_of, read_results
from resnest_cli.outputs.run_info import RunInfo, record_path
from resnest_cli.outputs.schema import PredictionSchema
from resnest_cli.results import Result

_CUT = "The run is unfinished: its last row is cut, or others may follow."
_KILLED = "The run is unfinished: it was interrupted, so that images may lack rows."
_RUNNING = "The run is unfinished: it was still writing when this page was made."


@dataclass(frozen=True)
class Rows:
    """The rows, and what is known of the run that wrote them."""

    results: Iterator[Result]
    settings: Mapping[str, Any]  # empty if there is no record
    record: str | None  # the text of the `.run.json`
    state: str = ""  # how it is known that the run is unfinished, in a sentence for people
    files: tuple[Path, ...] = ()  # what is read, which no output may replace


class Map(NamedTuple):
    """A drawing of `explain`."""

    file: Path
    name: str  # of its class
    size: tuple[int, int]  # of the image, without what is written below it


def open_rows(source: Path, fmt: str | None = None) -> Rows:
    """The rows of a file, or of a folder of partitions.

    Raises:
        OutputError: there is none, or it does not hold predictions; the rows may raise it too.
        UsageError: the suffix is unknown.
    """
    if source.is_dir():
        return _of_partitions(source)
    fmt, record = fmt or format_of(source, read=True), record_path(source)
    journal = source.with_name(source.name + ".journal")
    if fmt == "parquet" and journal.is_file() and not source.exists():
        state = _is_running(journal) or _CUT
        return Rows(_read(journal, "jsonl"), _settings(source), _text(record), state)
    if not source.is_file():
        raise OutputError(f"there is no results file '{source}'\nname one that predict wrote")
    state = _is_running(source) or _was_killed(source)
    if fmt != "parquet" and not state:
        with source.open("rb") as file:
            file.seek(max(0, source.stat().st_size - 3))
            end = file.read()
        whole = end.rstrip().endswith(b"]") if fmt == "json" else end.endswith(b"\n")
        state = "" if whole else _CUT
    files = source, record
    return Rows(_read(source, fmt), _settings(source), _text(record), state, files)


def source_of(path: str) -> Source | None:
    """The image of a row, in a file or in an archive; None for a URL, and if it is not there."""
    if is_url(path):
        return None
    if os.path.isfile(path):  # noqa: PTH113  # any text may be a path here
        return Source(path, Path(path))
    ends = (at for at, letter in enumerate(path) if at and letter in "/#")
    for archive in (path[:at] for at in ends):
        if is_archive_file(archive) and (found := _members(archive).get(path)):
            return None if found.error else found
    return None


@lru_cache(maxsize=2)
def _members(archive: str) -> dict[str, Source]:
    read = reader(archive)
    assert read
    return {source.name: source for source in read(archive, LeftOut())}


def _of_partitions(path: Path) -> Rows:
    if not (path / partitions.RECORD).is_file():
        raise OutputError(
            f"'{path}' is a folder, but not a run in partitions\n"
            "name a file, or a folder of partitions, that predict wrote"
        )
    folder = Folder(path)
    info = partitions.read_record(folder)
    parts, missing, last = [], 0, None
    for segment in read_manifest(folder):
        last, name = segment, partitions.part_name(segment.number, info.settings["format"])
        with _damage_named(path, name):
            try:
                found = partitions.read_fingerprint(folder, name)
            except FileNotFoundError:
                missing += 1
                continue
            if difference := found.differs(segment, info.settings):
                raise partitions.Damaged(difference)
            parts.append((name, found))
    state = ""
    if missing:
        state = f"The run is unfinished: {missing:,} of its partitions are missing so far."
    elif last is None or not last.last:
        state = "The run is unfinished: its inputs have not been listed to their end."

    def results() -> Iterator[Result]:
        for name, fingerprint in parts:
            with _damage_named(path, name):
                records = partitions.read_rows(folder, name, fingerprint)
                yield from map(PredictionSchema.result, records)

    record = path / partitions.RECORD
    return Rows(results(), info.settings, _text(record), state, (record,))


@contextmanager
def _damage_named(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except partitions.Damaged as damage:
        raise OutputError(
            f"'{path}': {name} is {damage}\nremove it, and finish the run"
        ) from damage


def _read(path: Path, fmt: str) -> Iterator[Result]:
    """The rows of a file, with nothing in them that predict does not write."""
    try:
        for number, row in enumerate(read_results(path, fmt), 1):
            good = row.error is None or isinstance(row.error, str)
            for p in row.predictions:
                number_ = isinstance(p.index, int) and isinstance(p.probability, int | float)
                good &= number_ and 0 <= p.probability <= 1.001 and isinstance(p.label, str)
            if not good:
                raise OutputError(f"row {number} is not a result")
            yield row
    except OutputError as error:
        text = str(error)
        start = "" if f"'{path}'" in text else f"cannot read results from '{path}': "
        raise OutputError(f"{start}{text}\nname a file that predict wrote") from error


def _settings(source: Path) -> Mapping[str, Any]:
    with suppress(OutputError):
        return RunInfo.read(source).settings
    return {}


def _was_killed(source: Path) -> str:
    with suppress(OutputError):
        if RunInfo.read(source).finished == "":
            return _KILLED
    return ""


def _is_running(source: Path) -> str:
    with suppress(OSError), source.open("rb+") as file:
        try:
            lock(file, source)
        except OutputError:
            return _RUNNING
    return ""


def _text(record: Path) -> str | None:
    with suppress(OSError):
        return record.read_bytes().decode("utf-8", "backslashreplace")
    return None


def explained(folder: Path) -> dict[str, Map]:
    """The drawing of each input that `explain` has drawn.

    Raises:
        OutputError: the folder is not one that `explain` wrote.
    """
    maps: dict[str, Map] = {}
    try:
        for line in (folder / "explain.jsonl").read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break  # a kill cut it short
            row = json.loads(line)
            for shown in row["classes"][:1]:
                if shown["image"]:
                    against = f", not {shown['against']}" if shown["against"] else ""
                    width, height = row["size"]
                    scale = min(1, LARGEST_SIDE / max(width, height))
                    size = round(width * scale), round(height * scale)
                    maps[row["path"]] = Map(
                        folder / shown["image"], f"{shown['label']}{against}", size
                    )
    except OSError as error:
        raise OutputError(f"`explain`: '{folder}' cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise OutputError(f"`explain`: '{folder}' was not written by explain") from error
    return maps
