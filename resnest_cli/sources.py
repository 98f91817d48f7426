"""What to classify: files, folders, globs, URLs, standard input and lists of them, one by one."""

from __future__ import annotations

import glob
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli.errors import ImageError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from resnest_cli.decoding import Decoding

    ImageLike = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]

# what a folder is searched for; a file named outright is read whatever it is called
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .dib .tif .tiff .avif .jp2 .j2k .jpx .heic .heif "
    ".ppm .pgm .pbm .pnm .tga .ico .pcx .sgi".split()
)
STDIN = "-"


@dataclass(frozen=True)
class Source:
    """One picture to be, or an input that led to none."""

    name: str  # what the result's `path` says
    content: Any = None  # a Path, a URL, bytes, a PIL image or an array; STDIN
    error: str | None = None  # why there is no picture
    empty: bool = False  # the input was there, but held no picture

    def load(self, decoding: Decoding) -> Image.Image:
        """The picture in mode RGB; `ImageError` says why it cannot be read."""
        from PIL import Image

        from resnest_cli import fetch, images

        if self.error:
            raise ImageError(self.error)
        if isinstance(self.content, Image.Image):
            return images.to_rgb(self.content, decoding)
        if isinstance(self.content, Path):
            _check_regular(self.content)
            return images.decode(self.content, decoding)
        if isinstance(self.content, bytes):
            return images.decode(self.content, decoding)
        if isinstance(self.content, str):
            stdin = self.content == STDIN
            private = decoding.allow_private
            content = (
                _read_stdin() if stdin else fetch.get_picture(self.content, allow_private=private)
            )
            return images.decode(content, decoding)
        return images.from_array(self.content)


def as_source(image: ImageLike | Source) -> Source:
    """One picture of the Python API: a path, URL, bytes, PIL image or array.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(image, Source):
        return image
    if isinstance(image, str | os.PathLike):
        name = os.fspath(image)
        return Source(name, name if is_url(name) else Path(name))
    from PIL import Image

    if isinstance(image, bytes | Image.Image):
        return Source(f"<{type(image).__name__}>", image)
    if type(image).__name__ == "ndarray":
        return Source("<array>", image)
    raise TypeError(f"not a path, URL, bytes, PIL image or array: {type(image).__name__}")


def expand(inputs: Iterable[str]) -> Iterator[Source]:
    """The pictures that inputs name, in their order, each as lazily as can be."""
    for text in inputs:
        if text == STDIN or is_url(text):
            yield Source(text, text)
        elif "\0" in text:
            yield Source(text, error="not a file name")
        elif "://" in text and not os.path.exists(text):
            yield Source(text, error="only http:// and https:// addresses can be read")
        elif os.path.isdir(text):
            yield from _or_empty(text, _walk(text), "the folder holds no picture")
        elif glob.has_magic(text) and not os.path.lexists(text):
            yield from _or_empty(text, _matches(text), "no file matches")
        else:
            yield Source(text, Path(text))


def read_list(path: str) -> Iterator[str]:
    """The inputs in a list, one a line; `-` is standard input; blank lines don't count.

    Raises:
        UsageError: the list cannot be read.
    """
    try:
        with os.fdopen(os.dup(0), "rb") if path == STDIN else open(path, "rb") as file:
            for number, line in enumerate(file):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
                if text := os.fsdecode(line.rstrip(b"\r\n")):
                    yield text
    except OSError as error:
        raise UsageError(f"cannot read the list '{path}': {error.strerror or error}") from error


def is_url(text: str) -> bool:
    """Whether an input is an http or https address."""
    return text.lower().startswith(("http://", "https://"))


def _or_empty(text: str, found: Iterator[Source], message: str) -> Iterator[Source]:
    first = next(found, None)
    if first is None:
        yield Source(text, error=message, empty=True)
    else:
        yield first
        yield from found


def _walk(folder: str) -> Iterator[Source]:
    """The pictures below a folder, sorted by name, links followed, hidden names left out."""
    levels = [iter([folder])]  # of each folder on the way down, what is still to visit
    above: list[tuple[int, int]] = []  # which folders those are, to know links that lead back
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
                    levels.append(iter(_entries(path)))
                    above.append(here)
            except OSError as error:
                reason = f"the folder cannot be read: {error.strerror or error}"
                yield Source(path, error=reason)


def _entries(folder: str) -> list[str]:
    """The folders and pictures in a folder, sorted by name."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    return [
        entry.path
        for entry in entries
        if not entry.name.startswith(".")
        and (os.path.splitext(entry.name)[1].lower() in SUFFIXES or _is_folder(entry))
    ]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _matches(pattern: str) -> Iterator[Source]:
    """The files that a glob matches, sorted; as in the shell, hidden ones need a dot."""
    for name in sorted(glob.iglob(pattern, recursive=True)):
        if not os.path.isdir(name):
            yield Source(name, Path(name))


def _read_stdin() -> bytes:
    if sys.stdin is None:
        raise ImageError("standard input is closed")
    return sys.stdin.buffer.read()


def _check_regular(path: Path) -> None:
    """Raise `ImageError` for what must not or cannot be opened: pipes, devices, folders."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        hint = " (a link to nothing)" if path.is_symlink() else ""
        raise ImageError(f"no such file{hint}") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(mode):
        raise ImageError("a folder, not a picture")
    if not stat.S_ISREG(mode):
        raise ImageError("not a regular file")
