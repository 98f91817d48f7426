"""A training run, settled before images are read and other processes are joined."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from resnest_cli.catalog.weights import resolve
from resnest_cli.errors import ResNeStError, UsageError
from resnest_cli.hardware import is_secondary_process
from resnest_cli.training.recipe import Options, Recipe, make_recipe
from resnest_cli.training.run_folder import RunFolder
from resnest_cli.training.splits import Splits, find_splits

_VAL_FRACTION = 0.1


@dataclass(frozen=True)
class Plan:
    """What to train on what, and where the results go."""

    data: Path
    folder: RunFolder
    recipe: Recipe  # without a batch size, unless one is given
    splits: Splits
    workers: int | None = None
    torch_compile: bool = False
    offline: bool = False


def make_plan(data: Path, given: Options, folder: RunFolder) -> Plan:
    """The plan of a new run, or of the one in `folder` if that is to be resumed."""
    stored = folder.resumed_options(given) if folder.resume else None
    recipe = make_recipe(stored or given)
    folder.check_spares(recipe.teacher)
    splits = find_splits(data, recipe.val, recipe.val_fraction, folder.path)
    if splits.val_folder is None:
        recipe = replace(recipe, val_fraction=recipe.val_fraction or _VAL_FRACTION)
    return Plan(data, folder, _with_digests(recipe, None if stored is None else folder), splits)


def _with_digests(recipe: Recipe, resumed: RunFolder | None) -> Recipe:
    """The recipe with the SHA-256 of its files, once they are known to be the right ones.

    A resumed run no longer needs its initial weights, which it may have overwritten itself.
    """
    where = f"the run in '{resumed}'" if resumed else "`recipe`"
    weights = recipe.weights_sha256
    if recipe.weights and not (resumed and weights):
        weights = resolve(weights=recipe.weights).sha256
        if recipe.weights_sha256 not in (None, weights):
            path = recipe.weights
            raise UsageError(f"{where} has other weights: the SHA-256 of '{path}' differs")
    teachers = tuple(resolve(weights=file).sha256 for file in recipe.teacher)
    if recipe.teacher_sha256 not in ((), teachers):
        raise UsageError(f"{where} has other teachers: their SHA-256 differs")
    return replace(recipe, weights_sha256=weights, teacher_sha256=teachers)


@contextmanager
def reported_once() -> Iterator[None]:
    """Mark an error that all processes of a machine meet as reported, except in the first one."""
    try:
        yield
    except ResNeStError as error:
        error.reported = is_secondary_process()
        raise
