"""Labelled pictures: class folders, splits, lists of truths, and which of them can be read."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from resnest_cli.errors import DatasetError, ImageError, UsageError
from resnest_cli.sources import expand
from resnest_cli.writers import printable

_NO_UTF8 = re.compile("[\udc80-\udcff]")  # bytes that were no UTF-8, as Python keeps them
_WNID = re.compile(r"n\d{8}\b")
# behind a WordNet id Kaggle's list has a box, four numbers, for each thing in the picture
_BOXES = re.compile(r"(?<=^n\d{8})( \d+){4}( n\d{8}( \d+){4})*$")
_VALIDATION_FOLDERS = ("val", "valid", "validation", "test")
_PARTS = {*_VALIDATION_FOLDERS, "train", "training", "testing"}  # of data sets, in any letters


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures and the class of each, an index into `classes`."""

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    targets: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def counts(self) -> tuple[int, ...]:
        """Pictures of each class."""
        found = Counter(self.targets)
        return tuple(found[index] for index in range(len(self.classes)))

    def digest(self) -> str:
        """A fingerprint of the classes and of which picture is of which, wherever they lie."""
        lines = [*self.classes, *(f"{_below_class(p)}\0{t}" for p, t in self._pairs())]
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def _pairs(self) -> Iterable[tuple[str, int]]:
        return zip(self.paths, self.targets, strict=True)

    def select(self, indices: Iterable[int]) -> LabelledPictures:
        """Some of the pictures, in the order given, of the same classes."""
        chosen = list(indices)
        return replace(
            self,
            paths=tuple(self.paths[i] for i in chosen),
            targets=tuple(self.targets[i] for i in chosen),
        )

    def without(self, paths: Iterable[str]) -> LabelledPictures:
        """All pictures but these."""
        left_out = set(paths)
        return self.select(i for i, path in enumerate(self.paths) if path not in left_out)

    def with_classes(self, classes: Sequence[str]) -> LabelledPictures:
        """The same pictures, their classes numbered as in `classes`, which must hold them all."""
        index = {name: number for number, name in enumerate(classes)}
        numbers = [index.get(name, -1) for name in self.classes]
        return replace(
            self, classes=tuple(classes), targets=tuple(numbers[target] for target in self.targets)
        )


def check_apart(output: Path, data: Iterable[Path | None]) -> None:
    """Raise `UsageError` if what is written would lie in one of these folders of pictures."""
    for folder in data:
        if folder is not None and output.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"the output folder '{output}' lies in '{folder}', and would be taken for a class\n"
                "give a folder elsewhere with --output"
            )


def read_class_folders(folder: Path) -> LabelledPictures:
    """Pictures in folders that are named for their classes, each searched to any depth.

    Classes are sorted by name. A class folder without any picture is one of `classes` all the same.

    Raises:
        DatasetError: there is no such folder, or it has no class folders.
    """
    _check_folder(folder)
    classes = _folders(folder)
    if not classes:
        hint = "the pictures lie in it side by side" if any(folder.iterdir()) else "it is empty"
        raise DatasetError(
            f"'{folder}' has no class folders: {hint}\n"
            "put the pictures of each class into a folder of its own, as in "
            f"{folder.name or 'DATA'}/cat/1.jpg"
        )
    if len(classes) > 1 and all(name.casefold() in _PARTS for name in classes):
        raise DatasetError(
            f"'{folder}' holds parts of a data set, not classes: {listed(classes)}\n"
            f"give the one that is meant, such as '{folder / classes[-1]}', with a folder for each "
            "class in it"
        )
    if len(classes) == 1 and len(_folders(folder / classes[0])) > 1:
        raise DatasetError(
            f"'{folder}' has one class folder, {listed(classes)}, with folders in it\n"
            f"are they the classes? then give '{folder / classes[0]}'"
        )
    found = [
        (path, target) for target, name in enumerate(classes) for path in _pictures(folder / name)
    ]
    if not found:
        raise DatasetError(f"the class folders of '{folder}' hold no picture")
    paths, targets = zip(*found, strict=True)
    return LabelledPictures(tuple(classes), paths, targets)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "is not there"
        raise DatasetError(f"'{folder}' {what}")


