"""Text that is safe to print, to store and to read."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def utf8(text: str) -> str:
    """Text that UTF-8 can hold: undecodable bytes of file names become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    """Text that is safe at a terminal: control characters and lone surrogates become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """Text with every run of white space as one space."""
    return " ".join(text.split())


def counted(count: int, noun: str) -> str:
    """A number and its noun: `1 image`, `1,200 images`, `2 classes`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list, quoted, for a message."""
    shown = ", ".join(f"'{printable(name)}'" for name in names[:most])
    return shown + (f" and {len(names) - most:,} more" if names[most:] else "")


def nfc(text: str) -> str:
    """Text in Unicode's form NFC, in which most letters with marks are one character."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)
