"""Images that occur more than once in folders: exact copies, and near-duplicates by their pixels.

The network's features only propose pairs; each is confirmed on the pixels (see `embed.confirm`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from resnest_cli.embed.confirm import Look, Match, kind, look, match
from resnest_cli.embed.pairs import complete_groups, similar_pairs
from resnest_cli.embed.sheet import Group, Tile, write_sheet
from resnest_cli.embed.verdicts import (
    DUPLICATE,
    KEEP,
    Verdicts,
    pair,
    read_verdicts,
    write_verdicts,
)
from resnest_cli.engines.api import FEATURES, ModelSpec, RuntimeOptions
from resnest_cli.errors import ImageError, check_number
from resnest_cli.files import check_new, writable_folder, write_csv
from resnest_cli.imaging.decode_options import DEFAULT, DecodeOptions
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inputs.discover import Inputs, walk_ahead
from resnest_cli.inputs.members import Member
from resnest_cli.inputs.source import Source
from resnest_cli.inputs.walk import LeftOut
from resnest_cli.progress import SILENT, Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

ROWS, SHEET, VERDICTS = "duplicates.csv", "duplicates.html", "verdicts.csv"
COLUMNS = (
    "group", "path", "kind", "distance", "width", "height", "bytes", "verdict", "error",
    "content", "of",
)  # fmt: skip
DISTANCE = 0.2  # the greatest within a group
_COSINE = 0.5  # the least of a pair that is looked at
_PARTNERS = 12  # of an image that are looked at, nearest first


@dataclass
class Seen:
    """An image that was read: what is compared of it."""

    path: str
    content: str  # SHA-256 of its size and pixels, in hex digits
    look: Look
    file: Path | None
    vector: NDArray[np.float32]  # of length 1

    @property
    def bytes(self) -> int | None:
        """The size of its file, unless that is an archive."""
        try:
            return self.file.stat().st_size if self.file else None
        except OSError:
            return None


@dataclass(frozen=True)
class Twin:
    """An image of a group."""

    image: Seen
    kind: str  # `kept` for the one that represents the group, else what distinguishes it from that
    distance: float  # from the kept one, 0 to 1
    verdict: str = ""


@dataclass(frozen=True)
class Found:
    """What a search has found."""

    groups: list[list[Twin]]  # the kept image first
    failed: list[tuple[str, str]]  # path and reason
    images: int
    left_out: LeftOut
    again: int = 0  # paths that lead to a file of another path, which are not looked at

    @property
    def exact(self) -> int:
        """How many images repeat a kept one to the pixel."""
        return sum(twin.kind == "exact" for group in self.groups for twin in group)

    @property
    def near(self) -> int:
        """How many images are near-duplicates of a kept one."""
        return sum(len(group) - 1 for group in self.groups) - self.exact


@dataclass(frozen=True)
class _Noted(Source):
    """A source whose pixels are noted when they are read."""

    notes: list[tuple[str, Look]] = field(default_factory=list, compare=False)

    def load(self, options: DecodeOptions) -> Image.Image:
        """The image in mode RGB."""
        image = super().load(options)
        self.notes[:] = [(content_of(image), look(image))]
        return image


@dataclass(frozen=True)
class DuplicatesJob:
    """Inputs, a model and a folder: all that decides a search."""

    inputs: Inputs
    output: Path  # a folder, which is made
    distance: float = DISTANCE
    verdicts: Path | None = None  # of another search, besides those in `output`
    model: ModelSpec = field(default_factory=ModelSpec)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    decode: DecodeOptions = DEFAULT
    overwrite: bool = False  # replace an earlier list and sheet; verdicts stay

    def run(self, progress: Progress = SILENT) -> Found:
        """Search, and write the list, the sheet and the verdicts so far.

        Raises:
            UsageError: verdicts cannot be read.
            OutputError: the folder cannot be written, or holds a list already.
            ResNeStError: there is nothing to look at, or the network cannot be loaded.
        """
        check_number("distance", self.distance, 0, 1, whole=False)
        if self.output.is_dir():
            for name in (ROWS, SHEET):
                check_new(self.output / name, overwrite=self.overwrite)
        verdicts: Verdicts = {}
        given = [self.verdicts] if self.verdicts else []
        stored = [self.output / VERDICTS, self.output / ROWS]
        for file in [*(file for file in stored if file.exists()), *given]:
            verdicts |= read_verdicts(file)
        left_out = LeftOut()
        again: list[str] = []
        sources = _once(self.inputs.sources(left_out), again)
        runtime = replace(self.runtime, hint="throughput")
        classifier = Classifier.from_specs(self.model, runtime, self.decode, progress=progress)
        writable_folder(self.output)
        images, failed = _read(classifier, sources, progress)
        groups = find_groups(images, self.distance, verdicts)
        found = Found(groups, failed, len(images), left_out, len(again))
        if verdicts:
            write_verdicts(self.output / VERDICTS, verdicts)
        write_csv(self.output / ROWS, COLUMNS, _rows(found))
        settings = {name: getattr(self.decode, name) for name in ("exif", "max_pixels", "stretch")}
        title = f"Duplicates: {found.exact:,} exact, {found.near:,} near"
        write_sheet(self.output / SHEET, title, [*_sections(found)], settings)
        return found


def content_of(image: Image.Image) -> str:
    """The SHA-256 of an image's size and pixels, in hex digits."""
    head = f"{image.mode} {image.width} {image.height} ".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


