"""The folder of a training run: what lies in it, and the options that the run was begun with."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnest_cli import digests
from resnest_cli.errors import OutputError, UsageError
from resnest_cli.files import into_place
from resnest_cli.terminal import SUMMARY

log = logging.getLogger(__name__)

STATE, ENDED, SKIPPED, HELD_OUT, OPTIONS = (
    "state.pt", "summary.json", "skipped.csv", "val.csv", "run.json"
)  # fmt: skip
_RECORD = (
    "best.safetensors", "last.safetensors", "history.csv", "curves.png", STATE, ENDED, HELD_OUT,
    OPTIONS,
)  # fmt: skip


_DIGEST = "weights_sha256"  # beside the options


@dataclass(frozen=True)
class RunFolder:
    """Where a run leaves what it gives, and keeps what it needs to be gone on with."""

    path: Path

    def __str__(self) -> str:
        """As messages name it."""
        return str(self.path)

    def left(self) -> list[str]:
        """What a run has left here."""
        return [name for name in _RECORD if (self.path / name).exists()]

    def has_ended(self, *, resume: bool, overwrite: bool) -> bool:
        """Whether the run that is to be resumed is over.

        Raises:
            UsageError: it is to be resumed and replaced.
            OutputError: there is a run, and it is to be neither.
        """
        if resume and overwrite:
            raise UsageError("--resume and --overwrite exclude each other")
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"'{self}' is a file; give a folder with --output")
        there = self.left()
        if resume and ENDED in there:
            log.log(
                SUMMARY,
                "the run in '%s' has ended; to train further, give --weights %s and another "
                "--output",
                self,
                self.path / "last.safetensors",
            )
            return True
        begun = set(there) - {OPTIONS}
        if resume and not begun:
            log.log(SUMMARY, "'%s' holds no run to go on with; this one begins", self)
        if begun and not (resume or overwrite):
            raise OutputError(
                f"'{self}' holds a training run already ({there[0]})\n"
                "go on with it: --resume; replace it: --overwrite; or another folder: --output"
            )
        return False

    def check_not_replaced(self, teachers: Iterable[Path]) -> None:
        """Raise `UsageError` if the run would write over one of its teachers."""
        for file in teachers:
            if file.resolve().parent == self.path.resolve() and file.name in _RECORD:
                raise UsageError(
                    f"the teacher '{file}' would be replaced by what it teaches\n"
                    "give another folder with --output"
                )

    def check_no_state_is_missing(self, there: Sequence[str], weights: Path | None) -> None:
        """Raise `OutputError` if a run got further than its beginning, of which `there` is left."""
        if set(there) - {HELD_OUT, OPTIONS, *self._own(there, weights)}:
            raise OutputError(
                f"'{self}' holds a run, but not its state ({STATE}), so it cannot be gone on with\n"
                "begin anew with --overwrite, or with --weights and another --output"
            )

    def clear(self, weights: Path | None, *, skipped: bool) -> None:
        """Remove what an earlier run left, and its list of pictures if `skipped`.

        Weights to begin from that lie here stay until an epoch gives better ones.
        """
        there = self.left()
        for name in {*there, *([SKIPPED] if skipped else [])} - set(self._own(there, weights)):
            (self.path / name).unlink(missing_ok=True)

    def _are_others(self, weights: Path | None, digest: str | None) -> bool:
        """Whether weights have another digest; of files that the run writes none can tell."""
        if not (weights and digest and weights.is_file()) or self._own(_RECORD, weights):
            return False
        return digests.of(weights) != digest

    def _own(self, there: Sequence[str], weights: Path | None) -> list[str]:
        """Those of its files that a run begins from."""
        return [n for n in there if weights and (self.path / n).resolve() == weights.resolve()]

    def keep(self, options: Mapping[str, Any]) -> None:
        """Write down the options of a run that begins; None stands for those that aren't given."""
        values = {k: _plain(v) for k, v in options.items() if v is not None}
        if weights := options["weights"]:
            values[_DIGEST] = digests.of(weights)
        text = json.dumps(values, indent=2)
        with into_place(self.path / OPTIONS) as beside:
            beside.write_text(text + "\n", encoding="utf-8")

    def kept(self, given: Mapping[str, Any]) -> dict[str, Any] | None:
        """The options of the run, under the names in `given`; None where none are kept.

        Paths that are given take the place of the run's: files are moved. So does `no_check`, which
        changes nothing of a run whose pictures can all be read.

        Raises:
            UsageError: another value than the run's is given.
            OutputError: the file that holds them is damaged, or cannot be read.
        """
        file = self.path / OPTIONS
        if not file.is_file():
            return None
        try:
            kept = dict(json.loads(file.read_text(encoding="utf-8")))
        except OSError as error:
            raise OutputError(f"'{file}' cannot be read: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise OutputError(f"'{file}' is damaged\nbegin anew with --overwrite") from error
        anew = {
            name: value
            for name, value in given.items()
            if isinstance(value, (Path, list)) or (name == "no_check" and value)
        }
        differing = [
            _difference(name, kept.get(name), value)
            for name, value in given.items()
            if value is not None and name not in anew and value != kept.get(name)
        ]
        if self._are_others(given["weights"], kept.get(_DIGEST)):
            differing.append(f"other weights than '{given['weights']}'")
        if differing:
            raise UsageError(
                f"the run in '{self}' was begun with {'; '.join(differing)}\n"
                "leave that out to go on with it, or begin anew with --overwrite"
            )
        return {name: kept.get(name) for name in given} | anew


def _difference(name: str, kept: object, given: object) -> str:
    option = f"--{name.replace('_', '-')}"
    if kept in (None, False) and given is True:
        return f"no {option}"
    return f"{option} {'as it is by default' if kept is None else kept}, not {given}"


def _plain(value: object) -> object:
    """Paths as they are from any folder, by their own names where they are links."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return str(value.absolute()) if isinstance(value, Path) else value
