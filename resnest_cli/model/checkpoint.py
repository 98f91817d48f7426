"""Checkpoint files: read to a network that is ready to run, and written.

PyTorch's legacy and zip formats and safetensors are read, plain or as training scripts wrap them,
as tensors only: nothing in a file is ever executed. The network is built without memory or random
numbers of its own, and takes over the file's tensors unchanged.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from resnest_cli import settings
from resnest_cli.catalog import demo
from resnest_cli.catalog.config import METADATA_KEY, ModelConfig
from resnest_cli.catalog.foreign import check_kind, explain_objects, is_safetensors
from resnest_cli.catalog.variants import get_variant
from resnest_cli.catalog.weights import Weights, is_graph, resolve
from resnest_cli.errors import CheckpointError, check_memory, check_number
from resnest_cli.files import atomic_write
from resnest_cli.model.identify import explain_mismatch, identify, mismatches
from resnest_cli.model.limits import check_archive, check_finite, check_tensors
from resnest_cli.model.resnest import ResNeSt, StateDict, initialise, shapes_only
from resnest_cli.model.surgery import adapt_input, with_new_head
from resnest_cli.model.wrappers import network_tensors
from resnest_cli.text import one_line
from resnest_cli.version import __version__

log = logging.getLogger(__name__)


class _PassedOver:
    """Stands for a value beside the weights: takes what would make one, and keeps nothing of it."""

    def __new__(cls, *args: Any) -> _PassedOver:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


# plain data that scripts save beside the weights, as pickles name it, and what is made instead
_DATA = (
    (lambda *_: {}, "collections.defaultdict"),
    (lambda *_: [], "collections.deque"),
    *((_PassedOver, f"builtins.{name}") for name in (
        "complex", "dict", "float", "frozenset", "int", "list", "range", "slice"
    )),
    *((_PassedOver, f"datetime.{name}") for name in (
        "date", "datetime", "time", "timedelta", "timezone"
    )),
    *((_PassedOver, name) for name in ("decimal.Decimal", "uuid.UUID")),
    *((_PassedOver, f"pathlib{where}.{kind}Path") for where in ("", "._local")
      for kind in ("Posix", "Windows", "PurePosix", "PureWindows")),
    *((_PassedOver, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core")
      for name in ("scalar", "_reconstruct")),
    *((_PassedOver, name) for name in (
        "numpy.dtype", "numpy.ndarray", "argparse.Namespace", "types.SimpleNamespace"
    )),
)  # fmt: skip


class Checkpoint(NamedTuple):
    """The content of a checkpoint file, perhaps changed since."""

    state: StateDict  # in float32
    config: ModelConfig
    weights: Weights  # the file

    def network(self) -> ResNeSt:
        """The network in eval mode, with these very tensors as its parameters."""
        network = shapes_only(
            self.config.architecture,
            num_classes=self.config.num_classes,
            in_channels=self.config.in_channels,
        )
        counters = {
            name: torch.zeros((), dtype=torch.long)
            for name, _ in network.named_buffers()
            if name.endswith("num_batches_tracked") and name not in self.state
        }
        network.load_state_dict({**self.state, **counters}, assign=True)
        return network.eval().requires_grad_(True)


def load_model(
    model: str | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    pretrained: bool = True,
    num_classes: int | None = None,
    in_channels: int | None = None,
    offline: bool = False,
) -> ResNeSt:
    """A ResNeSt in eval mode: images (N, in_channels, H, W) to logits (N, num_classes).

    Args:
        model: a variant's name or timm alias, `demo`, or a checkpoint's path; default: what
            `weights` describes itself as, else resnest50.
        weights: a local checkpoint instead of the published one.
        pretrained: False gives random weights, and reads no file.
        num_classes: default: the checkpoint's. Another number gives a new, random head; 0 none.
        in_channels: default: the checkpoint's. For another number, the stem's filters are summed
            (1 channel) or repeated and scaled, as timm does.
        offline: never touch the network.

    Raises:
        CheckpointError: the weights are missing, damaged or of another network.
        UsageError: no model has that name, or a number is out of range.
    """
    if num_classes is not None:
        check_number("num_classes", num_classes, 0)
    if in_channels is not None:
        check_number("in_channels", in_channels, 1)
    if not pretrained:
        return _random_network(model, num_classes, in_channels)
    checkpoint = load_checkpoint(resolve(model, weights, offline=offline))
    state, config = checkpoint.state, checkpoint.config
    wanted = replace(
        config,
        num_classes=config.num_classes if num_classes is None else num_classes,
        in_channels=in_channels or config.in_channels,
    )
    if wanted.in_channels != config.in_channels:
        state["conv1.0.weight"] = adapt_input(state["conv1.0.weight"], wanted.in_channels)
    if wanted.num_classes != config.num_classes:
        state = with_new_head(state, wanted)
    return Checkpoint(state, wanted, checkpoint.weights).network()


def _random_network(model: str | None, num_classes: int | None, in_channels: int | None) -> ResNeSt:
    network = ResNeSt(
        get_variant(model or settings.DEFAULT_MODEL).architecture,
        num_classes=1000 if num_classes is None else num_classes,
        in_channels=in_channels or 3,
    )
    initialise(network)
    return network.eval()


def load_checkpoint(weights: Weights) -> Checkpoint:
    """A checkpoint's tensors under their published names, and its config.

    A file without a config is identified by its shapes, its name or the model that was named. One
    that is damaged or holds another network is a `CheckpointError`.
    """
    state, written = read_state(weights.path)
    config = _config(weights, state, written)
    try:
        problems = mismatches(state, config)
    except RuntimeError as error:  # sizes that no computer can count
        reason = f"the config in '{weights.path}' describes no possible network"
        raise CheckpointError(reason) from error
    if problems:
        raise CheckpointError(explain_mismatch(weights.path, config, problems, state))
    check_finite(state, weights.path)
    return Checkpoint(state, config, weights)


def _config(weights: Weights, state: StateDict, written: ModelConfig | None) -> ModelConfig:
    model = weights.model
    if model == demo.DEMO and written:
        return written
    if weights.published:
        return ModelConfig.of_variant(get_variant(model or settings.DEFAULT_MODEL))
    if written and model and get_variant(model).architecture != written.architecture:
        raise CheckpointError(
            f"'{weights.path}' holds {written.name}, not {model}; leave out `model` to use it"
        )
    return written or identify(state, weights.path, model)


def read_state(path: Path) -> tuple[StateDict, ModelConfig | None]:
    """A file's tensors in float32 under their published names, and its config if it has one."""
    try:
        values, config = _read(path, check_kind(path))
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror or error}") from error
    state = network_tensors(values, path)
    check_tensors(state, path)
    return {
        name: value if name.endswith("num_batches_tracked") else value.float()
        for name, value in state.items()
    }, config


