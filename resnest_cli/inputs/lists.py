"""Lists of inputs, in the encodings and with the separators that programs write."""

from __future__ import annotations

import codecs
import io
import logging
import os
from collections.abc import Iterator
from itertools import chain, islice
from typing import IO

from resnest_cli.errors import UsageError
from resnest_cli.inputs.source import STDIN
from resnest_cli.progress import SUMMARY
from resnest_cli.text import counted

log = logging.getLogger(__name__)

_MARKS = (  # UTF-32's first, as UTF-16's begins it
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, if a file's first bytes are its byte order mark, as Windows writes it."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def read_list(path: str, *, null: bool = False) -> Iterator[str]:
    """The inputs in a list, lazily, one a line without blank ones; `-` is standard input.

    A line that begins with `#` and names no file is a comment. With `null` a NUL character ends
    each input instead, and there are no comments.

    Raises:
        UsageError: now, if it cannot be read or its separators are others; later, if its text is
            damaged.
    """
    entries = _entries(path, null=null)
    return chain([*islice(entries, 1)], entries)


def _entries(path: str, *, null: bool) -> Iterator[str]:
    comments, encoding = 0, None
    try:
        with os.fdopen(os.dup(0), "rb") if path == STDIN else open(path, "rb") as file:
            head = file.peek(io.DEFAULT_BUFFER_SIZE)
            encoding = wide_encoding(head)
            if null and encoding:
                raise UsageError(f"the list '{path}' is text in {encoding}: leave out `null`")
            if b"\0" in head and not encoding and _is_unmarked_utf16(head):
                raise UsageError(
                    f"the list '{path}' looks like UTF-16 without its byte order mark\n"
                    "write it in UTF-8, or with the mark"
                )
            if b"\0" in head and not (null or encoding):
                raise UsageError(
                    f"the list '{path}' is not lines of text: it holds NUL characters\n"
                    "if they end the names, as find's -print0 writes them, use `null`"
                )
            for text in _until_nul(file, path) if null else _lines(file, encoding):
                if not null and text.startswith("#") and not os.path.lexists(text):
                    comments += 1
                elif text:
                    yield text
    except UnicodeError as error:
        raise UsageError(f"the list '{path}' is damaged: it is not {encoding}") from error
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"`files_from` must be a readable list, not '{path}': {reason}") from error
    if comments:
        log.log(SUMMARY, "%s of the list '%s' skipped", counted(comments, "comment line"), path)


def _lines(file: IO[bytes], encoding: str | None) -> Iterator[str]:
    if encoding:
        with io.TextIOWrapper(file, encoding, newline="\n") as text:
            yield from (line.rstrip("\r\n") for line in text)
        return
    for number, line in enumerate(file):  # names may be any bytes
        line = line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
        yield os.fsdecode(line.rstrip(b"\r\n"))


def _is_unmarked_utf16(head: bytes) -> bool:
    """Whether nearly every other byte is zero, as in Latin text."""
    return any(9 * len(half) < 10 * half.count(0) for half in (head[::2], head[1::2]))


def _until_nul(file: IO[bytes], path: str) -> Iterator[str]:
    found, rest = 0, b""
    chunk = file.read(io.DEFAULT_BUFFER_SIZE).removeprefix(codecs.BOM_UTF8)
    while chunk:
        *whole, rest = (rest + chunk).split(b"\0")
        found += len(whole)
        yield from map(os.fsdecode, whole)
        chunk = file.read(io.DEFAULT_BUFFER_SIZE)
    if not found and b"\n" in rest:
        raise UsageError(f"the list '{path}' holds no NUL character: leave out `null`")
    yield os.fsdecode(rest)
