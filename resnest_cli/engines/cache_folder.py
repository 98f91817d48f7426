"""The cache folder: what is stored in it, what of that is unused, and how it is removed.

    checkpoint   a published checkpoint, or a file put there by hand, with its digest
    compiled     a model compiled for this CPU
    digests      recorded SHA-256 of files, see `hashing`
    inductor     what torch.compile has generated
    partial      what an interrupted download or compilation has left

Whatever is removed is downloaded, compiled or computed again when it is needed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from resnest_cli import hashing, settings
from resnest_cli.catalog.variants import BY_NAME, VARIANTS
from resnest_cli.catalog.weights import Weights, downloads
from resnest_cli.engines.graph_cache import StoredGraph, stored_graphs
from resnest_cli.errors import UsageError
from resnest_cli.files import is_locked, leftovers
from resnest_cli.text import counted


@dataclass(frozen=True)
class CacheItem:
    """One thing in the cache folder."""

    kind: str  # checkpoint, compiled, digests, inductor or partial
    name: str  # of the model or file that it belongs to
    detail: str
    path: Path
    bytes: int
    unused_because: str | None  # why `prune_cache` removes it
    files: Collection[Path] = field(repr=False)  # what it consists of


def cache_items() -> list[CacheItem]:
    """Everything in the cache folder; `UsageError` if that is a file."""
    home = settings.home()
    if home.exists() and not home.is_dir():
        raise UsageError(f"$RESNEST_HOME must name a folder, not the file '{home}'")
    graphs = map(_compiled, stored_graphs())
    return [*_checkpoints(), *graphs, *_digests(), *_inductor(), *_unfinished()]


def prune_cache(*, dry_run: bool = False) -> list[CacheItem]:
    """Remove what belongs to checkpoints that are gone, and what interrupted runs have left.

    What was removed is returned; `dry_run` removes nothing.
    """
    return _remove([item for item in cache_items() if item.unused_because], dry_run=dry_run)


def remove_from_cache(names: Sequence[str], *, dry_run: bool = False) -> list[CacheItem]:
    """Remove everything of some models (also by timm alias), files or kinds.

    What was removed is returned; `dry_run` removes nothing.

    Raises:
        UsageError: nothing in the cache has one of the names.
    """
    items = cache_items()
    chosen: list[CacheItem] = []
    for given in names:
        name = BY_NAME[given].name if given in BY_NAME else given
        found = [item for item in items if name in (item.name, item.kind, item.path.name)]
        if not found:
            raise UsageError(
                f"nothing in the cache is called '{given}'; 'resnest cache list' shows the names"
            )
        chosen += [item for item in found if item not in chosen]
    return _remove(chosen, dry_run=dry_run)


def _remove(items: list[CacheItem], *, dry_run: bool) -> list[CacheItem]:
    for file in () if dry_run else [file for item in items for file in item.files]:
        if file.is_dir():
            shutil.rmtree(file)
        elif file.is_file():  # pipes and their like are not ours
            file.unlink(missing_ok=True)
    return items


def _item(
    kind: str,
    name: str,
    detail: str,
    path: Path,
    files: Collection[Path],
    unused_because: str | None = None,
) -> CacheItem:
    size = sum(file.stat().st_size for file in files if file.is_file())
    return CacheItem(kind, name, detail, path, size, unused_because, files)


def _checkpoints() -> Iterator[CacheItem]:
    """The checkpoints, each with its digest and lock, and what is left of those without."""
    models = {download.target.name: v.name for v in VARIANTS for download in downloads(v)}
    folder = settings.checkpoints_folder()
    found = (file.name for file in folder.glob("*") if file.is_file())
    for name in sorted({re.sub(r"\.(sha256|lock|part)$", "", file) for file in found}):
        path, lock, part = folder / name, folder / f"{name}.lock", folder / f"{name}.part"
        files = [path, folder / f"{name}.sha256", lock, part]
        model = models.get(name, name)
        if path.is_file():
            yield _item("checkpoint", model, name, path, files)
        elif name in models and not is_locked(lock):  # other names are not ours
            why = "its download was interrupted"
            yield _item("partial", model, f"left of {name}", part, files, why)


def _compiled(graph: StoredGraph) -> CacheItem:
    origin, unused = graph.origin, graph.unused_because
    if graph.model is None or origin is None:
        name = graph.model or graph.path.stem
        return _item("partial", name, "a compiled model", graph.path, graph.files, unused)
    source = Path(origin.checkpoint)
    if unused is None and Weights(source).sha256 != origin.weights_sha256:
        unused = f"its checkpoint '{source}' has changed"
    detail = f"{origin.engine}, {origin.precision}, {graph.crop} pixels, from {source}"
    return _item("compiled", graph.model, detail, graph.path, graph.files, unused)


def _digests() -> Iterator[CacheItem]:
    folder, stale = settings.digests_folder(), set(hashing.stale_records())
    current = set(hashing.records()) - stale
    for files, unused in ((current, None), (stale, "their files are gone or have changed")):
        if files:
            yield _item("digests", "digests", counted(len(files), "file"), folder, files, unused)


def _unfinished() -> Iterator[CacheItem]:
    for folder in (settings.compiled_folder(), settings.digests_folder()):
        for path in leftovers(folder):
            why = "the run that wrote it was killed"
            yield _item("partial", path.name, "an unfinished file", path, [path], why)


def _inductor() -> Iterator[CacheItem]:
    folder = settings.inductor_folder()
    if folder.is_dir():
        files = [folder, *folder.rglob("*")]
        yield _item("inductor", "inductor", "generated by torch.compile", folder, files)
