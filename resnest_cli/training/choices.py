"""The options of a run, kept beside what it gives, so that it can be gone on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnest_cli.errors import OutputError, UsageError
from resnest_cli.files import into_place

FILE = "run.json"


def keep(folder: Path, chosen: Mapping[str, Any]) -> None:
    """Write down the options of a run that begins; None stands for those that are not given."""
    text = json.dumps({k: _plain(v) for k, v in chosen.items() if v is not None}, indent=2)
    with into_place(folder / FILE) as path:
        path.write_text(text + "\n", encoding="utf-8")


def take_up(folder: Path, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """The options of the run in a folder, under the names in `given`; None where there is none.

    A path that is given takes the place of the run's: files are moved.

    Raises:
        UsageError: another value than the run's is given.
        OutputError: the file that holds them is damaged, or cannot be read.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        kept = dict(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise OutputError(f"'{file}' cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise OutputError(f"'{file}' is damaged\nbegin anew with --overwrite") from error
    moved = {name: value for name, value in given.items() if isinstance(value, Path)}
    differing = [
        f"{_option(name)} {kept.get(name, 'as it is by default')}, not {value}"
        for name, value in given.items()
        if value is not None and name not in moved and value != kept.get(name)
    ]
    if differing:
        raise UsageError(
            f"the run in '{folder}' was begun with {'; '.join(differing)}\n"
            "leave that out to go on with it, or begin anew with --overwrite"
        )
    return {name: kept.get(name) for name in given} | moved


def _plain(value: object) -> object:
    """A path as it is from any folder, by its own name where it is a link."""
    return str(value.absolute()) if isinstance(value, Path) else value


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
