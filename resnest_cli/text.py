"""Text that is safe to print, to store and to read."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from resnest_cli.errors import DatasetError

Value = TypeVar("Value")


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


class Names(Generic[Value]):
    """Values by name: that of an equal name, else of the one that is equal in the form NFC.

    File systems and programs differ in the form that they write: macOS keeps what it is given, and
    many programs give it NFD.
    """

    def __init__(self, items: Iterable[tuple[str, Value]]) -> None:
        self._values = dict(items)
        self._spelled: dict[str, list[str]] = {}  # of each name in NFC, the names as they are
        for name in self._values:
            if not name.isascii():
                self._spelled.setdefault(nfc(name), []).append(name)

    def get(self, name: str) -> Value | None:
        """The value of a name; `DatasetError` if several names are equal to it in NFC alone."""
        if name in self._values:
            return self._values[name]
        same = self._spelled.get(nfc(name), [nfc(name)])
        if len(same) > 1:
            raise DatasetError(
                f"'{printable(name)}' is ambiguous: {len(same)} names differ from it only in how "
                "Unicode writes their letters; rename all but one"
            )
        return self._values.get(same[0])
