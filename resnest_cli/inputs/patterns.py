"""Names and glob patterns to the paths that exist.

What exists literally is no pattern, part by part: `shots [2024]/*.png` is the folder of that name,
if there is one. A name that does not exist is found in another Unicode form.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch, fnmatchcase
from functools import lru_cache
from pathlib import Path

from resnest_cli.inputs.names import Names
from resnest_cli.inputs.walk import LeftOut
from resnest_cli.text import nfc


@dataclass(frozen=True)
class Selection:
    """Which files of a folder are taken, by patterns as in `Inputs`."""

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def __bool__(self) -> bool:
        """Whether it leaves anything out."""
        return bool(self.include or self.exclude)

    def within(self, folder: str) -> Callable[[str], bool]:
        """Whether a path, given below the folder, is taken."""
        include = [_literally(pattern, folder) for pattern in self.include]
        exclude = [_literally(pattern, folder) for pattern in self.exclude]

        def wanted(path: str) -> bool:
            included = not include or any(_fits(path, pattern) for pattern in include)
            return included and not any(_fits(path, pattern) for pattern in exclude)

        return wanted


def existing(text: str) -> str | None:
    """The path that exists under a name, in whichever Unicode form; None if none does.

    Raises:
        DatasetError: several do, and none is written like that.
    """
    if os.path.lexists(text):
        return text
    folder, name = os.path.split(text)
    parent = existing(folder) if folder and not text.isascii() else folder
    return None if parent is None else _entry(parent, name)


def matches(pattern: str, left_out: LeftOut) -> list[str]:
    """The files that a glob matches, sorted; as in the shell, hidden ones need a dot."""
    anchor = Path(pattern).anchor
    rest = pattern[len(anchor) :].replace(os.altsep or os.sep, os.sep)
    found = set(_matched(anchor, rest.split(os.sep), left_out))
    return sorted(path for path in found if path and not os.path.isdir(path))


def _matched(folder: str, parts: Sequence[str], left_out: LeftOut) -> Iterator[str]:
    """The paths below a folder that fit a pattern's parts."""
    if not parts:
        yield folder
        return
    part, rest = parts[0], parts[1:]
    if (path := _entry(folder, part)) is not None:
        found = [path]
    elif not glob.has_magic(part):
        return
    elif part == "**":
        below = _below(folder, left_out, (_identity(folder or "."),))
        found = [folder, *(path for path, is_folder in below if is_folder or not rest)]
    else:
        hidden = part.startswith(".")
        names = [n for n in _names(folder) if hidden or not n.startswith(".")]
        taken = [n for n in names if fnmatch(n, part) or fnmatch(nfc(n), nfc(part))]
        found = [os.path.join(folder, n) for n in taken if _is_usual(n, left_out)]
    for path in found:
        yield from _matched(path, rest, left_out)


def _below(
    folder: str, left_out: LeftOut, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, bool]]:
    """What lies below a folder, to any depth, and whether it is a folder; hidden entries do not.

    A link to one of the folders `above` it, by device and inode, is not followed.
    """
    for name in _names(folder):
        if name.startswith(".") or not _is_usual(name, left_out):
            continue
        path = os.path.join(folder, name)
        is_folder = os.path.isdir(path)
        if is_folder and (identity := _identity(path)) in above:
            continue
        yield path, is_folder
        if is_folder:
            yield from _below(path, left_out, (*above, identity))


def _identity(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:  # it has just gone
        return -1, -1
    return found.st_dev, found.st_ino


def _entry(folder: str, name: str) -> str | None:
    """The path of a folder's entry, found by its name or that in another Unicode form."""
    path = os.path.join(folder, name)
    if os.path.lexists(path):
        return path
    if name.isascii():
        return None
    try:
        changed = os.stat(folder or ".").st_mtime_ns
    except OSError:
        return None
    found = _entries(folder, changed).get(name)
    return None if found is None else os.path.join(folder, found)


@lru_cache(maxsize=4)  # a list may name many files of one folder
def _entries(folder: str, changed: int) -> Names[str]:
    return Names((name, name) for name in _names(folder))


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder or ".")
    except OSError:
        return []


def _is_usual(path: str, left_out: LeftOut) -> bool:
    """Whether no part of a path is one of a system's own folders."""
    return not any(left_out.folder(part) for part in Path(path).parts)


def _literally(pattern: str, folder: str) -> str:
    """A pattern whose first parts, as far as they exist in a folder as written, are no patterns."""
    if "/" not in pattern:
        return pattern
    parts = pattern.split("/")
    for number, part in enumerate(parts):
        path = _entry(folder, part)
        if path is None:
            break
        folder, parts[number] = path, glob.escape(part)
    return "/".join(parts)


def _fits(path: str, pattern: str) -> bool:
    name = path if "/" in pattern else os.path.basename(path)
    return name == pattern or fnmatchcase(name, pattern) or fnmatchcase(nfc(name), nfc(pattern))