def find_groups(images: list[Seen], most: float, verdicts: Verdicts) -> list[list[Twin]]:
    """Groups in which every pair is an exact copy or at most `most` apart."""
    copies: dict[str, list[Seen]] = {}
    for image in images:
        copies.setdefault(image.content, []).append(image)
    firsts = [same[0] for same in copies.values()]
    matches: dict[tuple[int, int], Match] = {}

    def compared(i: int, j: int) -> Match:
        if (i, j) not in matches:
            matches[i, j] = match(firsts[i].look, firsts[j].look, most)
        return matches[i, j]

    def distance(i: int, j: int) -> float:
        kept = verdicts.get(pair(firsts[i].content, firsts[j].content)) == KEEP
        return 2.0 if kept else compared(i, j).distance

    pairs: list[list[int]] = []
    if firsts:
        found, _ = similar_pairs(np.stack([f.vector for f in firsts]), _COSINE, _PARTNERS)
        pairs = found.tolist()
    near = complete_groups(((i, j) for i, j in pairs), distance, most)
    grouped = {i for group in near for i in group}
    alone = [[i] for i in range(len(firsts)) if i not in grouped]
    made = []
    for members in sorted(near + alone):
        best = max(members, key=lambda i: (np.prod(firsts[i].look.size), -i))
        twins = _copies(copies[firsts[best].content], verdicts)
        for i in members:
            if i != best:
                how = compared(min(i, best), max(i, best))
                same = [twin.image for twin in _copies(copies[firsts[i].content], verdicts)]
                twins += [_twin(firsts[best], image, how, verdicts) for image in same]
        if len(twins) > 1:
            made.append(twins)
    return made


def _copies(same: list[Seen], verdicts: Verdicts) -> list[Twin]:
    """An image and its exact copies, unless those are to be kept and not asked about again."""
    kept = same[0]
    others = [] if verdicts.get(pair(kept.content, kept.content)) == KEEP else same[1:]
    return [
        Twin(kept, "kept", 0.0),
        *(_twin(kept, copy, Match(0.0), verdicts) for copy in others),
    ]


def _twin(kept: Seen, other: Seen, how: Match, verdicts: Verdicts) -> Twin:
    exact = kept.content == other.content
    what = "exact" if exact else kind(kept.look, other.look, how)
    verdict = verdicts.get(pair(kept.content, other.content), "")
    return Twin(other, what, how.distance, verdict if verdict == DUPLICATE else "")


def _read(
    classifier: Classifier, sources: Iterator[Source], progress: Progress
) -> tuple[list[Seen], list[tuple[str, str]]]:
    """The images with their features, and those that failed."""
    images: list[Seen] = []
    failed: list[tuple[str, str]] = []
    progress.start("looking")
    if progress.wants_total:
        sources = walk_ahead(sources, progress.total)
    noted = (_Noted(s.name, s.content, s.error, s.empty) for s in sources)
    try:
        for source, given in classifier.outputs(noted, (FEATURES,)):
            if isinstance(given, ImageError):
                failed.append((source.name, str(given)))
            elif not np.isfinite(given[0]).all():
                failed.append((source.name, "the network's output is not a number"))
            else:
                vector = given[0] / max(float(np.linalg.norm(given[0])), 1e-12)
                [(content, kept)] = cast(_Noted, source).notes
                file = source.content if isinstance(source.content, Path) else None
                images.append(Seen(source.name, content, kept, file, vector))
            progress.advance()
    finally:
        progress.finish()
    return images, failed


def _once(sources: Iterator[Source], again: list[str]) -> Iterator[Source]:
    """The sources without further paths to the same files, which go to `again`.

    One who deletes a file because a link to it is an exact copy loses both.
    """
    seen: set[object] = set()
    for source in sources:
        content = source.content
        where = os.path.realpath(content) if isinstance(content, Path) else content
        if isinstance(where, str | Member):
            if where in seen:
                again.append(source.name)
                continue
            seen.add(where)
        yield source


def _rows(found: Found) -> Iterator[tuple[object, ...]]:
    for number, group in enumerate(found.groups, 1):
        kept = group[0].image
        for twin in group:
            image = twin.image
            of = "" if twin.kind == "kept" else kept.content
            yield (
                number, image.path, twin.kind, round(twin.distance, 4), *image.look.size,
                image.bytes, twin.verdict, "", image.content, of,
            )  # fmt: skip
    for path, reason in found.failed:
        yield ("", path, "", "", "", "", "", "", reason, "", "")


def _sections(found: Found) -> Iterator[Group]:
    for number, group in enumerate(found.groups, 1):
        tiles = []
        for twin in group:
            size = "{} x {}".format(*twin.image.look.size)
            apart = "" if twin.kind in ("kept", "exact") else f", distance {twin.distance:.3f}"
            tiles.append(Tile(twin.image.path, f"{twin.kind}{apart}, {size}"))
        yield Group(f"Group {number}", tiles)
