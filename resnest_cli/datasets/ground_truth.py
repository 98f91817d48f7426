"""Lists of images and their classes, as ImageNet, spreadsheets, R, pandas and people write them."""

from __future__ import annotations

import csv
import io
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from resnest_cli.datasets.class_folders import LabelledImages, check_folder, image_paths, is_utf8
from resnest_cli.datasets.labelled_inputs import FoundImages
from resnest_cli.errors import DatasetError
from resnest_cli.imaging.image_formats import is_image_name
from resnest_cli.inputs.lists import wide_encoding
from resnest_cli.inputs.names import Names
from resnest_cli.inputs.walk import LeftOut
from resnest_cli.progress import SUMMARY
from resnest_cli.text import counted, listed, printable

log = logging.getLogger(__name__)

_SEPARATORS = (",", "\t", ";", "|", None, " ")  # None: white space, the class being all the rest
_SAMPLE = 200  # rows by which the separator is chosen
_WNID = re.compile(r"n\d{8}\b")
# after a WordNet id Kaggle's list has a box, four numbers, for each object in the image
_BOXES = re.compile(r"(?<=^n\d{8})( \d+){4}( n\d{8}( \d+){4})*$")
_CLASS = re.compile(  # a heading over classes
    r"((true|target|class|category|label|species|wnid|synset)s?([ ._-]?(name|id|index|label))?"
    r"|PredictionString)",
    re.I,
)


class _Row(NamedTuple):
    """A line of a list, or several where a quoted cell holds line ends."""

    line: int  # its last line, from 1
    cells: list[str]


class _Table(NamedTuple):
    """The rows of a list, and which cells are the names and the classes."""

    rows: list[_Row]
    name: int
    label: int


class _FolderNames:
    """The images of a folder, found by what lists call them."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        """`names` are the images' paths below the folder."""
        self._folder = folder.absolute()
        self._own_names = {self._folder.name, folder.resolve().name} - {""}
        self._names = Names((name, name) for name in names)
        stems: dict[str, tuple[str, ...]] = {}
        for name in names:
            stem = name[: -len(Path(name).suffix)]  # all images have a suffix
            stems[stem] = (*stems.get(stem, ()), name)
        self._stems = Names(stems.items())

    def find(self, written: str) -> str | None:
        """The image that is meant; `DatasetError` if several may be."""
        for text in self._forms(written):
            if name := self._names.get(text):
                return name
            stems = self._stems.get(text) or ()
            if len(stems) > 1:
                raise DatasetError(f"'{text}' may be {listed(stems)}: write the suffix too")
            if stems:
                return stems[0]
        return None

    def has(self, written: str) -> bool:
        """Whether a name is that of an image, or of several."""
        try:
            return self.find(written) is not None
        except DatasetError:
            return True

    def _forms(self, written: str) -> Iterator[str]:
        """A name unchanged, and then the paths below the folder that it may stand for."""
        yield written
        yield (name := written.strip())
        path = os.path.normpath(name.replace("\\", "/"))
        yield Path(path).as_posix()
        if os.path.lexists(path):  # unlike Path.exists, False for a line that is no name
            for folder in (self._folder, self._folder.resolve()):
                if (found := Path(path).absolute()).is_relative_to(folder):
                    yield found.relative_to(folder).as_posix()
        else:  # below a folder of the same name elsewhere
            parts = Path(path).parts
            for at, part in enumerate(parts[:-1], 1):
                if part in self._own_names:
                    yield Path(*parts[at:]).as_posix()


def read_ground_truth(
    file: Path, folder: Path, found_images: FoundImages | None = None
) -> LabelledImages:
    """The images of a folder, or of archives or a store, that a list names, with their classes.

    A line of the list is an image's path and its class; further columns are ignored. The path is
    below the folder, or begins with the folder, and its suffix may be missing. Columns are
    separated by a comma, a tab, a semicolon, a vertical bar or spaces: by whichever makes the names
    those of images. A heading, comments (`#`) and a first column of row numbers are skipped. That
    covers ImageNet's validation set as a `val.txt` of names and indices, and as
    `LOC_val_solution.csv`. The list is in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        DatasetError: the list cannot be read, or names images that are not in the folder.
    """
    left_out, sources = LeftOut(), {}
    if found_images:
        paths_of = {inner: path for path, inner in found_images.inner.items()}
        sources = found_images.sources
    else:
        check_folder(folder)
        paths_of = {
            Path(path).relative_to(folder).as_posix(): path
            for path in image_paths(folder, left_out)
        }
    names = list(paths_of)
    images = _FolderNames(folder, names)
    table = _table(_text(file), images, file)
    labels = [_label(row, table.label, file) for row in table.rows]
    found = _found([row.cells[table.name] for row in table.rows], images, file, folder)
    classes = sorted(set(labels))
    index = {name: number for number, name in enumerate(classes)}
    shown = printable(str(folder))
    if unlisted := len(names) - len(found):
        log.log(SUMMARY, "%s of '%s' not in '%s'", counted(unlisted, "image"), shown, file)
    if left_out:
        log.log(SUMMARY, "'%s': %s", shown, left_out)
    paths = tuple(paths_of[name] for name in found)
    return LabelledImages(tuple(classes), paths, tuple(index[x] for x in labels), sources)


def _found(written: list[str], images: _FolderNames, file: Path, folder: Path) -> list[str]:
    """The images that a list names."""
    found = [images.find(name) for name in written]
    if not found:
        raise DatasetError(f"'{file}' names no image")
    missing = [name for name, image in zip(written, found, strict=True) if image is None]
    if missing:
        hint = "" if all(map(is_utf8, missing)) else "\nthe list is not UTF-8 text: save it as such"
        raise DatasetError(
            f"'{file}' names {counted(len(missing), 'image')} that '{folder}' lacks, of "
            f"{len(found):,}: {listed(missing)}{hint}"
        )
    names = [name for name in found if name]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DatasetError(f"'{file}' names {listed(repeated)} more than once")
    return names


