"""The folder of a training run: what it may hold before, and the recipe stored for resuming."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from resnest_cli import hashing
from resnest_cli.datasets.repeats import FINGERPRINTS
from resnest_cli.errors import OutputError, UsageError
from resnest_cli.files import atomic_write, leftovers, locked, os_errors, writable_folder
from resnest_cli.progress import SUMMARY
from resnest_cli.text import listed
from resnest_cli.training.recipe import Options, Recipe, make_recipe, read_options, spelled
from resnest_cli.training.summary import SUMMARY_FILE

log = logging.getLogger(__name__)

STATE, SKIPPED, HELD_OUT, RECIPE = "state.pt", "skipped.csv", "val.csv", "run.json"
REPEATED = "repeated.csv"
FILES = (
    "best.safetensors", "last.safetensors", "history.csv", "curves.png", STATE, SUMMARY_FILE,
    HELD_OUT, SKIPPED, RECIPE, REPEATED, FINGERPRINTS,
)  # fmt: skip
_BEFORE_TRAINING = {HELD_OUT, SKIPPED, RECIPE, REPEATED, FINGERPRINTS}
# what no stored recipe lacks
_ALWAYS_STORED = {field.name for field in fields(Recipe) if field.default not in (None, ())}
# what may be given anew when a run is resumed: files may have moved, and the check changes nothing
# if all images are readable
_MAY_DIFFER = ("weights", "val", "teacher", "check")


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes its results, and what it needs to be resumed."""

    path: Path
    resume: bool = False  # continue the run that it holds
    overwrite: bool = False  # replace it

    def __str__(self) -> str:
        """As messages name it."""
        return str(self.path)

    def existing(self) -> list[str]:
        """The names of a run's files that are taken, by a run or by anything else."""
        return [name for name in FILES if os.path.lexists(self.path / name)]

    def has_ended(self) -> bool:
        """Whether the run to resume is finished.

        Raises:
            OutputError: a run or other files are in the way, or there is nothing to resume.
        """
        if self.resume and self.overwrite:
            raise UsageError("`resume` and `overwrite` cannot be used together")
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"'{self}' is a file; `output` must be a folder")
        existing = self.existing()
        ours = self._has_recipe()
        if self.resume and ours and SUMMARY_FILE in existing:
            last = self.path / "last.safetensors"
            hint = "to train further, use `weights=%s` and another `output`"
            log.log(SUMMARY, f"the run in '%s' has ended; {hint}", self, last)
            return True
        if self.resume:
            self._stored()  # raises if it is damaged
        if self.resume and not ours:
            found = f"it holds {listed(existing, 2)}, but no {RECIPE} of a run" if existing else ""
            raise OutputError(
                f"nothing to resume in '{self}'{found and ': '}{found}\n"
                "leave out `resume` to start a run, or name the folder of one with `output`"
            )
        # a run that has not begun to train may be started again
        in_the_way = [name for name in existing if not (ours and name == RECIPE)]
        if in_the_way and not (self.resume or self.overwrite):
            resume = "continue the run with `resume`, " if ours else ""
            raise OutputError(
                f"'{self}' already holds {listed(in_the_way, 2)}\n"
                f"{resume}replace what a run writes with `overwrite`, or use another `output`"
            )
        if others := [name for name in existing if not (self.path / name).is_file()]:
            raise OutputError(f"'{self.path / others[0]}' is not a file, and is not replaced")
        return False

    def _has_recipe(self) -> bool:
        """Whether the stored recipe is here: its content is such as only a run writes."""
        try:
            stored = self._stored() or {}
        except OutputError:
            return False
        return stored.keys() >= _ALWAYS_STORED

    def claim(self, held: ExitStack) -> None:
        """Make the folder, and lock it until `held` is closed."""
        writable_folder(self.path)
        with os_errors(f"'{self}'"):
            held.enter_context(locked(self.path))
        for path in leftovers(self.path):
            path.unlink()

    def check_spares(self, teachers: Sequence[Path]) -> None:
        """Raise `UsageError` if the run would overwrite one of its teachers."""
        if own := [file for file in teachers if self.is_own(file)]:
            raise UsageError(
                f"the teacher '{own[0]}' would be overwritten by this run\nuse another `output`"
            )

    def is_own(self, file: Path) -> bool:
        """Whether a file is one that the run itself writes."""
        return any((self.path / name).resolve() == file.resolve() for name in FILES)

    def clear(self, recipe: Recipe) -> None:
        """Remove an earlier run, without initial weights: they stay until an epoch is done."""
        initial = recipe.weights.resolve() if recipe.weights else None
        existing = {n for n in self.existing() if (self.path / n).resolve() != initial}
        if self.resume and existing - _BEFORE_TRAINING:
            raise OutputError(
                f"cannot resume the run in '{self}': {STATE} is missing\n"
                "start from scratch with `overwrite`, or from its `weights` in another `output`"
            )
        for name in existing - ({SKIPPED} if recipe.check else set()):  # which is of this run
            (self.path / name).unlink(missing_ok=True)

    def save(self, recipe: Recipe) -> None:
        """Store the recipe of a run, for resuming it."""
        with atomic_write(self.path / RECIPE) as beside:
            beside.write_text(json.dumps(recipe.as_dict(), indent=2) + "\n", encoding="utf-8")

    def resumed_options(self, options: Options) -> dict[str, Any] | None:
        """The stored recipe, with what may differ of the options; None: nothing is stored.

        Raises `UsageError` if other options differ.
        """
        stored = self._stored()
        if stored is None:
            return None
        before = make_recipe(stored)
        differing = [
            _difference(name, getattr(before, name), value)
            for name, value in options.items()
            if name not in (*_MAY_DIFFER, "weights_sha256", "teacher_sha256")
            and value != getattr(before, name)
        ]
        weights = options.get("weights")
        if isinstance(weights, Path) and self._differs(weights, before.weights_sha256):
            differing.append(f"other weights than '{weights}'")
        if differing:
            raise UsageError(
                f"the run in '{self}' was started with {'; '.join(differing)}\n"
                "leave that out to resume it, or start from scratch with `overwrite`"
            )
        return stored | {name: options[name] for name in _MAY_DIFFER if name in options}

    def _differs(self, weights: Path, digest: str | None) -> bool:
        """Whether weights have another digest; unknown for files that the run itself writes."""
        if digest is None or not weights.is_file() or self.is_own(weights):
            return False
        return hashing.file_sha256(weights) != digest

    def _stored(self) -> dict[str, Any] | None:
        file = self.path / RECIPE
        if not file.is_file():
            return None
        try:
            return read_options(dict(json.loads(file.read_text(encoding="utf-8"))), f"'{file}'")
        except OSError as error:
            raise OutputError(f"'{file}' cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, UsageError) as error:
            raise OutputError(
                f"'{file}' is damaged, or from another version\nstart from scratch with `overwrite`"
            ) from error


def _difference(name: str, stored: object, given: object) -> str:
    if isinstance(given, bool):
        return f"{'no ' if given else ''}{spelled(name)}"
    return f"{spelled(name)} {'at its default' if stored is None else stored}, not {given}"
