"""Files, folders, globs, URLs, standard input and lists to images, walked lazily and once."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain, islice
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from resnest_cli.errors import ResNeStError, UsageError
from resnest_cli.inputs.source import STDIN, Source, is_url

# what a folder is searched for; a file named outright is read whatever it is called
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .dib .tif .tiff .avif .jp2 .j2k .jpx .heic .heif "
    ".ppm .pgm .pbm .pnm .tga .ico .pcx .sgi".split()
)


@dataclass(frozen=True)
class Inputs:
    """What is to be classified."""

    # image files, folders, globs, http(s) URLs; `-` is one image on standard input
    named: tuple[str, ...] = ()
    files_from: str | None = None  # a list of further inputs, one a line; `-` is standard input
    # globs; of folders, only the files that match one are taken. A pattern with a slash is matched
    # against the path below the folder, one without against the file's name
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()  # globs; of folders, files that match one are left out
    limit: int | None = None  # take only the first N images

    def __post_init__(self) -> None:
        """Take a lone text or path as one name; `UsageError` for no input, or two on `-`."""
        for name in ("named", "include", "exclude"):
            value = getattr(self, name)
            values = (value,) if isinstance(value, str | os.PathLike) else value
            object.__setattr__(self, name, tuple(map(os.fspath, values)))
        if not self.named and self.files_from is None:
            raise UsageError("no inputs; name images, folders, globs, URLs or -")
        if (*self.named, self.files_from).count(STDIN) > 1:
            raise UsageError("standard input holds one image or one list: give - only once")

    @property
    def is_one_image(self) -> bool:
        """Whether a single image is named, and nothing else: a file, a URL or standard input."""
        if len(self.named) != 1 or self.files_from:
            return False
        (name,) = self.named
        return name == STDIN or is_url(name) or os.path.isfile(name)

    def sources(self) -> Iterator[Source]:
        """The images, lazily, in order; an input that leads to none is a source with an error.

        Raises:
            UsageError: the list is missing or cannot be read.
            ResNeStError: no input leads to any image.
        """
        if self.files_from and not os.access(self.files_from, os.R_OK) and self.files_from != STDIN:
            raise UsageError(f"`files_from` must be a readable list, not '{self.files_from}'")
        walk = self._walk()
        passed: list[Source] = []  # inputs that hold no image
        for source in walk:
            passed.append(source)
            if not source.empty:
                return islice(chain(passed, walk), self.limit)
        reason = f"{passed[-1].error}: '{passed[-1].name}'" if passed else "the list is empty"
        raise ResNeStError(f"nothing to classify: {reason}")

    def _walk(self) -> Iterator[Source]:
        some = "the folder holds no image"
        if self.include or self.exclude:
            some += " that `include` and `exclude` select"
        yield from expand(self.named, self._wanted, some)
        for name in read_list(self.files_from) if self.files_from else ():
            if name == STDIN:
                yield Source(name, error="standard input cannot be named in a list")
            else:
                yield from expand([name], self._wanted, some)

    def _wanted(self, path: str) -> bool:
        return is_selected(path, self.include, self.exclude)


def is_selected(path: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether a path below a folder matches `include`, if that has patterns, and not `exclude`."""
    included = not include or any(_fits(path, pattern) for pattern in include)
    return included and not any(_fits(path, pattern) for pattern in exclude)


def expand(
    inputs: Iterable[str],
    wanted: Callable[[str], bool] = lambda _: True,
    nothing: str = "the folder holds no image",
) -> Iterator[Source]:
    """The images that `Inputs.named` names, in order, as lazily as possible.

    `wanted` chooses among the files of a folder, by their paths below it; `nothing` is the error of
    a folder without any.
    """
    for text in inputs:
        if text == STDIN or is_url(text):
            yield Source(text, text)
        elif "\0" in text:
            yield Source(text, error="not a file name")
        elif "://" in text and not os.path.exists(text):
            yield Source(text, error="only http:// and https:// URLs can be read")
        elif os.path.isdir(text):
            found = (s for s in _walk(text) if s.error or wanted(os.path.relpath(s.name, text)))
            yield from _or_empty(text, found, nothing)
        elif glob.has_magic(text) and not os.path.lexists(text):
            yield from _or_empty(text, _matches(text), "no file matches")
        else:
            yield Source(text, Path(text))


def walk_ahead(sources: Iterator[Source], on_total: Callable[[int], None]) -> Iterator[Source]:
    """The same sources, listed to the end in a thread of its own, which reports their number."""
    queue: SimpleQueue[Source | ResNeStError | None] = SimpleQueue()

    def walk() -> None:
        count = 0
        try:
            for source in sources:
                queue.put(source)
                count += 1
        except ResNeStError as error:  # raised where the source is waited for
            queue.put(error)
        else:
            on_total(count)
            queue.put(None)

    Thread(target=walk, name="walk", daemon=True).start()
    while (item := queue.get()) is not None:
        if isinstance(item, ResNeStError):
            raise item
        yield item


def read_list(path: str) -> Iterator[str]:
    """The inputs in a list, one a line without blank ones; `UsageError` if it cannot be read."""
    try:
        with os.fdopen(os.dup(0), "rb") if path == STDIN else open(path, "rb") as file:
            for number, line in enumerate(file):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
                if text := os.fsdecode(line.rstrip(b"\r\n")):
                    yield text
    except OSError as error:
        raise UsageError(f"cannot read the list '{path}': {error.strerror or error}") from error


def _fits(path: str, pattern: str) -> bool:
    return fnmatchcase(path if "/" in pattern else os.path.basename(path), pattern)


def _or_empty(text: str, found: Iterator[Source], message: str) -> Iterator[Source]:
    first = next(found, None)
    if first is None:
        yield Source(text, error=message, empty=True)
    else:
        yield first
        yield from found


def _walk(folder: str) -> Iterator[Source]:
    """The images below a folder, sorted by name, links followed, hidden names left out."""
    levels = [iter([folder])]  # of each folder on the way down, what is still to visit
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
                    levels.append(iter(_entries(path)))
                    above.append(here)
            except OSError as error:
                yield Source(path, error=f"the folder cannot be read: {error.strerror or error}")


def _entries(folder: str) -> list[str]:
    """The folders and images in a folder, sorted by name."""
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
        return entry.is_dir()  # unlike os.path.isdir, mostly without asking the file system
    except OSError:
        return False


def _matches(pattern: str) -> Iterator[Source]:
    """The files that a glob matches, sorted; as in the shell, hidden ones need a dot."""
    for name in sorted(glob.iglob(pattern, recursive=True)):
        if not os.path.isdir(name):
            yield Source(name, Path(name))
