"""What must be settled before the first step: which pictures can be used, and for what."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from resnest_cli import folders
from resnest_cli.errors import DatasetError
from resnest_cli.files import into_place
from resnest_cli.folders import LabelledPictures
from resnest_cli.writers import printable

log = logging.getLogger(__name__)


def unreadable(
    train: LabelledPictures,
    val: LabelledPictures | None,
    record: Path,
    *,
    workers: int,
    advance: Callable[[], None],
) -> set[str]:
    """The pictures that cannot be decoded; a list of them, with reasons, is written to `record`."""
    record.unlink(missing_ok=True)
    bad = folders.find_unreadable(
        [*train.paths, *(val.paths if val else ())], workers=workers, advance=advance
    )
    if bad:
        with into_place(record) as path, _open(path) as file:
            csv.writer(file, lineterminator="\n").writerows([("path", "reason"), *bad.items()])
        count = len(bad)
        log.warning(
            "%s cannot be read and %s left out: '%s' lists %s",
            f"{count:,} picture{'' if count == 1 else 's'}",
            "is" if count == 1 else "are",
            record,
            "it" if count == 1 else "them",
        )
    return set(bad)


def write_held_out(val: LabelledPictures, folder: Path, record: Path) -> None:
    """The list of what was held out of a folder, as `resnest evaluate --labels-file` reads it."""
    with into_place(record) as path, _open(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "class"))
        for name, target in zip(val.paths, val.targets, strict=True):
            writer.writerow((Path(name).relative_to(folder).as_posix(), val.classes[target]))


def _open(path: Path) -> TextIO:
    """A CSV file to write; names of files that are not UTF-8 are kept as they are."""
    return path.open("w", newline="", encoding="utf-8", errors="surrogateescape")


def parts(
    pictures: LabelledPictures, val: LabelledPictures | None, share: float, seed: int
) -> tuple[LabelledPictures, LabelledPictures]:
    """What to learn from and what to validate on, with the same classes.

    Raises:
        DatasetError: there is one class only, nothing to validate on, or a class to validate on
            that is not learned.
    """
    if val is not None:
        val = folders.match_validation(pictures, val)
    pictures, empty = folders.without_empty_classes(pictures)
    if empty:
        shown = ", ".join(printable(name) for name in empty[:5]) + (", ..." if empty[5:] else "")
        log.warning("without any picture, and so left out: %s", shown)
    if len(pictures.classes) < 2:
        only = f"'{printable(pictures.classes[0])}'" if pictures.classes else "none"
        raise DatasetError(
            f"there is nothing to tell apart: of classes with pictures there is {only}"
            + (" only" if pictures.classes else "")
        )
    if val is None:
        train, val = folders.split(pictures, share, seed)
    else:
        train, val = pictures, val.with_classes(pictures.classes)
    if not val:
        hint = "each class needs two pictures or more, of which one is held out"
        raise DatasetError(f"there is no picture to validate on\n{hint}, or give a folder: --val")
    single = [n for n, count in zip(train.classes, val.counts(), strict=True) if not count]
    if single:
        log.warning("not validated, as there is no picture for it: %s", ", ".join(single[:5]))
    return train, val
