"""One image to be read, wherever it comes from."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from resnest_cli.errors import MAY_PASS, ImageError
from resnest_cli.inputs.members import OBJECT, Member
from resnest_cli.inputs.stores import is_store_url

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from resnest_cli.imaging.decode_options import DecodeOptions

    ImageLike = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[np.uint8]

STDIN = "-"
_OFFLINE = "the network is off (option offline or $RESNEST_OFFLINE)"
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar")
_ONE = (str, bytes, bytearray, memoryview, os.PathLike)  # could be iterated over, and must not be


@dataclass(frozen=True)
class Source:
    """One image to be read, or an input that led to none."""

    name: str  # the result's `path`
    content: Any = (
        None  # a Path, a URL, bytes, a file object or `Member`, a PIL image or an array; STDIN
    )
    error: str | None = None  # why there is no image
    empty: bool = False  # the input exists but holds no image

    @property
    def file(self) -> Path | None:
        """The local file that holds the image, an archive maybe."""
        path = self.content if isinstance(self.content, Path) else None
        if isinstance(self.content, Member) and not self.is_stored:
            return Path(self.content.file)
        return path

    @property
    def is_stored(self) -> bool:
        """Whether the image, or the archive that holds it, lies in an object store."""
        return isinstance(self.content, Member) and is_store_url(self.content.file)

    @property
    def is_object(self) -> bool:
        """Whether the image is an object of a store itself."""
        return isinstance(self.content, Member) and self.content.kind == OBJECT

    def load(self, options: DecodeOptions) -> Image.Image:
        """The image in mode RGB; `ImageError`, with the reason in one line, if it has none."""
        from PIL import Image

        from resnest_cli.imaging import decode

        if self.error:
            raise ImageError(self.error)
        if isinstance(self.content, Image.Image):
            return decode.to_rgb(self.content, options, name=self.name)
        if isinstance(self.content, Path):
            _check_regular(self.content)
        elif isinstance(self.content, str):
            stdin = self.content == STDIN
            content = _read_stdin() if stdin else _fetch(self.content, options)
            return decode.decode(content, options, name=self.name)
        elif hasattr(self.content, "read"):
            if self.is_stored and options.offline:
                raise ImageError(_OFFLINE)
            return decode.decode(_read_file(self.content), options, name=self.name)
        elif not isinstance(self.content, bytes):
            return decode.from_array(self.content)
        try:
            return decode.decode(self.content, options, name=self.name)
        except ImageError as error:
            if is_archive(self.name):
                raise ImageError("an archive: unpack it, and name the folder") from error
            raise


def as_source(image: ImageLike | Source) -> Source:
    """One image of the Python API, see `Classifier.__call__`; `TypeError` for anything else."""
    if isinstance(image, Source):
        return image
    if isinstance(image, str | os.PathLike):
        name = os.fsdecode(image)
        if is_store_url(name):
            return stored(name)
        return Source(name, name if is_url(name) else Path(name))
    from PIL import Image

    kind = type(image).__name__
    if isinstance(image, bytes | bytearray | memoryview):
        return Source(f"<{kind}>", bytes(image))
    if isinstance(image, Image.Image):
        return Source(f"<{kind}>", image)
    if kind == "ndarray":
        return Source("<array>", image)
    if hasattr(image, "read"):
        path = getattr(image, "name", None)
        return Source(path if isinstance(path, str) else f"<{kind}>", image)
    raise TypeError(f"not a path, URL, bytes, file object, PIL image or array: {kind}")


def stored(url: str, size: int = -1) -> Source:
    """An image in an object store, and its bytes if they are known."""
    return Source(url, Member(OBJECT, url, (0, size)))


def as_sources(images: Iterable[ImageLike | Source]) -> Iterator[Source]:
    """Several images, lazily; what is none becomes a source with an error.

    Raises:
        TypeError: `images` is one image itself.
    """
    shape: tuple[int, ...] = getattr(images, "shape", ())  # of an array
    several = isinstance(images, Iterable) and not isinstance(images, _ONE) and len(shape) != 2
    if not several or hasattr(images, "read") or (len(shape) == 3 and shape[-1] in (1, 3, 4)):
        shown = repr(images) if isinstance(images, str | os.PathLike) else type(images).__name__
        raise TypeError(
            f"several images are needed, such as a list of paths, not one: {shown}\n"
            "put it into a list, or call the classifier with it"
        )
    return map(_source_or_error, images)


def _source_or_error(image: ImageLike | Source) -> Source:
    try:
        return as_source(image)
    except TypeError as error:
        return Source(f"<{type(image).__name__}>", error=str(error))


def is_url(text: str) -> bool:
    """Whether an input is an http or https URL."""
    return text.lower().startswith(("http://", "https://"))


def is_archive(name: str) -> bool:
    """Whether a file, by its name, is an archive or compressed."""
    return name.lower().endswith(_ARCHIVES)


def _fetch(url: str, options: DecodeOptions) -> bytes:
    from resnest_cli.net.http import get_image

    if options.offline:
        raise ImageError(_OFFLINE)
    return get_image(url, allow_private=options.allow_private)


def _read_stdin() -> bytes:
    if sys.stdin is None:
        raise ImageError("standard input is closed")
    return sys.stdin.buffer.read()


def _read_file(file: Any) -> bytes:
    """What a file object holds from its present position on."""
    try:
        content = file.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise _unreadable(error) from error
    if not isinstance(content, bytes):
        raise ImageError("a file object that gives no bytes; open the file in mode 'rb'")
    return content


def _unreadable(error: OSError | ValueError) -> ImageError:
    reason = getattr(error, "strerror", None) or error
    return ImageError(f"cannot be read: {reason}", may_pass=getattr(error, "errno", 0) in MAY_PASS)


def _check_regular(path: Path) -> None:
    """Raise `ImageError` for what must not or cannot be opened: pipes, devices, folders."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        hint = " (a dangling link)" if path.is_symlink() else ""
        raise ImageError(f"no such file{hint}") from error
    except (OSError, ValueError) as error:
        raise _unreadable(error) from error
    if stat.S_ISDIR(mode):
        raise ImageError("a folder, not an image")
    if not stat.S_ISREG(mode):
        raise ImageError("not a regular file")