def _table(text: str, images: _FolderNames, file: Path) -> _Table:
    """The rows of a list, split by the separator that makes most names those of images."""

    def named(rows: Sequence[_Row], column: int) -> int:
        return sum(len(r.cells) > column + 1 and images.has(r.cells[column]) for r in rows)

    def fit(separator: str | None) -> tuple[int, int]:
        sample = list(islice(_rows(text, separator), _SAMPLE))
        complete = sum(len(row.cells) > 1 for row in sample)
        return max(named(sample, 0), named(sample, 1)), complete

    separators = sorted(_SEPARATORS, key=lambda s: file.suffix == ".tsv" and s != "\t")
    rows = _without_comments(list(_rows(text, max(separators, key=fit))), images, file)
    numbered = all(not row.cells[0].strip() or row.cells[0].isdigit() for row in rows[1:])
    sample = rows[:_SAMPLE]
    name = int(numbered and named(sample, 1) >= max(1, named(sample, 0)))
    if not rows or not _is_heading(rows[0].cells[name:], images):
        return _Table(rows, name, name + 1)
    heading = rows.pop(0).cells
    if rows and len(heading) == len(rows[0].cells) - 1:  # R writes none over row numbers
        heading = ["", *heading]
    titled = [at for at, title in enumerate(heading) if _CLASS.fullmatch(title.strip())]
    cells = {cell.strip() for row in rows for cell in row.cells[name + 1 :]}
    if not titled and len(heading) > name + 2 and cells == {"0", "1"}:
        raise DatasetError(f"'{file}' has a column for each class: name each image's class instead")
    if not titled:
        log.log(SUMMARY, "'%s': the first line is taken as a heading: %s", file, listed(heading, 2))
    elsewhere = len(titled) == 1 and titled[0] > name
    return _Table(rows, name, titled[0] if elsewhere else name + 1)


def _without_comments(rows: list[_Row], images: _FolderNames, file: Path) -> list[_Row]:
    """The rows but for comments, and for the first line that tells Excel the separator."""
    kept = [r for r in rows if not r.cells[0].lstrip().startswith("#") or images.has(r.cells[0])]
    if comments := len(rows) - len(kept):
        log.log(SUMMARY, "%s of '%s' skipped", counted(comments, "comment line"), file)
    return kept[1:] if kept and re.fullmatch("sep=.?", kept[0].cells[0].strip()) else kept


def _is_heading(cells: Sequence[str], images: _FolderNames) -> bool:
    """Whether the first line, from the name on, names the columns."""
    name, label = (cell.strip() for cell in (*cells, "", "")[:2])
    if is_image_name(name) or (name and (label.isdigit() or _WNID.match(label))):
        return False
    return not images.has(name) or _CLASS.fullmatch(label) is not None


def _label(row: _Row, column: int, file: Path) -> str:
    label = row.cells[column] if len(row.cells) > column else ""
    if not label:
        raise DatasetError(
            f"line {row.line} of '{file}' has no class after the image's name; each line must be "
            "a name, a comma, and a class name, WordNet id or index"
        )
    if not is_utf8(label):
        raise DatasetError(f"line {row.line} of '{file}' has a class that is not UTF-8 text")
    return _BOXES.sub("", label.strip()) if _BOXES.search(label.strip()) else label


def _rows(text: str, separator: str | None) -> Iterator[_Row]:
    """The rows that are not blank; only CR and LF end a line, and not in quotes."""
    lines = io.StringIO(text, newline="")
    if separator is None:
        for number, line in enumerate(re.split("\r\n|\r|\n", text), 1):
            if cells := line.split(None, 1):
                yield _Row(number, cells)
        return
    reader = csv.reader(
        lines,
        delimiter=separator,
        quoting=csv.QUOTE_MINIMAL if _is_quoted(text, separator) else csv.QUOTE_NONE,
        skipinitialspace=separator == " ",
    )
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield _Row(reader.line_num, cells)
    except csv.Error as error:
        raise DatasetError(f"`ground_truth` is not a list: {error}") from error


def _is_quoted(text: str, separator: str) -> bool:
    """Whether quotation marks are pairs around cells; else they are part of the text."""
    if '"' not in text:
        return True
    try:
        for _ in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True):
            pass
    except csv.Error:
        return False
    return True


def _text(file: Path) -> str:
    try:
        content = file.read_bytes()
        encoding = wide_encoding(content)  # names of images may be any bytes
        text = content.decode(encoding or "utf-8-sig", "strict" if encoding else "surrogateescape")
    except OSError as error:
        raise DatasetError(f"cannot read `ground_truth` '{file}': {error.strerror}") from error
    except UnicodeError as error:
        raise DatasetError(f"cannot read `ground_truth` '{file}': damaged {encoding}") from error
    if "\0" in text:
        raise DatasetError(
            f"cannot read `ground_truth` '{file}': it is not UTF-8 text; UTF-16 needs its byte "
            "order mark, and names that NUL characters end have no classes"
        )
    if text.strip() and all(line.strip().isdigit() for line in text.split("\n") if line.strip()):
        raise DatasetError(
            f"'{file}' holds numbers only, like the list in ImageNet's development kit, and its "
            "numbers are not the networks' class indices\n"
            "give a list of names and classes, such as val.txt or LOC_val_solution.csv"
        )
    return text
