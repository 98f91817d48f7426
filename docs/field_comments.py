"""For the Python reference: the comments of a dataclass's fields are its parameters' descriptions.

An extension of griffe, which mkdocstrings reads sources with.
"""

from __future__ import annotations

from typing import Any

import griffe


class FieldComments(griffe.Extension):
    """Adds a list of parameters to dataclasses that have none in their docstrings."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Read the comments behind and above each field."""
        if "dataclass" not in cls.labels or not cls.docstring or "Args:" in cls.docstring.value:
            return
        lines = cls.lines
        found = []
        for name, field in cls.attributes.items():
            number = (field.lineno or 0) - (cls.lineno or 0)
            inherited = field.filepath != cls.filepath or not 0 < number < len(lines)
            if inherited or "property" in field.labels:
                continue
            if comment := _comment(lines, number):
                found.append(f"    {name}: {comment}")
        if found:
            cls.docstring.value += "\n\nArgs:\n" + "\n".join(found)


def _comment(lines: list[str], number: int) -> str:
    """The comment on a line, and those on the lines right above it."""
    above: list[str] = []
    for line in reversed(lines[:number]):
        if not line.strip().startswith("#"):
            break
        above.insert(0, line.strip().lstrip("# "))
    behind = lines[number].partition("  # ")[2]
    return " ".join([*above, behind]).strip()
