"""A checkpoint file to a network that is ready to run, and back.

Read are PyTorch's legacy and zip formats and safetensors, plain or as training scripts wrap them,
and the `.pt2` files of `resnest export`. Files are read as tensors only: nothing in them is ever
executed. The network is built without memory or random numbers of its own, and takes over the
file's tensors as they are.
"""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from resnest_cli import __version__, bundled, checkpoints
from resnest_cli.card import METADATA_KEY, ModelCard
from resnest_cli.errors import CheckpointError
from resnest_cli.fetch import Progress
from resnest_cli.files import into_place, is_graph
from resnest_cli.model.archive import read_archive
from resnest_cli.model.resnest import ResNeSt, initialise
from resnest_cli.model.shapes import State, adapt_input, explain_mismatch, identify, mismatches
from resnest_cli.model.stored import check_archive, check_finite, check_tensor, check_total
from resnest_cli.variants import get_variant

log = logging.getLogger(__name__)

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # the first that is there counts
_PREFIXES = ("module.", "_orig_mod.", "model.")


class Loaded(NamedTuple):
    """What a checkpoint file gave."""

    state: State
    card: ModelCard
    path: Path


def load_model(
    model: str | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    pretrained: bool = True,
    num_classes: int | None = None,
    in_channels: int | None = None,
    offline: bool = False,
) -> ResNeSt:
    """A ResNeSt in eval mode: pictures (N, in_channels, H, W) to logits (N, num_classes).

    Args:
        model: a variant's name or timm alias; default: what `weights` says it is, else resnest50.
        weights: a local checkpoint instead of the published one.
        pretrained: False gives random weights, and reads no file.
        num_classes: default: the checkpoint's. Another number gives a new, random head; 0 none.
        in_channels: default: the checkpoint's. For another number, the stem's filters are summed
            (1 channel) or repeated and scaled, as timm does.
        offline: never touch the network.

    Raises:
        CheckpointError: the weights are missing, damaged or of another network.
        UsageError: there is no such model.
    """
    if not pretrained:
        card = ModelCard.of_variant(
            get_variant(model or "resnest50"),
            num_classes=1000 if num_classes is None else num_classes,
            in_channels=in_channels or 3,
        )
        network = ResNeSt(
            card.architecture, num_classes=card.num_classes, in_channels=card.in_channels
        )
        initialise(network)
        return network.eval()
    state, card, _ = load_state(model, weights=weights, offline=offline)
    wanted = card.with_shape(
        num_classes=card.num_classes if num_classes is None else num_classes,
        in_channels=in_channels or card.in_channels,
    )
    if wanted.in_channels != card.in_channels:
        state["conv1.0.weight"] = adapt_input(state["conv1.0.weight"], wanted.in_channels)
    if wanted.num_classes != card.num_classes:
        state = with_new_head(state, wanted)
    return build(state, wanted)


def load_state(
    model: str | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    offline: bool = False,
    on_progress: Progress | None = None,
) -> Loaded:
    """A checkpoint's tensors under their published names, and the card that goes with them.

    The card is the one in the file; a file without one is known by its shapes, its name or `model`.

    Raises:
        CheckpointError: the weights are missing, damaged or of another network.
        UsageError: there is no such model.
    """
    given = Path(weights) if weights is not None else None
    path = checkpoints.locate(model, given, offline=offline, on_progress=on_progress)
    state, written = read_state(path)
    if model == bundled.DEMO and written:
        card = written
    elif given is None:
        card = ModelCard.of_variant(get_variant(model or "resnest50"))
    else:
        card = written or identify(state, path, model)
        if written and model and get_variant(model).architecture != written.architecture:
            raise CheckpointError(
                f"'{path}' holds {written.name}, not {model}; leave out --model to use it"
            )
    try:
        problems = mismatches(state, card)
    except RuntimeError as error:  # sizes that no computer can count
        raise CheckpointError(f"the card in '{path}' describes no possible network") from error
    if problems:
        raise CheckpointError(explain_mismatch(path, card, problems, state))
    check_finite(state, path)
    return Loaded(state, card, path)


def with_new_head(state: State, card: ModelCard) -> State:
    """A state with a random last layer for the classes of a card; none where it has no classes."""
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    if card.num_classes:
        head = nn.Linear(card.architecture.stage_channels[-1], card.num_classes)
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)
        state |= {"fc.weight": head.weight.data, "fc.bias": head.bias.data}
    return state


def with_new_blocks(state: State, card: ModelCard) -> State:
    """A state with further blocks at the end of each stage, as many as a card's network has.

    Each begins as its shortcut, so that the answers stay as they were (Chen et al., 2015: Net2Net,
    arXiv 1511.05641). Its random weights come from torch's global generator.
    """
    network = ResNeSt(card.architecture, num_classes=card.num_classes, in_channels=card.in_channels)
    initialise(network, zero_gamma=True)
    return {**network.state_dict(), **state}


