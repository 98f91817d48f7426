"""Networks in the form that an engine loads, kept in the cache folder.

An entry is a graph and, written after it, a note with the graph's digest and the network's card.
Its name is a digest of everything that the graph depends on, so nothing in it can be out of date;
what is damaged or half written is no entry.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnest_cli import cache, checkpoints, digests
from resnest_cli.bundled import DEMO
from resnest_cli.card import ModelCard
from resnest_cli.engines.base import EngineOptions
from resnest_cli.files import into_place
from resnest_cli.variants import get_variant

log = logging.getLogger(__name__)

Graph = NDArray[np.uint8]  # (bytes)
_FORMAT = 6  # of an entry, and of what is in it: another number whenever that is made otherwise


@dataclass(frozen=True)
class Compiled:
    """A network as an engine loads it."""

    graph: Graph  # mapped, where it is kept
    card: ModelCard
    layers: str = ""  # how they hang together, where that is no part of the graph


@dataclass(frozen=True)
class Entry:
    """Where the compiled graph of one network, at one precision, is or will be."""

    graph: Path
    note: Path
    weights_sha256: str
    engine: str
    version: str  # of the engine

    @classmethod
    def of(cls, weights: Path, options: EngineOptions, engine: str, version: str) -> Entry:
        """The entry of a checkpoint; the file is read through once, unless its digest is known."""
        sha256 = checkpoints.digest(weights)
        parts = (_FORMAT, sha256, _named(options), options.precision, engine, version, _cpu())
        key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
        folder = cache.compiled_folder()
        return cls(folder / f"{key}.graph", folder / f"{key}.json", sha256, engine, version)

    def read_or(self, make: Callable[[], Compiled]) -> Compiled:
        """What is kept, or else what is made now, and kept.

        Another process that makes it at the same time is waited for.
        """
        if found := self.read():
            return found
        from filelock import FileLock  # only here: it watches every fork, and may complain of one

        with ExitStack() as held:
            try:
                self.graph.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(FileLock(self.graph.with_suffix(".lock")))
            except OSError as error:
                _tell_not_kept(error)
                return make()
            if found := self.read():
                return found
            made = make()
            try:
                self.write(made)
            except OSError as error:
                _tell_not_kept(error)
            return made

    def read(self) -> Compiled | None:
        """What is kept; None where there is no entry, or no whole one."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            if digests.of(self.graph) != note["graph_sha256"]:
                raise ValueError("the graph is not the one that was written")
            # copied where it is written to, which OpenVINO wants to be allowed and does not do
            graph = np.memmap(self.graph, np.uint8, "c")
            return Compiled(graph, ModelCard.from_json(note["card"]), note["layers"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.info("the compiled network in '%s' is not used: %s", self.graph, error)
            return None

    def write(self, made: Compiled) -> None:
        """Keep a graph; other versions' graphs of the same checkpoint go."""
        with into_place(self.graph) as path:
            path.write_bytes(made.graph.data)
        note = {
            "graph_sha256": hashlib.sha256(made.graph.data).hexdigest(),
            "weights_sha256": self.weights_sha256,
            "engine": self.engine,
            "version": self.version,
            "card": made.card.to_json(),
            "layers": made.layers,
        }
        with into_place(self.note) as path:
            path.write_text(json.dumps(note, ensure_ascii=False), encoding="utf-8")
        self._remove_outdated()

    def _remove_outdated(self) -> None:
        for path in self.note.parent.glob("*.json"):
            try:
                note = json.loads(path.read_text(encoding="utf-8"))
                same = (note["weights_sha256"], note["engine"]) == (
                    self.weights_sha256, self.engine,
                )  # fmt: skip
                if same and note["version"] != self.version:
                    path.unlink()
                    path.with_suffix(".graph").unlink(missing_ok=True)
            except (OSError, ValueError, KeyError, TypeError):
                continue


def _named(options: EngineOptions) -> tuple[str | None, ...]:
    """How a network is known besides its weights: a file that says nothing of itself by its name,
    or by what the user calls it; and for which pictures it is wanted.
    """
    crop = options.crop
    if options.weights is not None or options.model == DEMO:
        file = options.weights.name if options.weights else None
        return options.model, file, str(crop)
    variant = get_variant(options.model or "resnest50")
    own = crop in (None, variant.preprocessing.crop)
    return variant.name, None, str(None if own else crop)


def _tell_not_kept(error: OSError) -> None:
    """A cache folder that cannot be written is no reason to stop."""
    log.warning("the compiled network is not kept: %s", error.strerror or error)


def _cpu() -> str:
    """What tells processors apart: a graph is compiled for the instructions of one."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        import platform

        return f"{platform.machine()} {platform.processor()}"
    lines = text.split("\n\n", 1)[0].splitlines()
    return "\n".join(x for x in lines if x.startswith(("model name", "flags", "Features")))