def _folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, hidden ones left out."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    for name in names:
        if _NO_UTF8.search(name):
            raise DatasetError(
                f"a folder's name is not UTF-8: '{printable(str(folder / name))}'; rename it"
            )
    return names


def _pictures(folder: Path) -> Iterator[str]:
    """The paths of the pictures below a folder, to any depth."""
    for source in expand([str(folder)]):
        if source.error and not source.empty:
            raise DatasetError(f"'{source.name}' cannot be searched: {source.error}")
        if not source.empty:
            yield source.name


def find_parts(data: Path, val: Path | None) -> tuple[Path, Path | None]:
    """The folders to train on and to validate on; None where the first is to be split.

    `data` holds class folders, or `train/` and perhaps one of `val/`, `valid/`, `validation/`,
    `test/`.
    """
    train = data / "train"
    if not (train.is_dir() and _folders(train)):  # a class may be called train, too
        return data, val
    if val is not None:
        return train, val
    for name in _VALIDATION_FOLDERS:
        if (data / name).is_dir():
            return train, data / name
    return train, None


def split(
    pictures: LabelledPictures, share: float, seed: int
) -> tuple[LabelledPictures, LabelledPictures]:
    """A share of each class for validation, drawn by a hash of seed and path below the class.

    So the same picture is on the same side whatever else is in the folder, up to the rounding of
    the share. A class keeps at least one picture to train on.
    """

    def drawn(index: int) -> bytes:
        name = _below_class(pictures.paths[index])
        return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()

    members: dict[int, list[int]] = {}
    for index, target in enumerate(pictures.targets):
        members.setdefault(target, []).append(index)
    held: set[int] = set()
    for indices in members.values():
        count = min(max(round(share * len(indices)), 1), len(indices) - 1)
        held.update(sorted(indices, key=drawn)[:count])
    everything = range(len(pictures))
    return (
        pictures.select(i for i in everything if i not in held),
        pictures.select(i for i in everything if i in held),
    )


def _below_class(path: str) -> str:
    """The end of a path that says which picture it is: its folder's name and its own."""
    return Path(*Path(path).parts[-2:]).as_posix()


def check_learnable(train: LabelledPictures, val: LabelledPictures | None) -> None:
    """Raise `DatasetError` for pictures that there is nothing to learn from, or to tell it by.

    That is one class only, or a class to validate on that is not learned.
    """
    if val is not None:
        match_validation(train, val)
    classes = without_empty_classes(train)[0].classes
    if len(classes) < 2:
        only = f"{listed(classes)} only" if classes else "none"
        raise DatasetError(
            f"there is nothing to tell apart: of classes with pictures there is {only}"
        )


def match_validation(train: LabelledPictures, val: LabelledPictures) -> LabelledPictures:
    """Validation pictures with their classes numbered as in training.

    Raises:
        DatasetError: a class of them has no picture to train on.
    """
    trained = {name for name, count in zip(train.classes, train.counts(), strict=True) if count}
    found = zip(val.classes, val.counts(), strict=True)
    unknown = [name for name, count in found if count and name not in trained]
    if unknown:
        raise DatasetError(
            f"{listed(unknown)} of the validation pictures {_is_are(unknown)} no class with "
            f"pictures to train on; those are {listed(sorted(trained))}\n"
            "rename or remove the folder, or add pictures of it to train on"
        )
    return val.with_classes(train.classes)


def without_empty_classes(pictures: LabelledPictures) -> tuple[LabelledPictures, list[str]]:
    """Only the classes that have pictures, and the names of those that have none."""
    counted = list(zip(pictures.classes, pictures.counts(), strict=True))
    empty = [name for name, count in counted if not count]
    return pictures.with_classes([name for name, count in counted if count]), empty


