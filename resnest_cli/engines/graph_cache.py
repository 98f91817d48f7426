"""Networks compiled for this machine, stored in the cache folder.

An entry is a graph and, written after it, a note with the graph's digest, the network's config and
what the graph was made of. Its name is a digest of everything that the graph depends on, so no
entry is ever out of date; a damaged or incomplete one counts as missing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnest_cli import hashing, settings
from resnest_cli.catalog.config import ModelConfig
from resnest_cli.catalog.demo import DEMO
from resnest_cli.catalog.variants import get_variant
from resnest_cli.files import atomic_write, check_regular, is_locked
from resnest_cli.hardware import cpu_identity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resnest_cli.catalog.weights import Weights

    Graph = NDArray[np.uint8]  # (bytes), as the engine exports it

log = logging.getLogger(__name__)

FORMAT = 8  # of an entry and of the graph in it: increased whenever either is made differently


@dataclass(frozen=True)
class CompiledGraph:
    """A network as an engine loads it."""

    graph: Graph
    config: ModelConfig
    # number of processors with which a lone image, computed on all of them, has the same bits as
    # among others; None: it differs
    same_alone_on: int | None


@dataclass(frozen=True)
class Origin:
    """What a graph was made of, and by which version of which engine."""

    checkpoint: str  # absolute path
    weights_sha256: str
    precision: str
    engine: str
    version: str
    format: int = FORMAT


@dataclass(frozen=True)
class CacheEntry:
    """Where the compiled graph of one network, at one precision, is or will be stored."""

    graph: Path
    origin: Origin

    @classmethod
    def of(
        cls, weights: Weights, *, crop: int | None, precision: str, engine: str, version: str
    ) -> CacheEntry:
        """The entry of a checkpoint, which is read once unless its digest is recorded."""
        parts = (
            FORMAT, weights.sha256, identity_key(weights, crop), precision, engine, version,
            cpu_identity(),
        )  # fmt: skip
        key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
        path = str(weights.path.absolute())
        origin = Origin(path, weights.sha256, precision, engine, version)
        return cls(settings.compiled_folder() / f"{key}.graph", origin)

    @property
    def note(self) -> Path:
        """The file that describes the graph."""
        return self.graph.with_suffix(".json")

    def get_or_create(self, make: Callable[[], CompiledGraph]) -> CompiledGraph:
        """The stored graph, or else one that `make` gives now, and which is stored.

        If another process is making the same one, it is waited for.
        """
        if found := self.read():
            return found
        from filelock import FileLock  # slow to import

        with ExitStack() as held:
            try:
                self.graph.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(FileLock(self.graph.with_suffix(".lock")))
            except OSError as error:
                self._warn(error)
                return make()
            if found := self.read():
                return found
            made = make()
            try:
                self.write(made)
            except OSError as error:
                self._warn(error)
            return made

    def read(self) -> CompiledGraph | None:
        """The stored graph, mapped into memory; None without a complete entry."""
        try:
            for file in (self.note, self.graph):
                check_regular(file)
            note = json.loads(self.note.read_text(encoding="utf-8"))
            if hashing.file_sha256(self.graph) != note["graph_sha256"]:
                raise ValueError("the graph is not the one that was stored")
            # copy-on-write, as OpenVINO asks for memory that it may write to, and does not write
            graph = np.memmap(self.graph, np.uint8, "c")
            config = ModelConfig.from_json(note["config"])
            return CompiledGraph(graph, config, note["same_alone_on"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.info("the compiled network in '%s' is not used: %s", self.graph, error)
            return None

    def write(self, made: CompiledGraph) -> None:
        """Store a graph, and remove those that other versions made of the same checkpoint."""
        with atomic_write(self.graph) as path:
            path.write_bytes(made.graph.data)
        note = asdict(self.origin) | {
            "graph_sha256": hashlib.sha256(made.graph.data).hexdigest(),
            "config": made.config.to_json(),
            "same_alone_on": made.same_alone_on,
        }
        with atomic_write(self.note) as path:
            path.write_text(json.dumps(note, ensure_ascii=False), encoding="utf-8")
        for stored in stored_graphs():
            if stored.is_outdated_by(self.origin):
                stored.remove()

    def _warn(self, error: OSError) -> None:
        """A cache folder that cannot be written to only costs time at the next start."""
        reason = error.strerror or error
        log.warning("the compiled network cannot be stored in '%s': %s", self.graph.parent, reason)


def identity_key(weights: Weights, crop: int | None) -> tuple[str | None, ...]:
    """What decides a network beside its weights: how they are identified, and the crop.

    A local file without a config is identified by its name, and by the model that is named.
    """
    if not weights.published or weights.model is None or weights.model == DEMO:
        file = None if weights.published else weights.path.name
        return weights.model, file, str(crop)
    own = get_variant(weights.model).preprocessing.crop
    return weights.model, None, str(None if crop == own else crop)


@dataclass(frozen=True)
class StoredGraph:
    """A compiled network in the cache folder, or what is left of an interrupted attempt."""

    path: Path
    model: str | None = None  # the config's name; None: the entry is damaged or incomplete
    crop: int | None = None  # pixels
    origin: Origin | None = None  # None: damaged or incomplete

    @property
    def unused_because(self) -> str | None:
        """Why no run will use it any more; None if one may."""
        if self.origin is None:
            return "it is damaged or incomplete"
        if self.origin.format != FORMAT:
            return "an earlier version of resnest made it"
        if not Path(self.origin.checkpoint).is_file():
            return f"its checkpoint '{self.origin.checkpoint}' does not exist any more"
        return None

    def is_outdated_by(self, new: Origin) -> bool:
        """Whether another version made it of the same weights for the same engine."""
        old = self.origin
        return (
            old is not None
            and (old.weights_sha256, old.engine) == (new.weights_sha256, new.engine)
            and (old.version, old.format) != (new.version, new.format)
        )

    @property
    def files(self) -> list[Path]:
        """Its files that exist: graph, note, lock and unfinished ones."""
        return sorted(self.path.parent.glob(f"{self.path.stem}.*"))

    def remove(self) -> None:
        """Remove its files; one that is gone already is no error."""
        for file in self.files:
            file.unlink(missing_ok=True)


def stored_graphs() -> Iterator[StoredGraph]:
    """All compiled networks in the cache folder; one that is being made now is left out."""
    folder = settings.compiled_folder()
    names = (re.fullmatch(r"([0-9a-f]{32})\..*", file.name) for file in folder.glob("*"))
    for stem in sorted({name[1] for name in names if name}):  # others are not ours
        path = folder / f"{stem}.graph"
        stored = _described(path)
        if stored.origin or not is_locked(path.with_suffix(".lock")):
            yield stored


def _described(graph: Path) -> StoredGraph:
    try:
        check_regular(graph.with_suffix(".json"))
        note = json.loads(graph.with_suffix(".json").read_text(encoding="utf-8"))
        config = ModelConfig.from_json(note["config"])
        if not graph.is_file():
            raise ValueError("the note is alone")
        return StoredGraph(graph, config.name, config.preprocessing.crop, _origin(note))
    except (OSError, ValueError, KeyError, TypeError):
        return StoredGraph(graph)


def _origin(note: dict[str, Any]) -> Origin:
    return Origin(
        note.get("checkpoint", ""),  # not in notes of earlier versions, nor the other two
        note["weights_sha256"],
        note.get("precision", ""),
        note["engine"],
        note["version"],
        note.get("format", 0),
    )
