"""Which labelled images to use: class folders, or a folder of images and a list of classes."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from resnest_cli.datasets.class_folders import (
    LabelledImages,
    check_folder,
    image_paths,
    is_utf8,
    read_class_folders,
)
from resnest_cli.errors import DatasetError, UsageError
from resnest_cli.inputs.discover import is_selected
from resnest_cli.text import listed, printable

_WNID = re.compile(r"n\d{8}\b")
# after a WordNet id Kaggle's list has a box, four numbers, for each object in the image
_BOXES = re.compile(r"(?<=^n\d{8})( \d+){4}( n\d{8}( \d+){4})*$")


@dataclass(frozen=True)
class LabelledFolder:
    """A folder of labelled images, and which of them to use."""

    path: Path
    ground_truth: Path | None = None  # name and class in each line; default: class folders
    include: tuple[str, ...] = ()  # globs: use only images that match one, as in `Inputs`
    exclude: tuple[str, ...] = ()  # globs: leave out images that match one
    limit: int | None = None  # use N images only, spread evenly over all

    def read(self) -> LabelledImages:
        """The images and their classes.

        Raises:
            DatasetError: the folder or the list is unusable, or no image is selected.
            UsageError: `limit` is not a positive number.
        """
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"`limit` must be 1 or more, not {self.limit}")
        if self.ground_truth:
            images = read_ground_truth(self.ground_truth, self.path)
        else:
            images = read_class_folders(self.path)
        chosen = [
            index
            for index, path in enumerate(images.paths)
            if is_selected(os.path.relpath(path, self.path), self.include, self.exclude)
        ]
        if not chosen:
            raise DatasetError("no image is selected by `include` and `exclude`")
        count = min(self.limit or len(chosen), len(chosen))
        return images.select(chosen[index * len(chosen) // count] for index in range(count))


def read_ground_truth(file: Path, folder: Path) -> LabelledImages:
    """The images of a folder that a list names, with their classes.

    A line of the list is an image's path below the folder, with or without its suffix, and its
    class, separated by a comma, a tab or spaces; further columns are ignored. A first line that
    names no image is a heading. That covers ImageNet's validation set as a `val.txt` of names and
    indices, and as `LOC_val_solution.csv`.

    Raises:
        DatasetError: the list cannot be read, or names images that are not in the folder.
    """
    check_folder(folder)
    rows = _rows(file)
    names = [Path(path).relative_to(folder).as_posix() for path in image_paths(folder)]
    known = {name[: -len(Path(name).suffix)]: name for name in names} | {n: n for n in names}
    if rows and rows[0][0] not in known and _is_heading(*rows[0]):
        del rows[0]
    _check_names([name for name, _ in rows], known, file, folder)
    classes = sorted({label for _, label in rows})
    index = {name: number for number, name in enumerate(classes)}
    return LabelledImages(
        tuple(classes),
        tuple(str(folder / known[name]) for name, _ in rows),
        tuple(index[label] for _, label in rows),
    )


def _check_names(names: list[str], known: Iterable[str], file: Path, folder: Path) -> None:
    if not names:
        raise DatasetError(f"'{file}' names no image")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DatasetError(f"'{file}' names {listed(repeated)} more than once")
    missing = [name for name in names if name not in known]
    if missing:
        raise DatasetError(
            f"{len(missing):,} of the {len(names):,} images that '{file}' names are not in "
            f"'{folder}', such as '{printable(missing[0])}'"
        )


def _rows(file: Path) -> list[tuple[str, str]]:
    """The names and classes in a list."""
    lines = _lines(file)
    sign = next((sign for sign in ",\t" if lines and sign in lines[0]), None)
    columns = csv.reader(lines, delimiter=sign) if sign else (x.split(None, 1) for x in lines)
    return [_row(number, row, file) for number, row in enumerate(columns, 1)]


def _row(number: int, columns: list[str], file: Path) -> tuple[str, str]:
    if len(columns) < 2 or not columns[1].strip():
        raise DatasetError(
            f"line {number} of '{file}' has no class after the image's name; each line must be "
            "a name, a comma, and a class name, WordNet id or index"
        )
    label = columns[1].strip()
    if not is_utf8(label):
        raise DatasetError(f"line {number} of '{file}' has a class that is not UTF-8 text")
    return columns[0].strip(), _BOXES.sub("", label)


def _lines(file: Path) -> list[str]:
    """A list's lines without blank ones."""
    try:  # names of images may be any bytes
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DatasetError(f"cannot read `ground_truth` '{file}': {error.strerror}") from error
    if "\0" in text:
        raise DatasetError(f"cannot read `ground_truth` '{file}': it is not UTF-8 text")
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and all(line.strip().isdigit() for line in lines):
        raise DatasetError(
            f"'{file}' holds numbers only, like the list in ImageNet's development kit, and its "
            "numbers are not the networks' class indices\n"
            "give a list of names and classes, such as val.txt or LOC_val_solution.csv"
        )
    return lines


def _is_heading(name: str, label: str) -> bool:
    """Whether a first line that names no image names the columns."""
    return not Path(name).suffix and not label.isdigit() and not _WNID.match(label)
