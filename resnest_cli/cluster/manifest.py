"""The manifest: the inputs of a run, in segments that are written while the inputs are listed.

A segment holds the names of one partition. It is written if it is absent, and never replaced; it
holds the SHA-256 of the segment before it, and states whether it is the last. So any number of
processes may list at once, or be killed while they do, and all of them get the same manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from resnest_cli.cluster.stored_files import StoredFiles
from resnest_cli.errors import OutputError
from resnest_cli.files import atomic_write, leftovers, writable_folder, write_new
from resnest_cli.inputs.members import Member
from resnest_cli.inputs.source import Source, is_url
from resnest_cli.inputs.stores import url_of
from resnest_cli.outputs.formats import encode
from resnest_cli.text import printable

Listing = Callable[[], Iterator[Source]]  # the inputs, from the first one on

_FOLDER = "manifest"


class Folder:
    """Files that are whole or missing; all that a run in partitions asks of where it is kept.

    The path of a store's URL stands for the prefix there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        url = url_of(path)
        self._stored = StoredFiles(url) if url else None

    def __str__(self) -> str:
        return str(self._stored or self.path)

    def make(self) -> None:
        """Make it if it is missing; `OutputError` if no file can be written to it."""
        if not self._stored:
            writable_folder(self.path)

    def names(self) -> list[str]:
        """The files in it, sorted, without hidden ones and those in folders below."""
        if self._stored:
            return self._stored.names()
        found = (f.name for f in self.path.iterdir() if f.is_file())
        return sorted(name for name in found if not name.startswith("."))

    def open(self, name: str) -> IO[bytes]:
        """A file, to be read from any position; `FileNotFoundError` if it is missing."""
        if self._stored:
            return self._stored.open(name)
        return (self.path / name).open("rb")

    def add(self, name: str, content: bytes) -> bool:
        """Write a file unless it exists; whether it was written."""
        if self._stored:
            return self._stored.add(name, content)
        target = self.path / name
        target.parent.mkdir(exist_ok=True)
        return write_new(target, content)

    def put(self, name: str) -> AbstractContextManager[Path]:
        """A local path to write to; at the end its content replaces a file, whole."""
        if self._stored:
            return self._stored.put(name)
        return atomic_write(self.path / name)

    def remove_leftovers(self) -> None:
        """Remove what runs that were killed over an hour ago were about to write."""
        if self._stored:  # an object is not there until it is whole
            return
        for file in (*leftovers(self.path), *leftovers(self.path / _FOLDER)):
            file.unlink(missing_ok=True)


@dataclass(frozen=True)
class Segment:
    """The names of one partition."""

    number: int
    rows: int
    last: bool
    sha256: str  # of the stored segment, which holds that of the segment before it
    data: bytes

    @property
    def lines(self) -> list[bytes]:
        """The stored sources, one a line."""
        return self.data.split(b"\n")[1:-1]

    def sources(self) -> list[Source]:
        """The inputs."""
        return [_decoded(line) for line in self.lines]


def read_segment(folder: Folder, number: int) -> Segment | None:
    """A segment; None if it is missing; `OutputError` if it is damaged."""
    name = _name(number)
    try:
        with folder.open(name) as file:
            data = file.read()
    except FileNotFoundError:
        return None
    try:
        head = json.loads(data[: data.index(b"\n")])
        rows, last = int(head["rows"]), bool(head["last"])
        if head["segment"] != number or data.count(b"\n") != rows + 1 or data[-1:] != b"\n":
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"'{folder}': {name} is damaged\nuse another folder") from error
    return Segment(number, rows, last, hashlib.sha256(data).hexdigest(), data)


def read_manifest(folder: Folder) -> Iterator[Segment]:
    """The segments that exist, in order; `OutputError` if one is damaged or of another manifest."""
    earlier: Segment | None = None
    while not (earlier and earlier.last):
        number = earlier.number + 1 if earlier else 0
        segment = read_segment(folder, number)
        if segment is None:
            return
        head = json.loads(segment.data[: segment.data.index(b"\n")])
        if head.get("previous") != (earlier.sha256 if earlier else None):
            raise OutputError(
                f"'{folder}': {_name(number)} belongs to another manifest than the segment before "
                "it\nuse another folder"
            )
        yield segment
        earlier = segment


def segments(folder: Folder, size: int, listing: Listing) -> Iterator[Segment]:
    """The segments in order, each when it is stored; those that are missing are written.

    Args:
        size: inputs of a segment, except the last.
        listing: gives the inputs; not called if the manifest is complete.

    Raises:
        OutputError: the manifest is damaged or cannot be written, or its end cannot be found again
            in the inputs.
    """
    count, last = 0, False
    while not last:  # from the start again if another process wrote another segment first
        earlier: Segment | None = None
        for segment in read_manifest(folder):
            earlier, last = segment, segment.last
            if segment.number >= count:
                yield segment
                count += 1
        if not last:
            for segment in _added(folder, size, listing, earlier):
                yield segment
                count, last = count + 1, segment.last


def _added(
    folder: Folder, size: int, listing: Listing, earlier: Segment | None
) -> Iterator[Segment]:
    """The segments after an earlier one, until another process has written a different one."""
    left = _left(folder, map(_encoded, listing()), earlier)
    following = next(left, None)
    while not (earlier and earlier.last):
        lines = [] if following is None else [following, *islice(left, size - 1)]
        following = next(left, None)
        number = earlier.number + 1 if earlier else 0
        head = {
            "segment": number,
            "previous": earlier.sha256 if earlier else None,
            "rows": len(lines),
            "last": following is None,
        }
        data = b"".join(line + b"\n" for line in (encode(head), *lines))
        written = folder.add(_name(number), data)
        earlier = Segment(
            number, len(lines), following is None, hashlib.sha256(data).hexdigest(), data
        )
        if not written:
            found = read_segment(folder, number)
            if found is None or found.sha256 != earlier.sha256:
                return
        yield earlier


def _left(folder: Folder, lines: Iterator[bytes], earlier: Segment | None) -> Iterator[bytes]:
    """The lines after the last one that is stored, which may occur several times.

    Files that have appeared before it since are not part of the manifest.
    """
    stored = earlier.lines if earlier else []
    if not stored:
        return lines
    count = sum(segment.lines.count(stored[-1]) for segment in read_manifest(folder))
    for line in lines:
        count -= line == stored[-1]
        if not count:
            return lines
    name = printable(_decoded(stored[-1]).name)
    raise OutputError(
        f"'{folder}': the listing of the inputs was interrupted after '{name}', which is now gone"
        "\nuse another folder"
    )


def _name(number: int) -> str:
    return f"{_FOLDER}/{number:06}.jsonl"


def _encoded(source: Source) -> bytes:
    """A source as a line: its name, or what else it is."""
    name, error, content = source.name, source.error, source.content
    if error is None and (content == name if isinstance(content, str) else str(content) == name):
        return encode(name)
    if isinstance(content, Member):
        return encode({"name": name, "member": list(content)})
    path = str(content) if isinstance(content, Path) else None
    return encode({"name": name, "path": path, "error": error})


def _decoded(line: bytes) -> Source:
    stored = json.loads(line)
    if isinstance(stored, str):
        return Source(stored, stored if is_url(stored) else Path(stored))
    if "member" in stored:
        kind, file, place, column = stored["member"]
        return Source(stored["name"], Member(kind, file, tuple(place), column))
    path = stored["path"]
    return Source(stored["name"], Path(path) if path is not None else None, stored["error"])
