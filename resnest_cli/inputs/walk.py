"""Folders to the images in them, and what was left out on the way."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from resnest_cli.imaging.image_formats import is_image_name
from resnest_cli.inputs.source import Source
from resnest_cli.text import counted, listed, printable

# made by storage devices and systems: previews, resource forks, deleted files, snapshots
_SYSTEM_FOLDERS = frozenset((
    "@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "__macosx",
    "$recycle.bin", "recycler", "system volume information",
))  # fmt: skip
_MOST_SHOWN = 5  # suffixes in a summary
_MOST_COUNTED, _LONGEST = 100, 16  # suffixes, and their characters: some end in a number


@dataclass
class LeftOut:
    """What walks through folders passed over, hidden names apart."""

    suffixes: Counter[str] = field(default_factory=Counter)  # of files that are no image by name
    folders: set[str] = field(default_factory=set)  # names of a system's own folders

    def file(self, name: str) -> None:
        """Count a file."""
        suffix = os.path.splitext(name)[1].lower() or "without suffix"
        few = suffix in self.suffixes or len(self.suffixes) < _MOST_COUNTED
        self.suffixes[suffix if few and len(suffix) <= _LONGEST else "others"] += 1

    def folder(self, name: str) -> bool:
        """Whether a folder is left out, as one that a system made for itself, such as `@eaDir`."""
        system = name.casefold() in _SYSTEM_FOLDERS
        if system:
            self.folders.add(name)
        return system

    def __bool__(self) -> bool:
        """Whether anything was left out."""
        return bool(self.suffixes or self.folders)

    def __str__(self) -> str:
        """For a summary; empty if nothing was left out."""
        parts = []
        if files := self.suffixes.total():
            most = self.suffixes.most_common(_MOST_SHOWN)
            kinds = [f"{count:,} {printable(suffix)}" for suffix, count in most]
            rest = files - sum(count for _, count in most)
            kinds += [f"{rest:,} more"] if rest else []
            parts.append(f"{counted(files, 'file')} not named as an image ({', '.join(kinds)})")
        if self.folders:
            noun = "folder" if len(self.folders) == 1 else "folders"
            parts.append(f"the system's own {noun} {listed(sorted(self.folders))}")
        return f"left out: {' and '.join(parts)}" if parts else ""


def walk(folder: str, left_out: LeftOut) -> Iterator[Source]:
    """The images below a folder, sorted by name, links followed, hidden names left out."""
    levels: list[Iterator[str]] = [
        iter([folder])
    ]  # of each folder on the way down, what is still to visit
    above: list[tuple[int, int]] = []  # which folders those are, to detect links that lead back
    while levels:
        path = next(levels[-1], None)
        if path is None:
            levels.pop()
            del above[-1:]
        elif not os.path.isdir(path):
            yield Source(path, Path(path))
        else:
            try:
                status = os.stat(path)
                here = (status.st_dev, status.st_ino)
                if here not in above:
                    names = sorted(entry.name for entry in entries(path, left_out))
                    # the names alone are kept, of a million too
                    levels.append(map(partial(os.path.join, path), names))
                    above.append(here)
            except OSError as error:
                yield Source(path, error=f"the folder cannot be read: {error.strerror or error}")


def entries(folder: str | Path, left_out: LeftOut) -> Iterator[os.DirEntry[str]]:
    """The folders and images in a folder, in no order; anything else is counted."""
    with os.scandir(folder) as found:
        yield from (entry for entry in found if _is_taken(entry, left_out))


def _is_taken(entry: os.DirEntry[str], left_out: LeftOut) -> bool:
    if entry.name.startswith("."):
        return False
    if is_image_name(entry.name):
        return True
    if _is_folder(entry):
        return not left_out.folder(entry.name)
    left_out.file(entry.name)
    return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()  # unlike os.path.isdir, mostly without asking the file system
    except OSError:
        return False
