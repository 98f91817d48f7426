"""Archives to the images in them: tar, zip and Parquet, listed lazily, nothing extracted."""

from __future__ import annotations

import json
import os
import re
import tarfile
import zipfile
from bz2 import BZ2File
from collections.abc import Callable, Iterator
from gzip import GzipFile
from lzma import LZMAFile
from typing import Any

from resnest_cli.errors import ResNeStError
from resnest_cli.imaging.image_formats import is_image_name
from resnest_cli.inputs.members import (
    BROKEN,
    PARQUET,
    TAR,
    TAR_STREAM,
    ZIP,
    Member,
    decompressed,
    opened,
    parquet_file,
)
from resnest_cli.inputs.source import Source
from resnest_cli.inputs.stores import StoreError
from resnest_cli.inputs.walk import LeftOut

_TAR_STREAMS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_LONGEST_CLASS = 4096  # bytes
_PATHS = ("path", "file_name", "filename", "image_path")  # columns that name an image


def reader(name: str) -> Callable[[str, LeftOut], Iterator[Source]] | None:
    """What lists an archive's images, by the archive's name; None if it is no archive."""
    lower = name.lower()
    if lower.endswith((".tar", *_TAR_STREAMS)):
        return _tar
    if lower.endswith(".zip"):
        return _zip
    return _parquet if lower.endswith(".parquet") else None


def _cut(name: str, reason: object = "") -> Source:
    why = f" ({reason})" if reason else ""
    return Source(name, error=f"the archive is cut or damaged from here on{why}")


