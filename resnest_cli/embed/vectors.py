"""Vectors of images in files: NumPy, safetensors or Parquet, appended to and read back.

Beside FILE stand FILE.run.json, what gave the vectors, and, but for Parquet, which has them inside,
FILE.names.csv: each row's path and error. An image that failed has a row of NaN (in Parquet:
null), so that row numbers are those of the inputs.

During a run the vectors are in FILE.journal. It becomes FILE at the end: only its head changes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from resnest_cli.errors import OutputError, UsageError
from resnest_cli.files import PLAIN, atomic_write, csv_line, os_errors
from resnest_cli.outputs.formats import CSVWriter
from resnest_cli.outputs.run_info import RunInfo
from resnest_cli.outputs.schema import PathSchema
from resnest_cli.outputs.sink import journal_path
from resnest_cli.text import utf8

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

FORMATS = (".npy", ".safetensors", ".parquet")
KEY = "resnest"  # of the provenance in the metadata of safetensors and Parquet
NAME = "vectors"  # of the tensor in safetensors

_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, OutputError, struct.error)
_NPY_HEAD, _MAGIC = 128, b"\x93NUMPY\x01\x00"
_MOST_ROWS = 10**15  # for which a head has room
_GROUP = 8_000_000  # numbers in a row group of Parquet: what is held in memory at once


@dataclass(frozen=True)
class Vectors:
    """The vectors of images, in the order of the inputs."""

    paths: Sequence[str]
    errors: Sequence[str | None]  # why an image has no vector
    values: NDArray[np.float32]  # (images, channels); NaN where there is an error
    settings: Mapping[str, Any]  # which model, preprocessing and engine gave them

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Which images have a vector."""
        return np.array([error is None for error in self.errors], bool)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Vectors:
        """What an `EmbedJob` has written; of .npy and .safetensors the values stay on disk.

        Raises:
            OutputError: the file is missing, unfinished, damaged or no such file.
            UsageError: its suffix is unknown.
        """
        path = Path(path)
        suffix = suffix_of(path)
        if not path.is_file():
            unfinished = journal_path(path).is_file()
            why = "is unfinished: let embed continue it" if unfinished else "does not exist"
            raise OutputError(f"'{path}' {why}")
        if suffix != ".parquet" and not names_path(path).is_file():
            raise OutputError(
                f"'{path}' lacks '{names_path(path)}', the paths of its vectors\n"
                "name a file that embed wrote, with those beside it"
            )
        try:
            if suffix == ".parquet":
                return _read_parquet(path)
            values = _loaded(path) if suffix == ".npy" else _mapped(path)
            names = [*_names(names_path(path))]
            settings = RunInfo.read(path).settings
            if settings["output"] != "features":
                raise ValueError("its record is of something else")
        except _DAMAGED as error:
            raise OutputError(f"'{path}' does not hold vectors of images: {error}") from error
        if values.ndim != 2 or values.dtype != np.float32 or len(values) != len(names):
            raise OutputError(f"'{path}' and '{names_path(path)}' do not belong together")
        paths, errors = [path for path, _ in names], [error for _, error in names]
        return cls(paths, errors, values, settings)


