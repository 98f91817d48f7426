"""A network as a file for other programs: ONNX, OpenVINO, torch.export or safetensors.

Every file carries the network's card: architecture, labels, preprocessing, origin. A graph takes
normalised pictures, float32 (N, 3, crop, crop), any N, and gives logits, float32 (N, classes).
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnest_cli import __version__, bundled, checkpoints
from resnest_cli.card import METADATA_KEY, ModelCard
from resnest_cli.errors import EngineError, ResNeStError, UsageError
from resnest_cli.images import decode
from resnest_cli.model.archive import CARD_FILE
from resnest_cli.model.load import Loaded, build, load_state, save_checkpoint
from resnest_cli.model.resnest import ResNeSt

TOLERANCE = 1e-4  # of logits, relative to the greatest where that is above 1
_PIXELS, _LOGITS, _BATCH = "pixels", "logits", "batch"

Run = Callable[[Tensor], "NDArray[np.float32]"]


def export(loaded: Loaded, path: Path, *, half: bool = False) -> float:
    """Write a network to a file whose suffix says how, once the file answers as the network does.

    The comparison is made on a real picture, as it is and mirrored, alone and as a batch.

    Args:
        loaded: the network.
        path: of the file.
        half: round weights, but not biases and statistics, to 16 bits; it is the rounded network
            that the file is compared with. Only safetensors files take half the room then.

    Returns:
        The greatest difference of a logit.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`, or takes no 16 bits.
        EngineError: a package is missing; the message names it.
        ResNeStError: the file's answers differ by more than `TOLERANCE`.
    """
    check_suffix(path)
    if half and path.suffix != ".safetensors":
        raise UsageError(f"16 bits are for .safetensors files, not for {path.suffix}")
    write, run = _FORMATS[path.suffix]
    if not loaded.card.num_classes:
        raise UsageError(f"'{loaded.path}' has no last layer: there are no answers to export")
    origin = f"{loaded.path.name}, SHA-256 {checkpoints.digest(loaded.path)}"
    card = replace(loaded.card, tool_version=__version__, origin=loaded.card.origin or origin)
    state = {k: v.half().float() if half and v.ndim > 1 else v for k, v in loaded.state.items()}
    network = build(state, card).requires_grad_(False)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
        made = Path(folder) / path.name
        with _silence():
            write(network, card, made)
            difference = _difference(network, card, run(made))
        if not difference <= TOLERANCE:  # which NaN is not
            raise ResNeStError(
                f"'{path}' was not written: its answers differ from the network's by "
                f"{difference:.1e}, more than {TOLERANCE:g}"
            )
        for file in sorted(Path(folder).iterdir()):  # a graph's weights before the graph
            file.replace(path.parent / file.name)
    return difference


def check_suffix(path: Path) -> None:
    """Raise `UsageError` for an unknown format, `EngineError` for a missing package."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"'{path}' should end in one of {', '.join(SUFFIXES)}")
    needed = {".onnx": ("onnxscript", "openvino"), ".xml": ("openvino",)}.get(path.suffix, ())
    for package in needed:
        if find_spec(package) is None:
            extra = "export" if path.suffix == ".onnx" else "fast"
            raise EngineError(f"{package} is not installed\npip install 'resnest-cli[{extra}]'")


def _difference(network: ResNeSt, card: ModelCard, run: Run) -> float:
    """The greatest difference of a logit; of large logits in relation to the largest."""
    image = decode(bundled.example()[0])
    view = card.preprocessing
    pixels = view.normalise(np.stack([view.pixels(image)])).transpose(0, 3, 1, 2)
    one = torch.from_numpy(np.ascontiguousarray(pixels))
    if card.in_channels != 3:
        one = one.mean(1, keepdim=True).repeat(1, card.in_channels, 1, 1)
    worst = 0.0
    for batch in (one, torch.cat([one, one.flip(3), one.flip(2)])):
        with torch.inference_mode():
            expected = network(batch).numpy()
        scale = max(float(np.abs(expected).max()), 1.0)
        found = float(np.abs(run(batch) - expected).max()) / scale
        worst = float(np.maximum(worst, found))  # NaN stays NaN
    return worst


def _write_onnx(network: ResNeSt, card: ModelCard, path: Path) -> None:
    program = torch.onnx.export(
        network,
        (_example(card),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim(_BATCH)},),
        input_names=[_PIXELS],
        output_names=[_LOGITS],
        opset_version=18,
        verbose=False,
    )
    assert program is not None
    graph = program.model.graph
    for part in (*graph, *graph.inputs, *graph.outputs, *graph.initializers.values()):
        part.metadata_props.clear()  # where on this machine the program's source lies
    program.model.metadata_props[METADATA_KEY] = card.to_json()
    program.save(path, external_data=False)


def _write_openvino(network: ResNeSt, card: ModelCard, path: Path) -> None:
    from resnest_cli.engines.openvino_convert import to_graph
    from resnest_cli.engines.openvino_graph import CARD_PLACE
    from resnest_cli.engines.openvino_runtime import ov

    graph = to_graph(network, card)
    graph.inputs[0].get_tensor().set_names({_PIXELS})
    graph.outputs[0].get_tensor().set_names({_LOGITS})
    graph.set_rt_info(card.to_json(), CARD_PLACE)
    ov.save_model(graph, path, compress_to_fp16=False)


def _write_program(network: ResNeSt, card: ModelCard, path: Path) -> None:
    shapes = ({0: torch.export.Dim(_BATCH)},)
    program = torch.export.export(network, (_example(card),), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # where on this machine the program's source lies
    torch.export.save(program, path, extra_files={CARD_FILE: card.to_json()})


def _write_safetensors(network: ResNeSt, card: ModelCard, path: Path) -> None:
    # weights that were rounded to 16 bits, now or earlier, need no more
    weights = [value for value in network.state_dict().values() if value.ndim > 1]
    rounded = all(torch.equal(value, value.half().float()) for value in weights)
    save_checkpoint(path, network, card, half=rounded)


def _run_openvino(path: Path) -> Run:
    from resnest_cli.engines.openvino_graph import read_graph
    from resnest_cli.engines.openvino_runtime import ov

    graph, _ = read_graph(path)
    compiled = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pixels: np.array(compiled(pixels.numpy())[0], np.float32)


def _run_program(path: Path) -> Run:
    """The program itself, which this process has just written, and the weights as read back."""
    program, again = torch.export.load(path).module(), _run_safetensors(path)

    def run(pixels: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = program(pixels).numpy()
        alike = np.abs(again(pixels) - logits).max() <= TOLERANCE
        return logits if alike else np.full_like(logits, np.inf)

    return run


def _run_safetensors(path: Path) -> Run:
    loaded = load_state(weights=path)
    network = build(loaded.state, loaded.card)

    def run(pixels: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = network(pixels).numpy()
        return logits

    return run


_FORMATS = {
    ".onnx": (_write_onnx, _run_openvino),
    ".xml": (_write_openvino, _run_openvino),
    ".pt2": (_write_program, _run_program),
    ".safetensors": (_write_safetensors, _run_safetensors),
}
SUFFIXES = tuple(_FORMATS)


def _example(card: ModelCard) -> Tensor:
    crop = card.preprocessing.crop
    return torch.zeros(2, card.in_channels, crop, crop)  # one picture would be taken for the rule


@contextmanager
def _silence() -> Iterator[None]:
    """The exporters' advice is for those who work on them."""
    log = logging.getLogger("torch")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
