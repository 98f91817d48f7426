"""Labelled images in class folders: found, split, checked."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from resnest_cli.errors import DatasetError, ImageError, UsageError
from resnest_cli.imaging.decode_options import DEFAULT
from resnest_cli.inputs.names import Names
from resnest_cli.inputs.source import Source, as_source, is_archive
from resnest_cli.inputs.stores import url_of
from resnest_cli.inputs.walk import LeftOut, entries, walk
from resnest_cli.progress import SILENT, SUMMARY, Progress
from resnest_cli.text import counted, listed, nfc, printable

log = logging.getLogger(__name__)

_VALIDATION_FOLDERS = ("val", "valid", "validation", "test")
_SPLIT_FOLDERS = {*_VALIDATION_FOLDERS, "train", "training", "testing"}


@dataclass(frozen=True)
class LabelledImages:
    """Images and the class of each, an index into `classes`."""

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    targets: tuple[int, ...]
    # where images lie that are no files, by path
    stored: Mapping[str, Source] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def source(self, path: str) -> Source:
        """One of the images, to be read."""
        return self.stored.get(path) or as_source(path)

    def counts(self) -> tuple[int, ...]:
        """The number of images of each class."""
        found = Counter(self.targets)
        return tuple(found[index] for index in range(len(self.classes)))

    @property
    def used_classes(self) -> tuple[str, ...]:
        """The classes that have images."""
        return tuple(self.classes[index] for index in sorted(set(self.targets)))

    def digest(self) -> str:
        """A SHA-256 of the classes and of each image's name and class, wherever the folder is."""
        pairs = zip(self.paths, self.targets, strict=True)
        lines = [*self.classes, *(f"{_below_class(path)}\0{target}" for path, target in pairs)]
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def select(self, indices: Iterable[int]) -> LabelledImages:
        """The images at these indices, in the order given; the classes stay."""
        chosen = list(indices)
        return replace(
            self,
            paths=tuple(self.paths[i] for i in chosen),
            targets=tuple(self.targets[i] for i in chosen),
        )

    def without(self, paths: Iterable[str]) -> LabelledImages:
        """All images except these; the classes stay."""
        left_out = set(paths)
        return self.select(i for i, path in enumerate(self.paths) if path not in left_out)

    def with_classes(self, classes: Sequence[str]) -> LabelledImages:
        """The same images with targets that index `classes`, which must hold every class used.

        A class is found in another Unicode form too.
        """
        index = Names((name, number) for number, name in enumerate(classes))
        numbers = [index.get(name) for name in self.classes]
        targets = tuple(-1 if (n := numbers[t]) is None else n for t in self.targets)
        return replace(self, classes=tuple(classes), targets=targets)


def read_class_folders(folder: Path) -> LabelledImages:
    """Images in folders that are named after their classes, each searched to any depth.

    Classes are sorted by name. A class folder without any image is one of `classes` too. What
    else the folder holds is reported.

    Raises:
        DatasetError: the folder is missing, has no class folders, or they hold no image.
    """
    check_folder(folder)
    classes = _subfolders(folder)
    _check_classes(folder, classes)
    left_out = LeftOut()
    found = [
        (path, target)
        for target, name in enumerate(classes)
        for path in image_paths(folder / name, left_out)
    ]
    _report_left_out(folder, left_out)
    if not found:
        raise DatasetError(f"the class folders of '{folder}' hold no image")
    paths, targets = zip(*found, strict=True)
    return LabelledImages(tuple(classes), paths, targets)


def check_folder(folder: Path) -> None:
    """Raise `DatasetError` unless a folder exists."""
    if url := url_of(folder):
        raise DatasetError(f"'{url}' lies in an object store: copy the images into a local folder")
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "does not exist"
        unpack = "; unpack it" if folder.exists() and is_archive(folder.name) else ""
        raise DatasetError(f"'{folder}' {problem}{unpack}")


def image_paths(folder: Path, left_out: LeftOut) -> Iterator[str]:
    """The images below a folder, sorted, to any depth; `DatasetError` if part cannot be read.

    What it holds besides images is counted in `left_out`.
    """
    for source in walk(str(folder), left_out):
        if source.error:
            raise DatasetError(f"'{source.name}' cannot be searched: {source.error}")
        yield source.name


def find_splits(data: Path, val: Path | None) -> tuple[Path, Path | None]:
    """The folders of the training set and of the validation set; None: none was found.

    `data` holds class folders, or `train/` and perhaps one of `val/`, `valid/`, `validation/`,
    `test/`.
    """
    train = data / "train"
    if not (train.is_dir() and _subfolders(train)):  # a class may be called train, too
        return data, val
    if val is not None:
        return train, val
    found = (data / name for name in _VALIDATION_FOLDERS if (data / name).is_dir())
    return train, next(found, None)


