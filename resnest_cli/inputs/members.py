"""Images inside archives: where each lies, and its bytes when they are needed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from collections import OrderedDict
from functools import lru_cache
from threading import Lock
from typing import Any, BinaryIO, NamedTuple, cast

from resnest_cli.errors import ImageError, require_extra
from resnest_cli.inputs import stores
from resnest_cli.inputs.stores import MOST_BYTES, is_store_url

TAR, TAR_STREAM, ZIP, PARQUET = "tar", "tar stream", "zip", "parquet"
OBJECT = "object"  # of a store, not an archive
_BLOCK, _MOST_BLOCKS = 2**20, 48  # of a decompressed stream that is kept, for reads out of order
_NAMES = 512  # bytes of a zip member's name and more that are read with the member
BROKEN = (EOFError, OSError, zlib.error, lzma.LZMAError)  # what a damaged stream raises


class Member(NamedTuple):
    """One image in an archive or in a store, found again in any process."""

    kind: str  # TAR, TAR_STREAM, ZIP, PARQUET or OBJECT
    file: str  # or the URL in a store
    # TAR: offset, bytes; ZIP: see `_zipped`; PARQUET: row group, row; OBJECT: 0, bytes or -1
    place: tuple[int, ...]
    column: str = ""  # of a Parquet file

    def read(self) -> bytes:
        """The image file's bytes; `ImageError` if they are missing or damaged."""
        if self.size > MOST_BYTES:
            raise ImageError("larger than 512 MiB, which is not read from archives and stores")
        if self.kind == OBJECT:
            return stores.fetch(self.file, self.place[1])
        if self.kind == PARQUET:
            group, row = self.place
            return _cell(self.file, group, row, self.column)
        if self.kind == ZIP:
            return _zipped(self.file, *self.place)
        offset, size = self.place
        read = read_range if self.kind == TAR else _read_stream
        return _whole(read(self.file, offset, size), size)

    @property
    def size(self) -> int:
        """Bytes that are read, as the archive states them; 0 if it does not."""
        if self.kind == PARQUET:
            return 0
        return max(self.place[1:3])


def read_range(name: str, offset: int, size: int) -> bytes:
    """Bytes of a file; fewer at its end; `ImageError` if it cannot be read."""
    if is_store_url(name):
        return stores.fetch_range(name, offset, size)
    try:
        with open(name, "rb") as file:
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise ImageError(f"the archive cannot be read: {error.strerror or error}") from error


def opened(name: str) -> BinaryIO:
    """A file, or an object of a store, to be read from any position."""
    return stores.open_object(name) if is_store_url(name) else open(name, "rb")


def decompressed(name: str) -> BinaryIO:
    """A compressed file as the stream that it holds, the kind taken from its first bytes."""
    with opened(name) as file:
        start = file.read(6)
    file_or_name: Any = opened(name) if is_store_url(name) else name
    if start[:2] == b"\x1f\x8b":
        return cast(BinaryIO, gzip.open(file_or_name))
    if start[:3] == b"BZh":
        return cast(BinaryIO, bz2.open(file_or_name))
    if start == b"\xfd7zXZ\0":
        return cast(BinaryIO, lzma.open(file_or_name))
    return opened(name)


def _whole(data: bytes, size: int) -> bytes:
    if len(data) < size:
        raise ImageError("the archive is cut within this image")
    return data


class _Stream:
    """A decompressed stream, read forwards, its last blocks kept."""

    def __init__(self, name: str) -> None:
        self._name, self._lock = name, Lock()
        self._file, self._next = decompressed(name), 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def __del__(self) -> None:
        if hasattr(self, "_file"):  # it was opened
            self._file.close()

    def read(self, offset: int, size: int) -> bytes:
        first, last = offset // _BLOCK, (offset + size - 1) // _BLOCK
        with self._lock:
            data = b"".join(self._block(number) for number in range(first, last + 1))
        return data[offset - first * _BLOCK :][:size]

    def _block(self, number: int) -> bytes:
        if number in self._blocks:
            return self._blocks[number]
        if number < self._next:
            self._file.close()
            self._file, self._next = decompressed(self._name), 0
        data = bytearray()
        while self._next <= number:
            data = bytearray()
            try:
                while part := self._file.read1(_BLOCK - len(data)):  # type: ignore[attr-defined]
                    data += part
            except BROKEN:  # what came before it is used
                pass
            self._blocks[self._next] = bytes(data)
            self._next += 1
            if len(self._blocks) > _MOST_BLOCKS:
                self._blocks.popitem(last=False)
        return bytes(data)


def _version(name: str) -> tuple[int, ...]:
    """What changes when another file takes a name; of a store's object, nothing is asked for."""
    if is_store_url(name):
        return ()
    found = os.stat(name)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=2)
def _stream(name: str, version: tuple[int, ...]) -> _Stream:
    return _Stream(name)


def _read_stream(name: str, offset: int, size: int) -> bytes:
    try:
        return _stream(name, _version(name)).read(offset, size)
    except OSError as error:
        raise ImageError(f"the archive cannot be read: {error.strerror or error}") from error


def _zipped(name: str, header: int, packed: int, size: int, method: int, crc: int) -> bytes:
    """A member by its header's offset, bytes packed and unpacked, method and checksum."""
    read = read_range(name, header, 30 + _NAMES + packed)
    head = _whole(read[:30], 30)
    if head[:4] != b"PK\3\4":
        raise ImageError("damaged: the archive holds no file where it says")
    names = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    data = read[30 + names :][:packed]
    if names > _NAMES:
        data = read_range(name, header + 30 + names, packed)
    data = _whole(data, packed)
    try:
        if method == 8:
            data = zlib.decompressobj(-15).decompress(data, size + 1)
        elif method == 12:
            data = bz2.BZ2Decompressor().decompress(data, size + 1)
        elif method:
            raise ImageError(f"packed by method {method} of zip, which is not read")
    except (zlib.error, OSError) as error:
        raise ImageError("damaged within its archive") from error
    if len(data) != size or zlib.crc32(data) != crc:
        raise ImageError("damaged within its archive: another checksum")
    return data


def parquet_file(name: str) -> Any:
    """A Parquet file, opened; `ResNeStError` without the extra."""
    require_extra("parquet", "pyarrow")
    import pyarrow.parquet as pq

    return pq.ParquetFile(opened(name) if is_store_url(name) else name)


@lru_cache(maxsize=2)  # the row groups in work
def _column(name: str, version: tuple[int, ...], group: int, column: str) -> Any:
    return parquet_file(name).read_row_group(group, columns=[column]).column(0)


_column_lock = Lock()


def _cell(name: str, group: int, row: int, column: str) -> bytes:
    try:
        with _column_lock:
            value = _column(name, _version(name), group, column)[row].as_py()
    except (OSError, ValueError, IndexError) as error:  # pyarrow's own are among them
        raise ImageError(f"the Parquet file's row group {group} is damaged") from error
    if isinstance(value, dict):
        value = value.get("bytes")
    if value is None:
        raise ImageError("no image in this row")
    return cast(bytes, value)