def find_unreadable(
    paths: Sequence[str], *, workers: int, advance: Callable[[], None] = lambda: None
) -> dict[str, str]:
    """Which pictures cannot be decoded, each with the reason in one line."""
    from resnest_cli.decoding import Decoding
    from resnest_cli.sources import as_source

    def reason(path: str) -> str | None:
        try:
            as_source(path).load(Decoding())
        except ImageError as error:
            return str(error)
        finally:
            advance()
        return None

    with ThreadPoolExecutor(workers) as pool:
        reasons = pool.map(reason, paths)
        return {path: text for path, text in zip(paths, reasons, strict=True) if text}


def read_truths(file: Path, folder: Path) -> LabelledPictures:
    """A flat folder's pictures, with the class of each from a list.

    A line of the list is a picture's name below the folder, with or without its suffix, and its
    class, with a comma, a tab or a space between; of further columns nothing is read. A first line
    that names no picture is a heading. That covers ImageNet's validation set as a `val.txt` of
    names and indices, and as `LOC_val_solution.csv`.

    Raises:
        DatasetError: the list cannot be read, or names pictures that are not there.
    """
    _check_folder(folder)
    rows = _rows(file)
    names = [Path(path).relative_to(folder).as_posix() for path in _pictures(folder)]
    known = {name[: -len(Path(name).suffix)]: name for name in names} | {n: n for n in names}
    if rows and rows[0][0] not in known and _is_heading(*rows[0]):
        del rows[0]
    if not rows:
        raise DatasetError(f"'{file}' names no picture")
    twice = [name for name, count in Counter(name for name, _ in rows).items() if count > 1]
    if twice:
        raise DatasetError(f"'{file}' names {listed(twice)} more than once")
    missing = [name for name, _ in rows if name not in known]
    if missing:
        raise DatasetError(
            f"{len(missing):,} of the {len(rows):,} pictures that '{file}' names are not in "
            f"'{folder}', such as '{printable(missing[0])}'"
        )
    classes = sorted({truth for _, truth in rows})
    index = {name: number for number, name in enumerate(classes)}
    return LabelledPictures(
        tuple(classes),
        tuple(str(folder / known[name]) for name, _ in rows),
        tuple(index[truth] for _, truth in rows),
    )


def _rows(file: Path) -> list[tuple[str, str]]:
    try:  # names of pictures may be any bytes
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DatasetError(f"cannot read the truths in '{file}': {error.strerror}") from error
    if "\0" in text:
        raise DatasetError(f"cannot read the truths in '{file}': it is not UTF-8 text")
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and all(line.strip().isdigit() for line in lines):
        raise DatasetError(
            f"'{file}' holds numbers alone; the list in ImageNet's development kit is such a one, "
            "and its numbers are not the networks' class indices\n"
            "give a list of names and classes, such as val.txt or LOC_val_solution.csv"
        )
    sign = next((sign for sign in ",\t" if lines and sign in lines[0]), None)
    split_up = csv.reader(lines, delimiter=sign) if sign else (x.split(None, 1) for x in lines)
    rows = []
    for number, columns in enumerate(split_up, 1):
        if len(columns) < 2 or not columns[1].strip():
            raise DatasetError(
                f"line {number} of '{file}' has no class behind the picture's name; each line is "
                "a name, a comma, and a class name, WordNet id or index"
            )
        truth = columns[1].strip()
        if _NO_UTF8.search(truth):
            raise DatasetError(f"line {number} of '{file}' has a class that is not UTF-8 text")
        rows.append((columns[0].strip(), _BOXES.sub("", truth)))
    return rows


def _is_heading(name: str, truth: str) -> bool:
    """Whether a line that names no picture says what the columns are."""
    return not Path(name).suffix and not truth.isdigit() and not _WNID.match(truth)


def listed(names: Sequence[str]) -> str:
    """The first few of many names, for a message."""
    shown = ", ".join(f"'{printable(name)}'" for name in names[:5])
    return shown + (f" and {len(names) - 5:,} more" if names[5:] else "")


def _is_are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
