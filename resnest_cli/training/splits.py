"""The training and the validation set: found, checked, and separated."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from resnest_cli.datasets import class_folders
from resnest_cli.datasets.class_folders import LabelledImages
from resnest_cli.datasets.repeats import Fingerprints, noted, repeats
from resnest_cli.errors import DatasetError, UsageError
from resnest_cli.files import write_csv
from resnest_cli.hardware import processors
from resnest_cli.progress import Progress
from resnest_cli.text import counted, listed

log = logging.getLogger(__name__)


class Splits(NamedTuple):
    """The images of a run, not yet read."""

    folder: Path  # of the training set
    val_folder: Path | None  # None: a fraction of the training set is held out
    images: LabelledImages  # of `folder`
    val_images: LabelledImages | None  # of `val_folder`

    def without(self, paths: set[str]) -> Splits:
        """The same without some images."""
        val = self.val_images.without(paths) if self.val_images else None
        return self._replace(images=self.images.without(paths), val_images=val)


def find_splits(data: Path, val: Path | None, val_fraction: float | None, output: Path) -> Splits:
    """List the images without reading them, and check that they can be trained on."""
    train_folder, val_folder = class_folders.find_splits(data, val)
    if val_folder and val_fraction is not None:
        raise UsageError(
            "`val_fraction` holds out images for validation, but the validation set is "
            f"'{val_folder}': leave it out"
        )
    if val_folder and train_folder.resolve() in val_folder.resolve().parents:
        raise UsageError(
            f"'{val_folder}' lies in '{train_folder}', and would be taken for a class\n"
            f"move the training set to '{data / 'train'}', or the validation set elsewhere"
        )
    class_folders.check_output_outside(output, [train_folder, val_folder])
    images = class_folders.read_class_folders(train_folder)
    val_images = class_folders.read_class_folders(val_folder) if val_folder else None
    class_folders.validate_classes(images, val_images)
    return Splits(train_folder, val_folder, images, val_images)


def find_unreadable(
    splits: Splits, record: Path, found: Fingerprints, progress: Progress
) -> set[str]:
    """The images that cannot be decoded; they are listed in `record`, with the reasons.

    The fingerprints of the others are added to `found`.
    """
    record.unlink(missing_ok=True)
    paths = [*splits.images.paths, *(splits.val_images.paths if splits.val_images else ())]
    sources = noted(paths, found)
    bad = class_folders.find_unreadable(sources, workers=processors(), progress=progress)
    if bad:
        write_csv(record, ("path", "reason"), bad.items())
        log.warning("%s left out as unreadable: see '%s'", counted(len(bad), "image"), record)
    return set(bad)


def separate(
    splits: Splits, val_fraction: float, seed: int
) -> tuple[LabelledImages, LabelledImages]:
    """The training and the validation set, with the same classes."""
    images, val = splits.images, splits.val_images
    class_folders.validate_classes(images, val)
    classes = images.used_classes
    if empty := [name for name in images.classes if name not in classes]:
        log.warning("classes without images are left out: %s", listed(empty))
    train = images.with_classes(classes)
    if val is None:
        train, val = class_folders.split(train, val_fraction, seed)
    else:
        val = val.with_classes(classes)
    if not val:
        raise DatasetError(
            "no image is left to validate on\n"
            "each class needs at least two images, of which one is held out; or give `val`"
        )
    missing = [n for n, count in zip(train.classes, val.counts(), strict=True) if not count]
    if missing:
        log.warning("classes without a validation image: %s", listed(missing))
    return train, val


def warn_of_repeats(
    train: LabelledImages, val: LabelledImages, found: Fingerprints, record: Path
) -> None:
    """Warn if validation images are in the training set too; they are listed in `record`."""
    same = repeats(val.paths, train.paths, found)
    if same:
        write_csv(record, ("path", "same_as"), same)
        log.warning(
            "%d of %s are in the training set, too (the same pixels): see '%s'\n"
            "the accuracy will be higher than on new images; keep them in one of the sets",
            len(same), counted(len(val), "validation image"), record,
        )  # fmt: skip


def write_held_out(val: LabelledImages, folder: Path, record: Path) -> None:
    """The list of images held out below a folder, as `evaluate` reads it with ground truth."""
    names = (Path(path).relative_to(folder).as_posix() for path in val.paths)
    classes = (val.classes[target] for target in val.targets)
    write_csv(record, ("file", "class"), zip(names, classes, strict=True))
