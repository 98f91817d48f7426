"""URLs of object stores to the images there: objects, prefixes, globs and archives, lazily."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from resnest_cli.errors import ResNeStError
from resnest_cli.imaging.image_formats import is_image_name
from resnest_cli.inputs import stores
from resnest_cli.inputs.archives import is_taken, reader
from resnest_cli.inputs.patterns import Selection
from resnest_cli.inputs.source import Source, stored
from resnest_cli.inputs.stores import NoObject, StoreError, is_store_url, split
from resnest_cli.inputs.walk import LeftOut


def names_object(text: str) -> bool:
    """Whether a URL names one image in a store, by its suffix."""
    key = split(text)[1] if is_store_url(text) else ""
    return is_image_name(key) and not glob.has_magic(key)


def expand_url(text: str, selection: Selection, left_out: LeftOut) -> Iterator[Source]:
    """The images that a URL names.

    `ResNeStError` if the store refuses the keys, or does not answer: what it holds is not known.
    """
    try:
        yield from _found(text, selection, left_out)
    except NoObject as error:
        yield Source(text, error=str(error))
    except StoreError as error:
        raise ResNeStError(f"'{text}' cannot be listed: {error}{_hint(error)}") from error


def _hint(error: StoreError) -> str:
    if error.of_access:
        names = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION"
        return f"\nset the store's variables, such as {names}"
    return "\ntry again later" if error.may_pass else ""


def _found(text: str, selection: Selection, left_out: LeftOut) -> Iterator[Source]:
    root, key = split(text)
    if root.endswith("://"):
        yield Source(text, error="the URL names no bucket")
    elif names_object(text):
        yield stored(text)
    elif not key or key.endswith("/"):
        yield from or_empty(text, _below(text, selection, left_out), _NOTHING)
    elif glob.has_magic(key) and stores.size(text) is None:
        yield from or_empty(text, _matches(root, key, left_out), "no object matches")
    elif is_image_name(key) or reader(key):
        yield from _object(text, left_out)
    else:
        found = _below(f"{text}/", selection, left_out)
        first = next(found, None)
        if first:
            yield first
            yield from found
        elif (size := stores.size(text)) is not None:
            yield stored(text, size)
        else:
            yield Source(text, error=_NOTHING, empty=True)


_NOTHING = "the store holds no image there"


def _object(url: str, left_out: LeftOut, size: int = -1) -> Iterator[Source]:
    """An image, or the images of an archive."""
    listing = reader(url)
    if listing is None:
        yield stored(url, size)
    else:
        yield from or_empty(url, listing(url, left_out), "the archive holds no image")


def _below(url: str, selection: Selection, left_out: LeftOut) -> Iterator[Source]:
    """The images below a prefix, as in a folder."""
    root, prefix = split(url)
    wanted = selection.within(url)
    for key, size in stores.keys(url):
        below = key[len(prefix) :]
        is_marker = not size and not is_image_name(key)  # as consoles make them for folders
        if not is_marker and is_taken(below, left_out) and wanted(below):
            yield stored(f"{root}/{key}", size)


def _matches(root: str, pattern: str, left_out: LeftOut) -> Iterator[Source]:
    """The objects that a glob matches, and the images of the archives among them."""
    parts = pattern.split("/")
    plain = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    prefix = "".join(f"{part}/" for part in parts[:plain])
    for key, size in stores.keys(f"{root}/{prefix}"):
        if _fits(key.split("/"), parts):
            yield from _object(f"{root}/{key}", left_out, size)


def _fits(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a key's parts match a glob's; as in the shell, hidden ones need a dot."""
    if not patterns or not parts:
        return not patterns and not parts
    pattern, *rest = patterns
    if pattern == "**":
        shown = not parts[0].startswith(".")
        return _fits(parts, rest or ["*"]) or (shown and _fits(parts[1:], patterns))
    hidden = parts[0].startswith(".") and not pattern.startswith(".")
    return not hidden and fnmatchcase(parts[0], pattern) and _fits(parts[1:], rest)


def or_empty(text: str, found: Iterator[Source], message: str) -> Iterator[Source]:
    """The images found under a name; a source with a message if there are none."""
    first = next(found, None)
    if first is None:
        yield Source(text, error=message, empty=True)
    else:
        yield first
        yield from found
