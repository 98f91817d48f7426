"""Partitions: files of rows, whole or missing, each with a fingerprint of what it is.

The fingerprint is in the metadata of a Parquet file, and the last line of a JSON Lines file. So
what is finished is known from the names and the ends of files alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import IO, Any

from resnest_cli.cluster.manifest import Folder, Segment
from resnest_cli.errors import OutputError
from resnest_cli.outputs.formats import encode, read_parquet, write_parquet
from resnest_cli.outputs.run_info import RunInfo
from resnest_cli.outputs.schema import PredictionSchema, Record
from resnest_cli.text import utf8

FORMATS = ("parquet", "jsonl")
PREFIX = "part-"
RECORD = "run.json"  # the settings that all partitions have

_KEY = "resnest"  # of the metadata; of the object in the last line
_TAIL = 2**16  # bytes that are read from a file's end at once
_IN_MEMORY = 2**24  # bytes of rows before they go to a temporary file


class Damaged(OutputError):
    """A partition's file is cut, changed, or not a partition."""


@dataclass(frozen=True)
class Fingerprint:
    """What a partition's file holds."""

    partition: int
    segment: str  # SHA-256 of its part of the manifest
    settings: Mapping[str, Any]  # those of the run, see `run.json`
    rows: int
    failed: int  # of them, rows that hold an error
    passing: list[int]  # the numbers, from 0, of failed rows whose fault may pass
    sha256: str  # of the rows, as JSON Lines in UTF-8
    device: str
    tool: str

    def differs(self, segment: Segment, settings: Mapping[str, Any]) -> str | None:
        """Why it is not of this part of this run's manifest and settings; None if it is."""
        own = self.settings
        changed = [key for key in {**own, **settings} if own.get(key) != settings.get(key)]
        if changed:
            was = (f"{key} {own.get(key)!r}, not {settings.get(key)!r}" for key in changed)
            return f"of other settings ({'; '.join(was)})"
        if self.partition != segment.number:
            return f"a copy of {PREFIX}{self.partition:06}"
        if self.segment != segment.sha256 or self.rows != segment.rows:
            return "of another manifest"
        return None


def part_name(number: int, fmt: str) -> str:
    """The file of a partition: it depends on its number alone."""
    return f"{PREFIX}{number:06}.{fmt}"


def read_record(folder: Folder) -> RunInfo:
    """The settings of a run in partitions; `OutputError` if they are missing or damaged."""
    try:
        with folder.open(RECORD) as file:
            return RunInfo.parsed(file.read())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"'{folder}' holds no {RECORD}, or a damaged one: it is not a run in partitions"
        ) from error


def read_fingerprint(folder: Folder, name: str) -> Fingerprint:
    """A partition's fingerprint.

    Raises:
        FileNotFoundError: the partition is missing.
        Damaged: its file is cut, or not a partition.
    """
    with folder.open(name) as file:
        try:
            if name.endswith(".jsonl"):
                text = json.loads(_last_line(file))[_KEY]
            else:
                text = json.loads(_parquet_metadata(file))
            return Fingerprint(**text)
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged("cut, or not a partition") from error


def read_rows(folder: Folder, name: str, fingerprint: Fingerprint) -> Iterator[Record]:
    """A partition's rows; `Damaged` after the last one if they are not those that were written."""
    digest, count = hashlib.sha256(), 0
    with folder.open(name) as file:
        try:
            for record in _json_rows(file) if name.endswith(".jsonl") else read_parquet(file):
                digest.update(encode(_comparable(record)) + b"\n")
                count += 1
                yield record
        except (ValueError, KeyError, TypeError, OSError, OutputError) as error:
            raise Damaged("damaged: its rows cannot be read") from error
    if count != fingerprint.rows or digest.hexdigest() != fingerprint.sha256:
        raise Damaged("damaged: its rows are not those that were written")


def write_part(
    folder: Folder, name: str, rows: Iterable[tuple[Record, bool]], segment: Segment, info: RunInfo
) -> Fingerprint:
    """Write a partition, whole or not at all.

    Args:
        rows: each with whether its fault may pass.
        segment: its part of the manifest.
        info: what gives the rows.

    Raises:
        WriteError: the system refuses.
    """
    digest, count, failed = hashlib.sha256(), 0, 0
    passing: list[int] = []
    with (
        folder.put(name) as target,
        tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(target.parent)) as journal,
    ):
        for record, may_pass in rows:
            passing += [count] * may_pass
            failed += record["error"] is not None
            count += 1
            digest.update(encode(_comparable(record)) + b"\n")
            journal.write(encode(record) + b"\n")
        if count != segment.rows:
            raise OutputError(f"'{folder}': {name} would have {count} of {segment.rows} rows")
        settings = dict(sorted(info.settings.items()))
        fingerprint = Fingerprint(
            segment.number, segment.sha256, settings, count, failed, passing, digest.hexdigest(),
            info.device, info.tool,
        )  # fmt: skip
        journal.seek(0)
        text = asdict(fingerprint)
        if name.endswith(".jsonl"):
            with target.open("wb") as file:
                shutil.copyfileobj(journal, file)
                file.write(encode({_KEY: text}) + b"\n")
        else:
            schema = PredictionSchema(info.settings["top_k"])
            write_parquet(journal, target, schema, {_KEY: json.dumps(text)})
    return fingerprint


def _comparable(record: Record) -> Record:
    """A row as every format gives it back: names that are not UTF-8 are escaped."""
    return record | {"path": utf8(record["path"])}


def _json_rows(file: IO[bytes]) -> Iterator[Record]:
    for line in file:
        record = json.loads(line)
        if _KEY in record:
            return
        yield record


def _last_line(file: IO[bytes]) -> bytes:
    """The last line of a file, however long; `ValueError` if it has no end."""
    end = file.seek(0, io.SEEK_END)
    tail = b""
    while end and tail.count(b"\n") < 2:
        start = max(end - _TAIL, 0)
        file.seek(start)
        tail, end = file.read(end - start) + tail, start
    if not tail.endswith(b"\n"):
        raise ValueError("no end of line")
    return tail[:-1].rpartition(b"\n")[2]


def _parquet_metadata(file: IO[bytes]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(file).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise ValueError("not Parquet") from error
    found: bytes = metadata[_KEY.encode()]
    return found
