"""A network's tensors in what training scripts save, whatever they put around and beside them.

A state dict may lie under any keys, its names may have any common prefix, and further tensors may
lie beside it: a loss's weights, a second network, a last layer with a name of its own.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from resnest_cli.errors import CheckpointError
from resnest_cli.model.resnest import StateDict
from resnest_cli.text import listed

log = logging.getLogger(__name__)

_STEM, _BLOCK = "conv1.0.weight", "layer1.0.conv1.weight"  # every ResNeSt has these two
_OWN = re.compile(r"(conv1|bn1|layer[1-4])\.|fc\.(weight|bias)$")
_DEEPEST = 4  # keys around a state dict
# parts of names that torch.compile, FSDP and activation checkpointing insert anywhere
_INSERTED = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_MMPRETRAIN = (  # its names, in this order; it counts no pooling that does nothing
    (r"(^|\.)stem\.7\.", r"\1bn1."),
    (r"(^|\.)stem\.(\d)\.", r"\1conv1.\2."),
    (r"(^|\.)layer1\.0\.downsample\.1\.", r"\1layer1.0.downsample.2."),
    (r"(^|\.)layer1\.0\.downsample\.0\.", r"\1layer1.0.downsample.1."),
)
# words in keys and prefixes, from what is taken first to what is never taken
_AVERAGED = {"ema", "swa", "avg", "average", "averaged", "shadow"}
_USUAL = {
    "", "state", "dict", "checkpoint", "model", "module", "net", "network", "backbone", "encoder",
    "weights", "params",
}  # fmt: skip
_TRAINING = {"optim", "optimizer", "optimizers", "grad", "grads", "momentum"}


class _Network(NamedTuple):
    """Where a network's tensors are."""

    keys: tuple[str, ...]
    prefix: str
    tensors: StateDict  # all under those keys

    @property
    def name(self) -> str:
        return ".".join((*self.keys, self.prefix)).rstrip(".") or "the one without a prefix"

    @property
    def words(self) -> set[str]:
        return set(re.split("[^a-z0-9]+", ".".join((*self.keys, self.prefix)).lower()))

    @property
    def rank(self) -> tuple[int, bool]:
        """An averaged network comes first, then one that has no name of its own."""
        kind = 0 if self.words & _AVERAGED else 1 if self.words <= _USUAL else 2
        return kind, "state" not in self.words


def network_tensors(values: Any, path: Path) -> StateDict:
    """The tensors of the network in a loaded file, as stored, by their published names.

    What is left out is a warning.

    Raises:
        CheckpointError: there is no ResNeSt, or several that are equally likely to be meant.
    """
    found = sorted(_networks(values), key=lambda network: network.rank)
    if not found:
        some = max((tensors for _, tensors in _state_dicts(values)), key=len, default={})
        raise CheckpointError(
            f"'{path}' does not hold a ResNeSt, but {', '.join(list(some)[:4]) or 'no tensors'}"
        )
    network, *others = found
    if others:
        names = listed([other.name for other in others])
        if others[0].rank == network.rank:
            raise CheckpointError(
                f"'{path}' holds several networks: '{network.name}', {names}\n"
                "save the state_dict() of one of them alone"
            )
        log.warning("'%s' holds several networks: '%s' is used, not %s", path, network.name, names)
    if network.keys or network.prefix:
        log.info("taking the weights under '%s'", network.name)
    start = len(network.prefix)
    state = {
        name[start:]: tensor
        for name, tensor in network.tensors.items()
        if name.startswith(network.prefix) and _OWN.match(name, start)
    }
    outside = {
        name: tensor
        for name, tensor in network.tensors.items()
        if name != "n_averaged" and not (name.startswith(network.prefix) and name[start:] in state)
    }
    if "fc.weight" not in state and (head := _head(state, outside, network.prefix)):
        log.warning("'%s': '%s' is taken for the last layer, fc", path, head)
        for part in ("weight", "bias"):
            if f"{head}.{part}" in outside:
                state[f"fc.{part}"] = outside.pop(f"{head}.{part}")
    if outside:
        log.warning("'%s': left out, as not part of the network: %s", path, listed([*outside], 3))
    return state


def _networks(values: Any) -> Iterator[_Network]:
    for keys, tensors in _state_dicts(values):
        for name, tensor in tensors.items():
            prefix = name.removesuffix(_STEM)
            alike = prefix != name and prefix[-1:] in ("", ".") and tensor.ndim == 4
            if alike and prefix + _BLOCK in tensors:
                network = _Network(keys, prefix, tensors)
                if not network.words & _TRAINING:
                    yield network


def _state_dicts(values: Any) -> Iterator[tuple[tuple[str, ...], StateDict]]:
    """Every container that holds tensors, each once, and the keys that lead to it."""
    queue: deque[tuple[tuple[str, ...], Any]] = deque([((), values)])
    seen = {id(values)}
    while queue:
        keys, container = queue.popleft()
        tensors = {}
        items = container.items() if isinstance(container, Mapping) else enumerate(container)
        for key, value in items:
            if isinstance(value, Tensor):
                tensors[_INSERTED.sub("", str(key))] = value
            elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
                seen.add(id(value))
                if len(keys) < _DEEPEST:
                    queue.append(((*keys, str(key)), value))
        if tensors:
            yield keys, _published(tensors)


def _published(tensors: StateDict) -> StateDict:
    if not any(re.search(r"(^|\.)stem\.0\.weight$", name) for name in tensors):
        return tensors
    renamed = {}
    for name, tensor in tensors.items():
        for theirs, ours in _MMPRETRAIN:
            name = re.sub(theirs, ours, name)
        renamed[name] = tensor
    return renamed


def _head(state: StateDict, outside: StateDict, prefix: str) -> str | None:
    """The one linear layer that takes the pooled features, unless more than it follows them."""
    channels = {t.shape[0] for n, t in state.items() if re.match(r"layer4\.\d+\.conv3\.", n)}
    fitting = [
        name.removesuffix(".weight")
        for name, tensor in outside.items()
        if name.endswith(".weight") and tensor.ndim == 2 and {tensor.shape[1]} == channels
    ]
    if len(fitting) != 1:
        return None
    (head,) = fitting
    parts = head.split(".")
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(parts, prefix.split("."), strict=False))
    module = ".".join(parts[: len([*shared]) + 1]) + "."  # the largest one without the network
    inside = {name for name in outside if name.startswith(module)}
    return head if inside <= {f"{head}.weight", f"{head}.bias"} else None