def build(state: State, card: ModelCard) -> ResNeSt:
    """The network of a card with a state's tensors as its parameters, in eval mode."""
    with torch.device("meta"):  # shapes only: no memory, no random numbers
        network = ResNeSt(
            card.architecture, num_classes=card.num_classes, in_channels=card.in_channels
        )
    counters = {
        name: torch.zeros((), dtype=torch.long)
        for name, _ in network.named_buffers()
        if name.endswith("num_batches_tracked") and name not in state
    }
    network.load_state_dict({**state, **counters}, assign=True)
    return network.eval().requires_grad_(True)


def read_state(path: Path) -> tuple[State, ModelCard | None]:
    """A file's tensors in float32 under their published names, and its card where it has one.

    Raises:
        CheckpointError: the file is missing, damaged, or holds more than plain tensors.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if not head:
            raise CheckpointError(f"'{path}' is empty")
        values, card = _read(path, head)
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror or error}") from error
    state = _published_names(_unwrapped(values), path)
    if "conv1.0.weight" not in state or state["conv1.0.weight"].ndim != 4:
        some = ", ".join(list(state)[:4]) or "no tensor at all"
        raise CheckpointError(f"'{path}' holds no ResNeSt; what it has is {some}")
    return state, card


def _read(path: Path, head: bytes) -> tuple[Mapping[str, Any], ModelCard | None]:
    if is_graph(path):
        raise CheckpointError(
            f"'{path}' holds a graph, which can only be run; its weights are needed here\n"
            "give the checkpoint that it was exported from"
        )
    if path.suffix == ".pt2":
        return read_archive(path)
    if path.suffix == ".safetensors" or (head[8:9] == b"{" and head[6:8] == b"\0\0"):
        return _read_safetensors(path)
    return _read_torch(path, head), None


def save_checkpoint(path: Path, network: ResNeSt, card: ModelCard, *, half: bool = False) -> None:
    """Write a network and its card as one safetensors file, beside first and then into place.

    With `half` the weights, but not biases and statistics, are rounded to 16 bits.
    """
    from safetensors.torch import save

    tensors = {
        key: value.half().contiguous() if half and value.ndim > 1 else value.contiguous()
        for key, value in network.state_dict().items()
    }
    with into_place(path) as beside:
        beside.write_bytes(save(tensors, {METADATA_KEY: card.to_json()}))


def write_calibrated(source: Path, card: ModelCard, target: Path, temperature: float) -> None:
    """Write a checkpoint whose logits are those of another divided by a temperature."""
    state, _ = read_state(source)
    scaled = {k: v / temperature if k.startswith("fc.") else v for k, v in state.items()}
    save_checkpoint(
        target, build(scaled, card), replace(card, tool_version=__version__, origin=None)
    )


def _read_safetensors(path: Path) -> tuple[Mapping[str, Any], ModelCard | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, ModelCard.from_json(text) if text else None
    except SafetensorError as error:
        raise CheckpointError(f"'{path}' is no whole safetensors file: {error}") from error
    except ValueError as error:
        raise CheckpointError(f"the card in '{path}' cannot be used: {error}") from error


def _read_torch(path: Path, head: bytes) -> Mapping[str, Any]:
    if head.startswith(b"PK"):
        check_archive(path)
    mapped = head.startswith(b"PK")  # the zip format can be mapped; the legacy one is read
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # torch's advice about old storages is not for users
            values = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        blocked = _blocked_global(str(error))
        reason = (
            f"it holds Python objects ({blocked}), and loading those could run code; "
            "save its state_dict() alone, or as safetensors"
            if blocked
            else "it is damaged or no checkpoint"
        )
        raise CheckpointError(f"'{path}' was not loaded: {reason}") from error
    except OSError:
        raise
    except Exception as error:  # damaged files raise anything at all in torch's readers
        line = " ".join(str(error).split())[:200]
        raise CheckpointError(f"'{path}' is damaged or no checkpoint: {line}") from error
    if not isinstance(values, Mapping):
        raise CheckpointError(f"'{path}' holds a {type(values).__name__}, not a state_dict")
    return values


def _blocked_global(message: str) -> str | None:
    _, found, rest = message.partition("GLOBAL ")
    return rest.split(" ", 1)[0] if found else None


def _unwrapped(values: Mapping[str, Any]) -> Mapping[str, Any]:
    for _ in range(3):  # no training script wraps more often
        wrapper = next((w for w in _WRAPPERS if isinstance(values.get(w), Mapping)), None)
        if wrapper is None:
            break
        log.info("taking the weights under '%s'", wrapper)
        values = values[wrapper]
    return values


def _published_names(values: Mapping[str, Any], path: Path) -> State:
    tensors = {str(key): value for key, value in values.items() if isinstance(value, Tensor)}
    for key, value in tensors.items():
        check_tensor(key, value, path)
    check_total(tensors, path)
    state = {}
    for key, value in tensors.items():
        name = key
        while prefix := next((p for p in _PREFIXES if name.startswith(p)), None):
            name = name.removeprefix(prefix)
        state[name] = value if name.endswith("num_batches_tracked") else value.float()
    return state