def save_checkpoint(
    path: Path, network: ResNeSt, config: ModelConfig, *, half: bool = False
) -> None:
    """Write a network and its config as one safetensors file.

    Weights that fp16 holds exactly are stored in fp16. `half` rounds all weights to it, but not
    biases and statistics.
    """
    from safetensors.torch import save

    tensors = {}
    for name, value in network.state_dict().items():
        rounded = value.half()
        in_half = value.ndim > 1 and (half or torch.equal(rounded.float(), value))
        tensors[name] = (rounded if in_half else value).contiguous()
    with atomic_write(path) as beside:
        beside.write_bytes(save(tensors, {METADATA_KEY: config.to_json()}))


def write_calibrated(source: Path, config: ModelConfig, target: Path, temperature: float) -> None:
    """Write a checkpoint whose logits are those of another divided by a temperature.

    The config records the temperature, multiplied by the one that the source records.
    """
    state, _ = read_state(source)
    scaled = {k: v / temperature if k.startswith("fc.") else v for k, v in state.items()}
    total = temperature * (config.temperature or 1.0)
    config = replace(config, tool_version=__version__, temperature=total)
    save_checkpoint(target, Checkpoint(scaled, config, Weights(source)).network(), config)


def _read(path: Path, head: bytes) -> tuple[Any, ModelConfig | None]:
    if is_graph(path) or path.suffix == ".pt2":
        kind = "graph, which can only be run"
        if path.suffix == ".pt2":  # torch.export.load unpickles and evaluates what it holds
            kind = "program, which is for other programs: loading it could run code from the file"
        raise CheckpointError(
            f"'{path}' holds a {kind}; a checkpoint is needed here\n"
            "use the checkpoint that it was exported from, or that one's .safetensors export"
        )
    torch_wrote = path.suffix != ".safetensors" or head.startswith((b"PK", b"\x80"))
    if not torch_wrote or is_safetensors(head):
        return _read_safetensors(path)
    return _read_torch(path, head), None


def _read_safetensors(path: Path) -> tuple[Any, ModelConfig | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, ModelConfig.from_json(text) if text else None
    except SafetensorError as error:
        check_memory(error, f"'{path}'")
        raise CheckpointError(f"'{path}' is not a whole safetensors file: {error}") from error
    except ValueError as error:
        raise CheckpointError(f"the config in '{path}' cannot be used: {error}") from error


def _read_torch(path: Path, head: bytes) -> Any:
    zipped = head.startswith(b"PK")
    if zipped:
        check_archive(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([*_DATA]):
            warnings.simplefilter("ignore")  # torch's advice about old storages is not for users
            # the zip format can be mapped; the legacy one is read; torch goes by this suffix
            named_otherwise = path.suffix == ".safetensors"
            with path.open("rb") as file:
                values = torch.load(
                    file if named_otherwise else path,
                    map_location="cpu",
                    weights_only=True,
                    mmap=zipped and not named_otherwise,
                )
    except pickle.UnpicklingError as error:
        if blocked := re.search(r"GLOBAL (\S+)", str(error)):
            raise explain_objects(path, blocked[1]) from error
        other = "Unsupported operand" in str(error)  # or of a damaged file
        hint = ", or saved with a pickle_protocol above 2: save it without" if other else ""
        raise CheckpointError(f"'{path}' is damaged or not a checkpoint{hint}") from error
    except OSError:
        raise
    except Exception as error:  # damaged files raise anything at all in torch's readers
        asked = max(map(int, re.findall(r"(\d+) bytes", str(error))), default=0)
        if asked <= path.stat().st_size:  # else it is damaged
            check_memory(error, f"'{path}'")
        line = one_line(str(error))[:200]
        raise CheckpointError(f"'{path}' is damaged or not a checkpoint: {line}") from error
    if not isinstance(values, Mapping | list | tuple):
        raise CheckpointError(f"'{path}' holds a {type(values).__name__}, not a state_dict")
    return values
