"""Class names: ImageNet-1k's, or a file's with one name a line."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from resnest_cli.errors import LabelsError

_PACKAGE = Path(__file__).resolve().parent
# an installed package carries the folder inside, a checkout has it at the top level
_FOLDERS = (_PACKAGE / "data" / "labels", _PACKAGE.parent / "labels")


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
                "give --labels a file with one name a line, in the order of the classes"
            )


@cache
def imagenet1k() -> Labels:
    """ImageNet-1k's 1000 classes with their WordNet ids; no two names are the same."""
    path = next(f for folder in _FOLDERS if (f := folder / "imagenet1k.tsv").is_file())
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    columns = header.split("\t")
    rows = [dict(zip(columns, line.split("\t"), strict=True)) for line in lines]
    return Labels(tuple(r["name_unique"] for r in rows), tuple(r["wnid"] for r in rows))


def read_labels(path: Path) -> Labels:
    """The names in a text file, one a line; blank lines at the end don't count.

    Raises:
        LabelsError: the file cannot be read, is not UTF-8 text, or has a blank line between names.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise LabelsError(f"cannot read the labels in '{path}': {reason}") from error
    while lines and not lines[-1]:
        lines.pop()
    if not lines or "" in lines:
        where = f"line {lines.index('') + 1} is blank" if lines else "it is empty"
        raise LabelsError(f"'{path}' needs one class name a line, but {where}")
    return Labels(tuple(lines))


def numbered(num_classes: int) -> Labels:
    """Stand-in names, `class 0` and so on, for a network that carries none."""
    return Labels(tuple(f"class {index}" for index in range(num_classes)))
