"""The images of a file of vectors that are most similar to others."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from resnest_cli.catalog.demo import DEMO
from resnest_cli.catalog.variants import VARIANTS
from resnest_cli.embed.approximate import Approximate
from resnest_cli.embed.job import classifier_of, vectors_info
from resnest_cli.embed.nearest import nearest
from resnest_cli.embed.sheet import Group, Tile, check_sheet, write_sheet
from resnest_cli.embed.vectors import Vectors
from resnest_cli.engines.api import ModelSpec, RuntimeOptions
from resnest_cli.errors import ImageError, OutputError, UsageError, check_number
from resnest_cli.files import atomic_write, check_new, check_no_input, os_errors
from resnest_cli.imaging.decode_options import DEFAULT, DecodeOptions
from resnest_cli.imaging.preprocessing import PREPROCESSINGS
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inputs.discover import Inputs
from resnest_cli.outputs.formats import ROW_WRITERS, format_of
from resnest_cli.outputs.schema import NUMBER, TEXT, Column, PathSchema, Record
from resnest_cli.progress import SILENT, Progress
from resnest_cli.text import printable

FORMATS = ("table", "json", "jsonl", "csv", "tsv")
_AT_ONCE = 256  # images that are looked for together


@dataclass(frozen=True)
class SimilarSummary:
    """What a search came to."""

    done: int  # images that were looked for, failures included
    failed: int
    recall: float | None  # of an approximate search, measured on a sample, 0 to 1
    seconds: float


@dataclass(frozen=True)
class SimilarJob:
    """Images, vectors among which similar ones are looked for, and an output."""

    inputs: Inputs
    index: Path  # what an `EmbedJob` has written
    output: Path | None = None  # a file; default: standard output
    format: str | None = None  # one of `FORMATS`; default: by the suffix, else table
    top_k: int = 10
    model: ModelSpec | None = None  # default: the index's
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    decode: DecodeOptions = DEFAULT  # `allow_private` and `offline`; the others are the index's
    approximate: bool = False  # make and use an index that finds most of the nearest images
    sheet: Path | None = None  # .html or .png, a contact sheet
    overwrite: bool = False  # replace files that exist

    def run(self, progress: Progress = SILENT) -> SimilarSummary:
        """Look for every input.

        Raises:
            UsageError: options exclude each other or are out of range.
            OutputError: the index cannot be used, or a file cannot be written.
            ResNeStError: there is nothing to look for, or the network cannot be loaded.
        """
        fmt = self._checked_format()
        vectors = Vectors.read(self.index)
        sources = self.inputs.sources()
        classifier = self._classifier(vectors, progress)
        approximate = Approximate(self.index, vectors, progress) if self.approximate else None
        start, done, failed = time.monotonic(), 0, 0
        groups: list[Group] = []
        progress.start("looking for similar images")
        with _opened(self.output) as stream:
            writer: Any = _Table(stream)
            if fmt != "table":
                writer = ROW_WRITERS[fmt](stream, SimilarSchema(self.top_k))
            search = approximate.nearest if approximate else None
            for row in self._rows(vectors, classifier.features(sources), search):
                with os_errors("the results"):
                    writer.write(row)
                done += 1
                failed += row["error"] is not None
                if self.sheet:
                    groups.append(_group(row))
                progress.advance()
            writer.close()
        progress.finish()
        if self.sheet:
            write_sheet(self.sheet, "Similar images", groups, vectors.settings)
        recall = approximate.recall(self.top_k) if approximate else None
        return SimilarSummary(done, failed, recall, time.monotonic() - start)

    def _checked_format(self) -> str:
        check_number("top_k", self.top_k, 1, 1000)
        fmt = self.format or (format_of(self.output) if self.output else "table")
        if fmt not in FORMATS:
            raise UsageError(f"`format` must be one of {', '.join(FORMATS)}, not '{fmt}'")
        written = [path for path in (self.output, self.sheet) if path]
        for path in written:
            check_new(path, overwrite=self.overwrite)
        check_no_input(written, [*self.inputs.named, self.inputs.files_from, self.index])
        if self.sheet:
            check_sheet(self.sheet)
        return fmt

    def _classifier(self, vectors: Vectors, progress: Progress) -> Classifier:
        """One that gives vectors like those of the index; `OutputError` if there is none."""
        wanted = vectors.settings
        view, known = wanted["preprocessing"], {DEMO, *(variant.name for variant in VARIANTS)}
        model = self.model
        if model is None:
            model = ModelSpec(wanted["model"] if wanted["model"] in known else None)
        name = view["name"] if view["name"] in PREPROCESSINGS else "default"
        decode = DecodeOptions(
            wanted["exif"], wanted["background"] and tuple(wanted["background"]),
            wanted["max_pixels"], wanted["fast_jpeg"], stretch=wanted["stretch"],
            allow_private=self.decode.allow_private, offline=self.decode.offline,
        )  # fmt: skip
        model = replace(model, offline=self.decode.offline)
        sized = replace(model, preprocess=name, crop=view["crop"], resize=view["resize"])
        for spec in (model, sized):  # the first is prepared for an engine already, as a rule
            classifier = classifier_of(spec, self.runtime, decode, progress)
            found = vectors_info(classifier).settings
            if found["weights_sha256"] != wanted["weights_sha256"]:
                raise OutputError(
                    f"'{self.index}' was made with other weights than those of "
                    f"{classifier.config.name}: {wanted['model']}, SHA-256 "
                    f"{wanted['weights_sha256'][:16]}...\nname that checkpoint as `model`"
                )
            if found["preprocessing"] == view:
                return classifier
        raise OutputError(f"'{self.index}' was made with other preprocessing\nmake it again")

    def _rows(
        self, vectors: Vectors, found: Iterator[tuple[Any, Any]], search: Any
    ) -> Iterator[Record]:
        while some := [*islice(found, _AT_ONCE)]:
            queries = [v for _, v in some if not isinstance(v, ImageError)]
            stacked = np.stack(queries) if queries else np.empty((0, 1), np.float32)
            if search:
                rows, similarities = search(stacked, self.top_k)
            else:
                rows, similarities = nearest(vectors.values, stacked, self.top_k)
            pairs = iter(zip(rows, similarities, strict=True))
            for source, vector in some:
                if isinstance(vector, ImageError):
                    yield {"path": source.name, "similar": [], "error": str(vector)}
                    continue
                similar = [
                    {"rank": rank, "path": vectors.paths[row], "similarity": float(str(cosine))}
                    for rank, (row, cosine) in enumerate(zip(*next(pairs), strict=True), 1)
                    if row >= 0
                ]
                yield {"path": source.name, "similar": similar, "error": None}


class SimilarSchema(PathSchema):
    """Rows of similar images: a path, `top_k` ranks, an error."""

    def __init__(self, top_k: int) -> None:
        path, error = PathSchema.columns
        kinds = {"similar": TEXT, "similarity": NUMBER}
        ranked = [
            Column(f"{name}_{rank}", kind)
            for rank in range(1, top_k + 1)
            for name, kind in kinds.items()
        ]
        self.columns = [path, *ranked, error]

    def flat(self, record: Record) -> list[Any]:
        """A row's cells, in the order of `columns`."""
        cells = [record["path"]]
        for one in record["similar"]:
            cells += [one["path"], one["similarity"]]
        cells += [None] * (len(self.columns) - 1 - len(cells))
        return [*cells, record["error"]]


class _Table:
    """Rows as plain text for people."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, row: Record) -> None:
        lines = [printable(row["path"])]
        lines += [
            f"  {one['rank']:>3}  {one['similarity']:>7.4f}  {printable(one['path'])}"
            for one in row["similar"]
        ]
        if row["error"]:
            lines.append(f"  error: {printable(row['error'])}")
        self._stream.write("\n".join([*lines, ""]).encode("utf-8", "backslashreplace"))
        self._stream.flush()

    def close(self) -> None:
        """Nothing ends a table."""


@contextmanager
def _opened(path: Path | None) -> Iterator[IO[bytes]]:
    if path is None:
        yield sys.stdout.buffer
        return
    with atomic_write(path) as beside, beside.open("wb") as file:
        yield file


def _group(row: Record) -> Group:
    tiles = [Tile(row["path"], "looked for")]
    tiles += [
        Tile(one["path"], f"{one['rank']}: {one['similarity']:.4f}") for one in row["similar"]
    ]
    error = f": {row['error']}" if row["error"] else ""
    return Group(f"{row['path']}{error}", tiles)
