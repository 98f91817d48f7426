"""What must be settled before the first step: which pictures can be used, and for what."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TextIO

from resnest_cli import folders
from resnest_cli.errors import DatasetError, UsageError
from resnest_cli.files import into_place
from resnest_cli.folders import LabelledPictures

log = logging.getLogger(__name__)


class Found(NamedTuple):
    """The pictures that a run is given."""

    folder: Path  # of those to learn from
    val_folder: Path | None  # None: a part of the others is held out
    pictures: LabelledPictures
    held_out: LabelledPictures | None


def find(data: Path, val: Path | None, share: float | None, output: Path) -> Found:
    """List the pictures, without a look into them.

    Args:
        data: a folder of class folders, or one with `train/` and perhaps `val/` or `test/` in it.
        val: class folders to validate on.
        share: of each class to be held out, if anybody asked for one.
        output: where the run's files are to lie.

    Raises:
        DatasetError: they are not there, or there is nothing to learn from them.
        UsageError: the folders lie in one another, or there is nothing to hold out.
    """
    train_folder, val_folder = folders.find_parts(data, val)
    if val_folder and share is not None:
        raise UsageError(
            f"--val-share holds a part out, but '{val_folder}' is there to validate on: "
            "leave it out"
        )
    if val_folder and train_folder.resolve() in val_folder.resolve().parents:
        raise UsageError(
            f"'{val_folder}' lies in '{train_folder}', and would be taken for a class\n"
            f"put what is to be learned into '{data / 'train'}', or the other elsewhere"
        )
    folders.check_apart(output, [train_folder, val_folder])
    pictures = folders.read_class_folders(train_folder)
    held_out = folders.read_class_folders(val_folder) if val_folder else None
    folders.check_learnable(pictures, held_out)
    return Found(train_folder, val_folder, pictures, held_out)


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
    """The list of what was held out below a folder, as `evaluate --labels-file` reads it."""
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
    folders.check_learnable(pictures, val)
    if val is not None:
        val = folders.match_validation(pictures, val)
    pictures, empty = folders.without_empty_classes(pictures)
    if empty:
        log.warning("without any picture, and so left out: %s", folders.listed(empty))
    if val is None:
        train, val = folders.split(pictures, share, seed)
    else:
        train, val = pictures, val.with_classes(pictures.classes)
    if not val:
        hint = "each class needs two pictures or more, of which one is held out"
        raise DatasetError(f"there is no picture to validate on\n{hint}, or give a folder: --val")
    single = [n for n, count in zip(train.classes, val.counts(), strict=True) if not count]
    if single:
        log.warning("not validated, as there is no picture for it: %s", folders.listed(single))
    return train, val
