"""Names of folders and files that every system takes, and that never meet another's."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from resnest_cli.text import nfc

_LONGEST_FOLDER, _LONGEST_FILE = 120, 255  # bytes
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.I)  # on Windows


def safe_folder(label: str) -> str:
    """A class's name as that of one visible folder, on Linux, macOS and Windows."""
    text = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in nfc(label))
    text = _cut(text, _LONGEST_FOLDER).strip(". ") or "class"
    return f"{text}_" if _RESERVED.fullmatch(text) else text


class ClassFolders:
    """The folder of each class: equal names of two classes, in any case, become two folders."""

    def __init__(self, root: Path, known: Mapping[str, str], reserved: tuple[str, ...]) -> None:
        """`known` are the folders of an earlier run, by the class's key."""
        self._root, self._folders = root, dict(known)
        self._taken = {name.casefold() for name in (*reserved, *known.values())}

    def of(self, key: str, label: str) -> str:
        """The folder's name of a class, which `key` tells from all others."""
        if key not in self._folders:
            name = base = safe_folder(label)
            number = 1
            while name.casefold() in self._taken or not _may_be_folder(self._root / name):
                name, number = f"{base} ({key if number == 1 else f'{key}, {number}'})", number + 1
            self._taken.add(name.casefold())
            self._folders[key] = name
        return self._folders[key]


class FileNames:
    """Names of files in the folders below a root that no other file there has, in any case."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._taken: dict[str, set[str]] = {}
        self._numbers: defaultdict[tuple[str, str], int] = defaultdict(lambda: 1)

    def reserve(self, folder: str, name: str) -> None:
        """Give a name away."""
        self._of(folder).add(name.casefold())

    def new(self, folder: str, name: str) -> str:
        """`name`, or if it is taken, the same with a number before its suffix."""
        taken, stem, suffix = self._of(folder), *os.path.splitext(name)  # noqa: PTH122
        key = folder, name.casefold()
        while name.casefold() in taken:
            self._numbers[key] += 1
            ending = f" ({self._numbers[key]}){suffix}"
            name = _cut(stem, _LONGEST_FILE - len(os.fsencode(ending))) + ending
        taken.add(name.casefold())
        return name

    def _of(self, folder: str) -> set[str]:
        if folder not in self._taken:
            path = self._root / folder
            there = path.iterdir() if path.is_dir() else ()
            self._taken[folder] = {found.name.casefold() for found in there}
        return self._taken[folder]


def _may_be_folder(path: Path) -> bool:
    return not os.path.lexists(path) or (path.is_dir() and not path.is_symlink())


def _cut(text: str, most: int) -> str:
    """Text of at most so many bytes, no letter of it halved."""
    data = text.encode("utf-8", "surrogateescape")
    return text if len(data) <= most else data[:most].decode("utf-8", "ignore")
