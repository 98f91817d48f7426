"""One image to its new place and back: nothing is overwritten, and a kill at any moment loses none.

Whatever was killed is done again: each act looks first at how far it came.
"""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

LINK, COPY, MOVE = "link", "copy", "move"


class Place(NamedTuple):
    """An image, and where it goes."""

    source: Path  # absolute
    target: Path
    part: Path  # what a copy is written to until it is whole


class Kept(Exception):
    """A file was not touched, for a reason."""


def place(how: str, at: Place) -> None:
    """Link, copy or move an image, unless that is done.

    Raises:
        Kept: another file is in its place, or the image cannot be moved.
        OSError: the system refuses.
    """
    _PLACE[how](at)


def put_back(how: str, at: Place) -> None:
    """Undo `place`, whole or half done.

    Raises:
        Kept: what is there now is not what was placed, or has no place to go back to.
        OSError: the system refuses.
    """
    at.part.unlink(missing_ok=True)
    if os.path.lexists(at.target):
        _PUT_BACK[how](at)


def _link(at: Place) -> None:
    if os.path.lexists(at.target):
        if not _is_link(at):
            raise Kept(f"'{at.target}' is another file")
        return
    at.target.symlink_to(at.source)


def _unlink(at: Place) -> None:
    if not _is_link(at):
        raise Kept("it is no longer the link that was made")
    at.target.unlink()


def _copy(at: Place) -> None:
    if os.path.lexists(at.target):
        if not _same(at):
            raise Kept(f"'{at.target}' is another file")
        at.part.unlink(missing_ok=True)
        return
    try:
        shutil.copy2(at.source, at.part)
        with at.part.open("rb+") as file:
            os.fsync(file.fileno())
        _rename_new(at.part, at.target)
    except OSError:
        at.part.unlink(missing_ok=True)
        raise


def _remove_copy(at: Place) -> None:
    if not _same(at):
        raise Kept("it differs from its original, or that is gone")
    at.target.unlink()


def _move(at: Place) -> None:
    if not os.path.lexists(at.source) and os.path.lexists(at.target):
        return
    if at.source.is_symlink():
        raise Kept("a symbolic link is not moved")
    _carry(at)


def _move_back(at: Place) -> None:
    if os.path.lexists(at.source) and not _same(at):
        raise Kept(f"another file is at '{at.source}'")
    at.source.parent.mkdir(parents=True, exist_ok=True)
    part = at.source.with_name(at.part.name)
    part.unlink(missing_ok=True)
    _carry(Place(at.target, at.source, part))


def _carry(at: Place) -> None:
    """Move a file, first making sure that it is safe in its new place."""
    if not os.path.lexists(at.target):
        try:
            os.link(at.source, at.target)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOSPC, errno.EEXIST, errno.EACCES):
                raise
            _copy(at)  # to another disk, or one without hard links
    elif not _same(at):
        raise Kept(f"'{at.target}' is another file")
    at.part.unlink(missing_ok=True)
    _folder_to_disk(at.target.parent)
    at.source.unlink()


def _rename_new(part: Path, target: Path) -> None:
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:  # no hard links
        if os.path.lexists(target):
            raise
        part.replace(target)
    part.unlink(missing_ok=True)


def _is_link(at: Place) -> bool:
    return at.target.is_symlink() and at.target.readlink() == at.source


def _same(at: Place) -> bool:
    """Whether source and target are one file, or two of the same content."""
    if at.target.is_symlink() or not (at.source.is_file() and at.target.is_file()):
        return False
    return at.source.samefile(at.target) or filecmp.cmp(at.source, at.target, shallow=False)


def _folder_to_disk(folder: Path) -> None:
    with suppress(OSError):  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


_PLACE: dict[str, Callable[[Place], None]] = {LINK: _link, COPY: _copy, MOVE: _move}
_PUT_BACK: dict[str, Callable[[Place], None]] = {
    LINK: _unlink, COPY: _remove_copy, MOVE: _move_back,
}  # fmt: skip
