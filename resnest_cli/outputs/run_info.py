"""What gave an output: the record beside a results file, by which a resume is checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from resnest_cli.errors import OutputError
from resnest_cli.files import atomic_write, check_regular
from resnest_cli.version import __version__


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class RunInfo:
    """Provenance of a results file."""

    settings: Mapping[str, Any]  # what decides the rows, as plain JSON values
    device: str  # as it was named, such as cuda:1
    tool: str = f"resnest {__version__}"
    started: str = field(default_factory=_now)  # UTC, ISO 8601
    finished: str | None = None  # the same; empty while rows may follow, None where it is not kept

    def ended(self) -> RunInfo:
        """The same of a run that ends now."""
        return replace(self, finished=_now())

    def write(self, output: Path) -> None:
        """Write the record of an output."""
        with atomic_write(record_path(output)) as path:
            path.write_bytes(self.encoded())

    def encoded(self) -> bytes:
        """The stored form of the record, JSON."""
        values = {key: value for key, value in asdict(self).items() if value is not None}
        return json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def read(cls, output: Path) -> RunInfo:
        """The record of an output; `OutputError` if it is missing or damaged."""
        record = record_path(output)
        try:
            return cls._parsed(record)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"'{record}' is missing or damaged, so the output's settings are unknown"
                "\nstart from scratch with `overwrite`"
            ) from error

    @classmethod
    def is_at(cls, path: Path) -> bool:
        """Whether a file is a record: its content is such as only `write` writes."""
        try:
            tool = path.is_file() and json.loads(path.read_text(encoding="utf-8"))["tool"]
            return str(tool).startswith("resnest ") and bool(cls._parsed(path))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @classmethod
    def _parsed(cls, record: Path) -> RunInfo:
        check_regular(record)
        return cls.parsed(record.read_bytes())

    @classmethod
    def parsed(cls, record: bytes) -> RunInfo:
        """A stored record; `ValueError`, `KeyError` or `TypeError` if it is damaged."""
        values = dict(json.loads(record))
        engine = values.pop("engine", None)  # where version 0.1 wrote it
        settings = {"engine": engine, **values.pop("settings")}
        return cls(settings, **values)

    def check_resumes(
        self, earlier: RunInfo, *, otherwise: str = "start from scratch with `overwrite`"
    ) -> None:
        """Raise `OutputError` unless an earlier run had the same settings."""
        changed = [
            f"{key} was {earlier.settings.get(key)!r}, now {value!r}"
            for key, value in self.settings.items()
            if earlier.settings.get(key, value) != value
        ]
        if changed:
            raise OutputError(
                f"the output belongs to other settings: {'; '.join(changed)}"
                f"\nresume with the same settings, or {otherwise}"
            )


def record_path(output: Path) -> Path:
    """Where the record of an output is: FILE.run.json."""
    return output.with_name(output.name + ".run.json")
