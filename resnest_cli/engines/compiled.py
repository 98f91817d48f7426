"""Networks that are compiled for this processor, kept in the cache folder.

An entry is a graph and, written after it, a note with the graph's digest and the network's card.
Its name is a digest of everything that the graph depends on, so nothing in it can be out of date;
what is damaged or half written is no entry.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnest_cli import cache, checkpoints, digests
from resnest_cli.card import ModelCard
from resnest_cli.engines.base import EngineOptions
from resnest_cli.engines.openvino_runtime import ov
from resnest_cli.files import into_place

log = logging.getLogger(__name__)

Graph = NDArray[np.uint8]  # (bytes)
_FORMAT = 3  # of an entry


@dataclass(frozen=True)
class Entry:
    """Where the compiled graph of one network, at one precision, is or will be."""

    graph: Path
    note: Path
    weights_sha256: str

    @classmethod
    def of(cls, weights: Path, options: EngineOptions) -> Entry:
        """The entry of a checkpoint; the file is read through once, unless its digest is known."""
        sha256 = checkpoints.digest(weights)
        # a file that says nothing of itself is known by its name, or by what the user calls it
        named = (options.model, options.weights.name if options.weights else None)
        parts = (_FORMAT, sha256, named, options.precision, ov.get_version(), _cpu())
        key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
        folder = cache.home() / "compiled"
        return cls(folder / f"{key}.graph", folder / f"{key}.json", sha256)

    def read(self) -> tuple[Graph, ModelCard] | None:
        """The graph, mapped, and the card; None where there is no entry, or no whole one."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            if digests.of(self.graph) != note["graph_sha256"]:
                raise ValueError("the graph is not the one that was written")
            # copied where it is written to, which OpenVINO wants to be allowed and does not do
            return np.memmap(self.graph, np.uint8, "c"), ModelCard.from_json(note["card"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.info("the compiled network in '%s' is not used: %s", self.graph, error)
            return None

    def write(self, graph: Graph, card: ModelCard) -> None:
        """Keep a graph; other versions' graphs of the same checkpoint go."""
        with into_place(self.graph) as path:
            path.write_bytes(graph.data)
        note = {
            "graph_sha256": hashlib.sha256(graph.data).hexdigest(),
            "weights_sha256": self.weights_sha256,
            "openvino": ov.get_version(),
            "card": card.to_json(),
        }
        with into_place(self.note) as path:
            path.write_text(json.dumps(note, ensure_ascii=False), encoding="utf-8")
        self._remove_outdated()

    def _remove_outdated(self) -> None:
        for path in self.note.parent.glob("*.json"):
            try:
                note = json.loads(path.read_text(encoding="utf-8"))
                same = note["weights_sha256"] == self.weights_sha256
                if same and note["openvino"] != ov.get_version():
                    path.unlink()
                    path.with_suffix(".graph").unlink(missing_ok=True)
            except (OSError, ValueError, KeyError, TypeError):
                continue


def _cpu() -> str:
    """What tells processors apart: a graph is compiled for the instructions of one."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        import platform

        return f"{platform.machine()} {platform.processor()}"
    lines = text.split("\n\n", 1)[0].splitlines()
    return "\n".join(x for x in lines if x.startswith(("model name", "flags", "Features")))
