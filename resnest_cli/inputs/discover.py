"""Files, folders, globs, URLs, standard input and lists to images, walked lazily and once."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from resnest_cli.errors import ResNeStError, UsageError
from resnest_cli.inputs.archives import is_archive_file, reader
from resnest_cli.inputs.buckets import expand_url, names_object, or_empty
from resnest_cli.inputs.lists import read_list
from resnest_cli.inputs.patterns import Selection, existing, matches
from resnest_cli.inputs.source import STDIN, Source, is_url
from resnest_cli.inputs.stores import is_store_url
from resnest_cli.inputs.walk import LeftOut, walk

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What is to be classified."""

    # image files, archives, folders, globs, http(s) URLs, and all of these in object stores, as
    # s3://, gs:// and az://; `-` is one image on standard input
    named: tuple[str, ...] = ()
    files_from: str | None = None  # a list of further inputs, one a line; `-` is standard input
    # globs; of folders, only the files that match one are taken. A pattern with a slash is matched
    # against the path below the folder, one without against the file's name
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()  # globs; of folders, files that match one are left out
    limit: int | None = None  # take only the first N images
    null: bool = False  # a NUL character ends each input of the list, and not its line

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
        if self.null and self.files_from is None:
            raise UsageError("`null` says how a list is separated: give the list as `files_from`")

    @property
    def is_one_image(self) -> bool:
        """Whether a single image is named, and nothing else: a file, a URL or standard input."""
        if len(self.named) != 1 or self.files_from:
            return False
        (name,) = self.named
        one = os.path.isfile(name) and not is_archive_file(name)
        return name == STDIN or is_url(name) or names_object(name) or one

    def sources(self, left_out: LeftOut | None = None) -> Iterator[Source]:
        """The images, lazily, in order; an input that leads to none is a source with an error.

        What folders hold besides images is counted in `left_out`.

        Raises:
            UsageError: the list is missing or cannot be read.
            ResNeStError: no input leads to any image.
        """
        left_out = LeftOut() if left_out is None else left_out
        listed = read_list(self.files_from, null=self.null) if self.files_from else iter(())
        walk = self._walk(listed, left_out)
        passed: list[Source] = []  # inputs that hold no image
        for source in walk:
            passed.append(source)
            if not source.empty:
                return islice(chain(passed, walk), self.limit)
        reason = f"{passed[-1].error}: '{passed[-1].name}'" if passed else "the list is empty"
        besides = f"; {left_out}" if left_out else ""
        raise ResNeStError(f"nothing to classify: {reason}{besides}")

    def _walk(self, listed: Iterable[str], left_out: LeftOut) -> Iterator[Source]:
        selection = Selection(self.include, self.exclude)
        folders = not selection
        for name, in_list in chain(zip(self.named, repeat(False)), zip(listed, repeat(True))):
            folders = folders or os.path.isdir(name) or is_store_url(name)
            if in_list and name == STDIN:
                yield Source(name, error="standard input cannot be named in a list")
            else:
                yield from expand([name], selection, left_out)
        if not folders:
            log.warning("`include` and `exclude` select files of folders, and no input is a folder")


def expand(
    inputs: Iterable[str], selection: Selection | None = None, left_out: LeftOut | None = None
) -> Iterator[Source]:
    """The images that `Inputs.named` names, in order, as lazily as possible."""
    selection, left_out = selection or Selection(), LeftOut() if left_out is None else left_out
    for text in inputs:
        if text == STDIN or is_url(text):
            yield Source(text, text)
        elif is_store_url(text):
            yield from expand_url(text, selection, left_out)
        elif "\0" in text:
            yield Source(text, error="not a file name")
        elif "://" in text and not os.path.exists(text):
            yield Source(text, error="only http, https, s3, gs and az URLs can be read")
        else:
            try:
                yield from _found(text, selection, left_out)
            except ResNeStError as error:  # its name is ambiguous
                yield Source(text, error=str(error))


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


def _found(text: str, selection: Selection, left_out: LeftOut) -> Iterator[Source]:
    """The images of a file, a folder or a glob."""
    path = existing(text)
    if path is not None and os.path.isdir(path):
        wanted = selection.within(path)
        found = (
            source if path == text else replace(source, name=text + source.name[len(path) :])
            for source in walk(path, left_out)
            if source.error or not selection or wanted(os.path.relpath(source.name, path))
        )
        nothing = "the folder holds no image"
        if selection:
            nothing += " that `include` and `exclude` select"
        yield from or_empty(text, found, nothing)
    elif path is None and glob.has_magic(text):
        names = matches(text, left_out)
        files = chain.from_iterable(_file(name, name, left_out) for name in names)
        yield from or_empty(text, files, "no file matches")
    else:
        yield from _file(text, text if path is None else path, left_out)


def _file(name: str, path: str, left_out: LeftOut) -> Iterator[Source]:
    """An image file, or the images of an archive."""
    listing = reader(path) if is_archive_file(path) else None
    if listing is None or _is_image(path):
        yield Source(name, Path(path))
    else:
        yield from or_empty(name, listing(path, left_out), "the archive holds no image")


def _is_image(path: str) -> bool:
    """Whether a file called as an archive is an image."""
    try:
        with open(path, "rb") as file:
            return file.read(8).startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8"))
    except OSError:
        return True  # its row says why
