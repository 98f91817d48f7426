"""Class activation maps: exact, as the networks end in a mean and one linear layer.

A class's map is the last feature maps weighted with its row of the last layer. The map's mean and
the class's bias add up to its logit; for the difference of two classes, to that of their logits.
"""

from __future__ import annotations

import difflib
import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zipfile import BadZipFile

import numpy as np

from resnest_cli import settings
from resnest_cli.engines.graph_cache import identity_key
from resnest_cli.errors import UsageError
from resnest_cli.files import atomic_write, check_regular
from resnest_cli.version import __version__

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resnest_cli.catalog.labels import Labels
    from resnest_cli.catalog.weights import Weights

    Floats = NDArray[np.float32]


class LastLayer(NamedTuple):
    """The linear layer after the mean over the feature maps."""

    weight: Floats  # (classes, channels)
    bias: Floats  # (classes)

    @classmethod
    def of(cls, weights: Weights, classes: int) -> LastLayer:
        """That of a checkpoint; torch is imported only where a file can't be read without it.

        What took torch is kept in the cache folder.

        Raises:
            CheckpointError: the weights are damaged or of another network.
        """
        found = _from_safetensors(weights.path)
        if found is not None and len(found.bias) == classes:
            return found
        kept = _kept_in(weights)
        found = _read(kept)
        if found is not None and len(found.bias) == classes:
            return found
        from resnest_cli.model.checkpoint import load_checkpoint

        state = load_checkpoint(weights).state
        found = cls(state["fc.weight"].float().numpy(), state["fc.bias"].float().numpy())
        with suppress(OSError):  # a cache that cannot be written to only costs time
            kept.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(kept) as beside, beside.open("wb") as file:
                np.savez(file, weight=found.weight, bias=found.bias)
        return found


@dataclass(frozen=True)
class Explained:
    """The evidence for a class, or for it against another one, in an image."""

    index: int  # the class
    against: int | None  # the other one
    values: Floats  # (rows, columns), in logits: positive speaks for the class
    logit: float  # the network's; with another class, the difference of the two
    bias: float  # what no part of the image has a share in
    detail: Floats | None = None  # the same map, finer: see `inside.Inside.detail`

    @property
    def shown(self) -> Floats:
        """The finest map that there is."""
        return self.values if self.detail is None else self.detail

    def of(self, logits: Floats) -> float:
        """What is explained, in other logits (classes) than the image's."""
        other = 0.0 if self.against is None else float(logits[self.against])
        return float(logits[self.index]) - other

    @property
    def evidence(self) -> float:
        """The mean of the map."""
        return float(self.values.mean(dtype=np.float64))


def explain_class(
    maps: Floats, logits: Floats, layer: LastLayer, index: int, against: int | None = None
) -> Explained:
    """The map of a class from an image's last feature maps (channels, rows, columns)."""
    weight, bias, logit = layer.weight[index], layer.bias[index], logits[index]
    if against is not None:
        weight = weight - layer.weight[against]
        bias, logit = bias - layer.bias[against], logit - logits[against]
    values = (weight @ maps.reshape(len(maps), -1)).reshape(maps.shape[1:])
    return Explained(index, against, values, float(logit), float(bias))


def find_class(labels: Labels, name: str, option: str) -> int:
    """The class of a name, a WordNet id or a number; `UsageError` if there is none.

    `option` is what the message calls the parameter.
    """
    for names in (labels.names, labels.wnids or ()):
        found = [i for i, known in enumerate(names) if known.casefold() == name.casefold()]
        if len(found) == 1:
            return found[0]
    if name.isdecimal() and int(name) < len(labels):
        return int(name)
    near = difflib.get_close_matches(name, labels.names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "give its name or number"
    raise UsageError(f"`{option}={name}` is not one class of this network\n{hint}")


def _kept_in(weights: Weights) -> Path:
    """Where a checkpoint's last layer is kept, under a name that says what it depends on."""
    parts = weights.sha256, identity_key(weights, None), __version__
    name = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    return settings.home() / "layers" / f"{name}.npz"


def _read(path: Path) -> LastLayer | None:
    """A kept last layer; None if there is none, or a damaged one."""
    try:
        check_regular(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            return LastLayer(found["weight"], found["bias"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def _from_safetensors(path: Path) -> LastLayer | None:
    """The last layer of a plain file of one network in float32, read without the rest of it."""
    if path.suffix != ".safetensors":
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            if [name for name in file.keys() if name.endswith("fc.weight")] != ["fc.weight"]:  # noqa: SIM118
                return None
            weight, bias = file.get_tensor("fc.weight"), file.get_tensor("fc.bias")
    except (OSError, SafetensorError, TypeError):  # what is wrong is said where all is read
        return None
    plain = weight.dtype == bias.dtype == np.float32 and weight.ndim == 2
    return LastLayer(weight, bias) if plain else None