def split(
    images: LabelledImages, fraction: float, seed: int
) -> tuple[LabelledImages, LabelledImages]:
    """A training set and a validation set, which gets a fraction of each class.

    Images are drawn by a hash of the seed and the path below the class folder, so the same image
    is in the same set whatever else is in the folder, up to the rounding of the fraction. A class
    keeps at least one image in the training set.
    """

    def drawn(index: int) -> bytes:
        name = _below_class(images.paths[index])
        return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()

    members: dict[int, list[int]] = {}
    for index, target in enumerate(images.targets):
        members.setdefault(target, []).append(index)
    held_out: set[int] = set()
    for indices in members.values():
        count = min(max(round(fraction * len(indices)), 1), len(indices) - 1)
        held_out.update(sorted(indices, key=drawn)[:count])
    everything = range(len(images))
    return (
        images.select(i for i in everything if i not in held_out),
        images.select(i for i in everything if i in held_out),
    )


def check_output_outside(output: Path, data: Iterable[Path | None]) -> None:
    """Raise `UsageError` if an output folder is in one of these folders of images."""
    for folder in data:
        if folder is not None and output.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"`output` must be outside the images: '{output}' is in '{folder}', and would be "
                "taken for a class"
            )


def validate_classes(train: LabelledImages, val: LabelledImages | None) -> None:
    """Raise `DatasetError` unless two classes have training images, and all of the validation set.

    Classes without images don't count.
    """
    trained = train.used_classes
    by_form: dict[str, list[str]] = {}
    for name in trained:
        by_form.setdefault(nfc(name), []).append(name)
    if twice := next((names for names in by_form.values() if len(names) > 1), None):
        raise DatasetError(
            f"{len(twice)} class folders differ only in how Unicode writes their letters (NFC or "
            f"NFD): {listed(twice)}\nput their images into one of them"
        )
    known = Names((name, name) for name in trained)
    unknown = [name for name in val.used_classes if known.get(name) is None] if val else []
    if unknown:
        raise DatasetError(
            f"the validation set has classes without training images: {listed(unknown)}; "
            f"the training set has {listed(trained)}\n"
            "rename or remove these folders, or add training images of these classes"
        )
    if len(trained) < 2:
        found = f"found only {listed(trained)}" if trained else "found none"
        raise DatasetError(f"training needs images of at least two classes; {found}")


def find_unreadable(
    sources: Sequence[Source], *, workers: int, progress: Progress = SILENT
) -> dict[str, str]:
    """The names of those that cannot be decoded, each with the reason, by `workers` threads."""

    def reason(source: Source) -> str | None:
        try:
            source.load(DEFAULT)
        except ImageError as error:
            return str(error)
        finally:
            progress.advance()
        return None

    progress.start("checking images")
    progress.total(len(sources))
    try:
        with ThreadPoolExecutor(workers) as pool:
            reasons = pool.map(reason, sources)
            return {s.name: text for s, text in zip(sources, reasons, strict=True) if text}
    finally:
        progress.finish()


def _report_left_out(folder: Path, left_out: LeftOut) -> None:
    """Report what was passed over in class folders and beside them."""
    shown = printable(str(folder))
    if beside := sum(not entry.is_dir() for entry in entries(folder, left_out)):
        log.warning("%s beside the class folders of '%s' left out", counted(beside, "image"), shown)
    if left_out:
        log.log(SUMMARY, "'%s': %s", shown, left_out)


def _below_class(path: str) -> str:
    """The last two parts of a path: the name of the image's folder, and its own."""
    return Path(*Path(path).parts[-2:]).as_posix()


def _subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones and a system's own."""
    names = sorted(entry.name for entry in entries(folder, LeftOut()) if entry.is_dir())
    for name in names:
        if not is_utf8(name):
            raise DatasetError(
                f"a folder's name is not UTF-8: '{printable(str(folder / name))}'; rename it"
            )
    return names


def is_utf8(text: str) -> bool:
    """Whether text holds no bytes that were not UTF-8, which Python keeps as lone surrogates."""
    return not any("\udc80" <= character <= "\udcff" for character in text)


def _check_classes(folder: Path, classes: Sequence[str]) -> None:
    """Raise `DatasetError` if a folder's subfolders are not classes."""
    if not classes:
        hint = "the images lie in it side by side" if any(folder.iterdir()) else "it is empty"
        raise DatasetError(
            f"'{folder}' has no class folders: {hint}\n"
            "put the images of each class into a folder of its own, such as "
            f"{folder.name or 'DATA'}/cat/1.jpg"
        )
    check_no_splits(f"{folder}", classes)
    if len(classes) == 1 and len(_subfolders(folder / classes[0])) > 1:
        raise DatasetError(
            f"'{folder}' has one class folder, {listed(classes)}, with folders in it\n"
            f"if they are the classes, give '{folder / classes[0]}'"
        )


def check_no_splits(data: str, classes: Sequence[str]) -> None:
    """Raise `DatasetError` if classes are called as the splits of a dataset."""
    if len(classes) > 1 and all(name.casefold() in _SPLIT_FOLDERS for name in classes):
        raise DatasetError(
            f"'{data}' holds the splits of a dataset, not classes: {listed(classes)}\n"
            f"give one of them, such as '{data.rstrip('/')}/{classes[-1]}', with a folder for each "
            "class"
        )