def _tar(name: str, left_out: LeftOut) -> Iterator[Source]:
    try:
        with decompressed(name) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            # by its content, as positions in a stream are not those in its file
            kind = TAR_STREAM if isinstance(file, (GzipFile, BZ2File, LZMAFile)) else TAR
            while (entry := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # or all are kept
                inner = f"{name}/{entry.name.removeprefix('./')}"
                if entry.isdir() or not is_taken(entry.name, left_out):
                    continue
                if not entry.isreg() or entry.sparse is not None:
                    yield Source(inner, error="a link or special file in an archive")
                else:
                    yield Source(inner, Member(kind, name, (entry.offset_data, entry.size)))
            file.seek(archive.offset)  # a bad header ends the iteration without a word
            if file.read(512) != bytes(512):
                yield _cut(name, "without an end mark")
    except (tarfile.TarError, ValueError, *BROKEN) as error:
        yield _cut(name, error)


def _zip(name: str, left_out: LeftOut) -> Iterator[Source]:
    cut = None
    with opened(name) as file:
        try:
            entries: Any = iter(zipfile.ZipFile(file).infolist())
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
            cut, entries = _cut(name, error), _headers(file)
        for entry in entries:
            if entry.is_dir() or not is_taken(entry.filename, left_out):
                continue
            inner = f"{name}/{entry.filename}"
            if entry.flag_bits & 1:
                yield Source(inner, error="encrypted in its archive")
            else:
                sizes = (entry.compress_size, entry.file_size)
                place = (entry.header_offset, *sizes, entry.compress_type, entry.CRC)
                yield Source(inner, Member(ZIP, name, place))
    if cut:
        yield cut


def _headers(file: Any) -> Iterator[zipfile.ZipInfo]:
    """The files of a zip archive without directory, as far as their own headers lead."""
    at = 0
    while True:
        file.seek(at)
        head = file.read(30)
        number = [int.from_bytes(head[i : i + 2], "little") for i in range(0, 30, 2)]
        if len(head) < 30 or head[:4] != b"PK\3\4" or number[3] & 8:  # 8: the sizes come later
            return
        raw = file.read(number[13])
        entry = zipfile.ZipInfo(raw.decode("utf-8" if number[3] & 0x800 else "cp437", "replace"))
        entry.flag_bits, entry.compress_type, entry.header_offset = number[3], number[4], at
        entry.CRC = int.from_bytes(head[14:18], "little")
        entry.compress_size = int.from_bytes(head[18:22], "little")
        entry.file_size = int.from_bytes(head[22:26], "little")
        yield entry
        at += 30 + number[13] + number[14] + entry.compress_size


def is_taken(name: str, left_out: LeftOut) -> bool:
    """Whether a file in an archive or a store is an image by its name; others are counted."""
    *folders, last = name.split("/")
    if last.startswith(".") or any(map(left_out.folder, folders)):
        return False
    if not is_image_name(last):
        left_out.file(last)
        return False
    return True


def _parquet(name: str, left_out: LeftOut) -> Iterator[Source]:
    try:
        file = parquet_file(name)
        column, path = _columns(file.schema_arrow)
        row = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            paths = [None] * count
            if path:
                texts = file.read_row_group(group, columns=[path]).column(0).to_pylist()
                paths = [text["path"] if isinstance(text, dict) else text for text in texts]
            for index, text in enumerate(paths):
                inner = f"{name}/{text}" if text else f"{name}#{row}"
                yield Source(inner, Member(PARQUET, name, (group, index), column))
                row += 1
    except (OSError, ValueError) as error:  # pyarrow's own are among them
        yield _cut(name, str(error).partition("\n")[0])
    except StoreError:
        raise
    except ResNeStError as error:
        yield Source(name, error="; ".join(str(error).splitlines()))


def _columns(schema: Any) -> tuple[str, str | None]:
    """The column of images, and what names them: bytes, or a struct of `bytes` and `path`."""
    import pyarrow.types as types

    def binary(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def fields(kind: Any) -> list[str]:
        return [f.name for f in kind] if types.is_struct(kind) else []

    found = [f for f in schema if binary(f.type) or "bytes" in fields(f.type)]
    chosen = [f for f in found if f.name == "image"] or found
    if len(chosen) != 1:
        names = ", ".join(f.name for f in found) or "none"
        raise ResNeStError(f"a column `image` of bytes is needed; columns of bytes: {names}")
    image = chosen[0]
    inner = fields(image.type)
    paths = [f"{image.name}.path"] if "path" in inner else [n for n in _PATHS if n in schema.names]
    column = f"{image.name}.bytes" if inner else image.name
    return column, paths[0] if paths else None


def parquet_labels(name: str) -> dict[tuple[int, ...], str]:
    """The classes in the column `label`, by row group and row; none without that column.

    Numbers are replaced by the names that Hugging Face's `ClassLabel` gives them.
    """
    file = parquet_file(name)
    if "label" not in file.schema_arrow.names:
        return {}
    try:
        stated = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])
        names = stated["info"]["features"]["label"]["names"]
    except (KeyError, ValueError, TypeError):
        names = []
    found: dict[tuple[int, ...], str] = {}
    for group in range(file.num_row_groups):
        values = file.read_row_group(group, columns=["label"]).column(0).to_pylist()
        for row, value in enumerate(values):
            if isinstance(value, int) and 0 <= value < len(names):
                value = names[value]
            if value is not None:
                found[group, row] = str(value)
    return found


def webdataset_classes(name: str) -> dict[str, str]:
    """The texts of a tar archive's files `KEY.cls`, by key."""
    found = {}
    with decompressed(name) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        while (entry := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # or all are kept
            key, _, suffix = entry.name.removeprefix("./").partition(".")
            if suffix == "cls" and entry.isreg() and entry.size < _LONGEST_CLASS:
                content = archive.extractfile(entry)
                assert content is not None
                found[key] = content.read().decode("utf-8", "replace").strip()
    return found


def inner_name(name: str) -> str:
    """The name in an archive of an image that is called so; the same if it lies in none."""
    found = re.search(r"\.(?:tar(?:\.(?:gz|bz2|xz))?|t(?:gz|bz2|xz)|zip|parquet)[/#]", name, re.I)
    return name[found.end() :] if found else name


def is_archive_file(name: str) -> bool:
    """Whether a name is that of an archive that can be read, and of a file."""
    return reader(name) is not None and os.path.isfile(name)
