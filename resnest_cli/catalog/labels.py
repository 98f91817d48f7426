"""Class names: ImageNet-1k's, or those of a text file, one a line."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from resnest_cli.catalog.demo import bundled
from resnest_cli.errors import LabelsError


@dataclass(frozen=True)
class Labels:
    """The names of a network's classes, in the order of its outputs."""

    names: tuple[str, ...]
    wnids: tuple[str, ...] | None = None  # WordNet ids, where the classes have them

    def __len__(self) -> int:
        return len(self.names)

    def check(self, num_classes: int, origin: str) -> None:
        """Raise `LabelsError` unless there is one name for each class of the network."""
        if len(self) != num_classes:
            raise LabelsError(
                f"{origin} has {len(self):,} names, but the network has {num_classes:,} classes; "
                "`labels` takes a file with one name a line, in the order of the classes"
            )


@cache
def imagenet1k() -> Labels:
    """ImageNet-1k's 1000 classes with their WordNet ids; no two names are the same."""
    lines = bundled("labels/imagenet1k.tsv").read_text(encoding="utf-8").splitlines()
    rows = [
        line.split("\t") for line in lines[1:]
    ]  # index, WordNet id, name on the Hub, unique name
    return Labels(tuple(row[3] for row in rows), tuple(row[1] for row in rows))


def read_labels(path: Path) -> Labels:
    """The names in a text file, one a line; blank lines are ignored at the end only."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise LabelsError(f"cannot read the labels in '{path}': {reason}") from error
    while lines and not lines[-1]:
        lines.pop()
    if not lines or "" in lines:
        where = f"line {lines.index('') + 1} is blank" if lines else "it is empty"
        raise LabelsError(f"'{path}' needs one class name a line, but {where}")
    return Labels(tuple(lines))


def numbered(num_classes: int) -> Labels:
    """Placeholder names, `class 0` and so on, for a network without class names."""
    return Labels(tuple(f"class {index}" for index in range(num_classes)))