class VectorFile:
    """Vectors that are appended to a journal, of which a file is made at the end.

    Args:
        path: the file, which ends in one of `FORMATS`.
        info: its record, which goes into the file's metadata.
        rows: vectors of earlier runs that are kept.

    Raises:
        OutputError: what is there does not hold that many.
    """

    def __init__(self, path: Path, info: RunInfo, rows: int) -> None:
        self._path, self._name, self.rows = path, f"'{path}'", rows
        self._channels: int = info.settings["channels"]
        self._made = {"settings": dict(info.settings), "tool": info.tool}
        self._journal = journal_path(path)
        with os_errors(self._name):
            self._file = self._opened()

    def append(self, vector: NDArray[np.float32] | None) -> None:
        """Append a vector (channels); None is a row without one."""
        if vector is None:
            vector = np.full(self._channels, np.nan, np.float32)
        with os_errors(self._name):
            self._file.write(vector.astype("<f4", copy=False).tobytes())
            self._file.flush()
        self.rows += 1

    def finish(self) -> None:
        """Make the file."""
        if self._path.suffix.lower() == ".parquet":
            with atomic_write(self._path) as beside:
                self._write_parquet(beside)
            self.close()
            names_path(self._path).unlink()
            self._journal.unlink()
            return
        with atomic_write(self._path) as beside:
            self._file.seek(0)
            self._file.write(self._head())
            self.close()
            self._journal.replace(beside)

    def close(self) -> None:
        """Let go of the journal; what was written stays."""
        with suppress(OSError):
            self._file.close()

    def _opened(self) -> IO[bytes]:
        """The journal, after the rows that are kept."""
        if self.rows and self._path.suffix.lower() != ".parquet" and not self._journal.exists():
            with suppress(FileNotFoundError):
                self._path.replace(self._journal)
        file = self._journal.open("r+b" if self.rows and self._journal.exists() else "w+b")
        end = len(self._head()) + self.rows * self._channels * 4
        if self.rows and file.seek(0, 2) < end:
            file.close()
            raise OutputError(
                f"{self._name} cannot be resumed: vectors are missing"
                "\nstart from scratch with `overwrite`"
            )
        file.truncate(end)
        file.seek(end)
        self._path.unlink(missing_ok=True)
        return file

    def _head(self) -> bytes:
        """What precedes the numbers; its length does not depend on their count."""
        if self._path.suffix.lower() == ".npy":
            shape = f"({self.rows}, {self._channels})"
            text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
            length = _NPY_HEAD - len(_MAGIC) - 2
            return _MAGIC + struct.pack("<H", length) + f"{text:<{length - 1}}\n".encode()
        if self._path.suffix.lower() == ".safetensors":
            length = (len(self._safetensors_head(_MOST_ROWS)) + 7) // 8 * 8
            return struct.pack("<Q", length) + self._safetensors_head(self.rows).ljust(length)
        return b""

    def _safetensors_head(self, rows: int) -> bytes:
        tensor = {
            "dtype": "F32", "shape": [rows, self._channels],
            "data_offsets": [0, rows * self._channels * 4],
        }  # fmt: skip
        return json.dumps({"__metadata__": {KEY: json.dumps(self._made)}, NAME: tensor}).encode()

    def _write_parquet(self, target: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kind = pa.list_(pa.float32(), self._channels)
        columns = [("path", pa.string()), ("error", pa.string()), ("vector", kind)]
        schema = pa.schema(columns, metadata={KEY: json.dumps(self._made)})
        names = _names(names_path(self._path))
        self._file.seek(0)
        with pq.ParquetWriter(target, schema, compression="none", use_dictionary=False) as writer:
            while group := [*islice(names, max(_GROUP // self._channels, 1))]:
                stored = self._file.read(len(group) * self._channels * 4)
                missing = pa.array([error is not None for _, error in group])
                vectors = pa.FixedSizeListArray.from_arrays(
                    pa.array(np.frombuffer(stored, "<f4")), type=kind, mask=missing
                )
                paths, errors = (
                    pa.array(column, pa.string()) for column in zip(*group, strict=True)
                )
                writer.write_table(pa.Table.from_arrays([paths, errors, vectors], schema=schema))


def suffix_of(path: Path) -> str:
    """The suffix of a file of vectors; `UsageError` if it is none of `FORMATS`."""
    if (suffix := path.suffix.lower()) not in FORMATS:
        raise UsageError(f"vectors are in files that end in {', '.join(FORMATS)}, not '{path}'")
    return suffix


def names_path(path: Path) -> Path:
    """Where the paths and errors of a file's vectors are."""
    return path.with_name(path.name + ".names.csv")


def unpack(path: Path) -> None:
    """Make the journal and the names of a finished Parquet file, so that it can be continued.

    Raises:
        OutputError: it cannot be read, or they cannot be written.
    """
    journal, names = journal_path(path), names_path(path)
    try:
        with atomic_write(names) as text, text.open("wb") as rows:
            rows.write(csv_line(["path", "error"]).encode())
            with atomic_write(journal) as beside, beside.open("wb") as file:
                for paths, errors, values in _parquet_parts(path):
                    file.write(values.tobytes())
                    pairs = zip(paths, errors, strict=True)
                    rows.writelines(csv_line([p, error or ""]).encode() for p, error in pairs)
    except ValueError as error:
        raise OutputError(f"'{path}' cannot be resumed: {error}") from error


def _names(path: Path) -> Iterator[tuple[str, str | None]]:
    """Each row's path and error."""
    with path.open("rb") as file:
        for record, _ in CSVWriter.finished_rows(file, PathSchema(), PLAIN):
            yield utf8(record["path"]), record["error"]


def _loaded(path: Path) -> NDArray[np.float32]:
    """The array in a NumPy file; one that could run code is not loaded."""
    with path.open("rb") as file:
        if file.read(6) != _MAGIC[:6]:
            raise ValueError("it is no NumPy file")
    values: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return values


def _mapped(path: Path) -> NDArray[np.float32]:
    """The tensor in a safetensors file."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > 2**26:
            raise ValueError("it is no safetensors file")
        tensor = json.loads(file.read(length))[NAME]
    shape, offset = tuple(tensor["shape"]), 8 + length + tensor["data_offsets"][0]
    if tensor["dtype"] != "F32":
        raise ValueError("its vectors are not float32")
    if not all(shape):
        return np.empty(shape, np.float32)
    return np.memmap(path, np.dtype("<f4"), "r", offset, shape)


def _parquet_parts(
    path: Path,
) -> Iterator[tuple[list[str], list[str | None], NDArray[np.float32]]]:
    """Paths, errors and vectors of a Parquet file, some at a time; `ValueError` if it has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            channels = file.schema_arrow.field("vector").type.list_size
            for part in file.iter_batches(max(_GROUP // channels, 1)):
                errors = part["error"].to_pylist()
                valid = np.array([error is None for error in errors], bool)
                values = np.full((len(part), channels), np.nan, np.float32)
                there = part["vector"].filter(pa.array(valid)).flatten()
                values[valid] = there.to_numpy().reshape(-1, channels)
                yield part["path"].to_pylist(), errors, values
    except (pa.ArrowException, AttributeError, KeyError) as error:
        raise ValueError(f"it is no Parquet file of vectors ({error})") from error


def _read_parquet(path: Path) -> Vectors:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            kept = (file.schema_arrow.metadata or {}).get(KEY.encode())
            if kept is None:
                raise ValueError("embed did not write it")
            made = json.loads(kept)
            rows = file.metadata.num_rows
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    values = np.empty((rows, made["settings"]["channels"]), np.float32)
    paths: list[str] = []
    errors: list[str | None] = []
    for more, why, part in _parquet_parts(path):
        values[len(paths) : len(paths) + len(more)] = part
        paths += more
        errors += why
    return Vectors(paths, errors, values, made["settings"])
