"""Names that are found as they are written, or else in another Unicode form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from resnest_cli.errors import DatasetError
from resnest_cli.text import nfc, printable

Value = TypeVar("Value")


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
