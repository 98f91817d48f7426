"""The rows of a page as columns, whose repeated texts are numbers of a list."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from resnest_cli.catalog.labels import Labels
from resnest_cli.datasets.class_names import match
from resnest_cli.datasets.labelled_folder import LabelledFolder
from resnest_cli.errors import DatasetError
from resnest_cli.inputs.source import Source
from resnest_cli.inputs.thumbnails import Drawn
from resnest_cli.report.rows import Map, source_of
from resnest_cli.results import Result

_RANKS = 5
_MOST_CLASSES = 1_000_000


class Truth:
    """The true class of each image of a labelled folder."""

    def __init__(self, folder: LabelledFolder) -> None:
        images = folder.read()
        self.classes, self.folder = images.classes, folder.path
        pairs = zip(images.paths, images.targets, strict=True)
        self._of = {os.path.abspath(path): target for path, target in pairs}  # noqa: PTH100

    def of(self, path: str) -> int:
        """The number of an image's class, or -1."""
        return self._of.get(os.path.abspath(path), -1)  # noqa: PTH100

    def matched(self, seen: Iterable[tuple[int, str, str | None]]) -> list[int | None]:
        """For each class the index of that of the network, of those in the results, if it is one.

        `seen` are these: index, label and WordNet id.
        """
        known = {i: (label, wnid or "") for i, label, wnid in seen if 0 <= i < _MOST_CLASSES}
        both = [known.get(i, ("", "")) for i in range(max(known, default=-1) + 1)]
        labels = Labels(tuple(name for name, _ in both), tuple(wnid for _, wnid in both))
        return [index if index in known else None for index in match(self.classes, labels)]


@dataclass
class Columns:
    """What a page holds of the rows."""

    folder: Path  # from which the page's links start
    truth: Truth | None = None
    maps: Mapping[str, Map] | None = None
    paths: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    error: list[int] = field(default_factory=list)
    true: list[int] = field(default_factory=list)
    map_urls: list[str] = field(default_factory=list)
    map_names: list[str] = field(default_factory=list)
    ranks: list[dict[str, list[Any]]] = field(default_factory=list)
    labels: dict[tuple[str, int], int] = field(default_factory=dict)
    wnids: dict[int, str | None] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)

    def add(self, row: Result) -> tuple[Source | None, ...]:
        """Add a row; its image, and the drawing of its map if there are any."""
        number, source = len(self.paths), source_of(row.path)
        own = source is not None and isinstance(source.content, Path)
        self.paths.append(row.path)
        self.urls.append(_link(Path(row.path).absolute(), self.folder) if own else "")
        known = self.errors
        self.error.append(-1 if row.error is None else known.setdefault(row.error, len(known)))
        if self.truth:
            self.true.append(self.truth.of(row.path))
        for rank, prediction in enumerate(row.predictions[:_RANKS]):
            if rank == len(self.ranks):
                self.ranks.append({"label": [-1] * number, "p": [None] * number})
            self.wnids[prediction.index] = prediction.wnid
            self.ranks[rank]["label"].append(self._label(prediction.label, prediction.index))
            self.ranks[rank]["p"].append(prediction.probability)
        for rank_ in self.ranks[len(row.predictions) :]:
            rank_["label"].append(-1)
            rank_["p"].append(None)
        image = source if row.error is None else None
        return (image,) if self.maps is None else (image, self._map(row.path))

    def encoded(self, **more: Any) -> str:
        """All of it as JSON that ends no element of HTML."""
        data: dict[str, Any] = {
            "paths": self.paths, "urls": self.urls, "ranks": self.ranks,
            "error": self.error, "errors": list(self.errors),
        }  # fmt: skip
        if self.truth:
            seen = [(i, label, self.wnids[i]) for label, i in self.labels if i >= 0]
            numbers = {i: number for (_, i), number in self.labels.items()}
            classes = [
                numbers[i] if i is not None else self._label(name, -1)
                for name, i in zip(self.truth.classes, self.truth.matched(seen), strict=True)
            ]
            data["true"] = [classes[i] if i >= 0 else -1 for i in self.true]
            if self.paths and not any(i >= 0 for i in self.true):
                raise DatasetError(
                    f"no image of the results is in '{self.truth.folder}'\n"
                    "paths in the results count from the current folder"
                )
        if self.maps is not None:
            data |= {"mapUrls": self.map_urls, "mapNames": self.map_names}
        count = Counter(label for label, _ in self.labels)
        data["labels"] = [
            f"{name} ({i})" if count[name] > 1 and i >= 0 else name for name, i in self.labels
        ]
        text = json.dumps(data | more, separators=(",", ":"))
        return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")

    def _label(self, name: str, index: int) -> int:
        return self.labels.setdefault((name, index), len(self.labels))

    def _map(self, path: str) -> Source | None:
        found = (self.maps or {}).get(path)
        if found is None or not found.file.is_file():
            self.map_urls.append("")
            self.map_names.append("")
            return None
        self.map_urls.append(_link(found.file.absolute(), self.folder))
        self.map_names.append(found.name)
        return Drawn(path, found.file, shown=found.size)


def _link(file: Path, folder: Path) -> str:
    """The address of a file, from a folder if both are on one disk."""
    try:
        return quote(os.fsencode(Path(os.path.relpath(file, folder)).as_posix()))
    except ValueError:
        return file.as_uri()
