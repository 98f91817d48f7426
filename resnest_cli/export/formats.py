"""Models as files for other programs: ONNX, OpenVINO, torch.export or safetensors.

Every file carries the model's config: architecture, labels, preprocessing, origin. A graph takes
normalised images, float32 (N, 3, crop, crop), any N, and gives logits, float32 (N, classes).
"""

from __future__ import annotations

import io
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnest_cli import settings
from resnest_cli.catalog.config import METADATA_KEY, ModelConfig
from resnest_cli.catalog.demo import example
from resnest_cli.catalog.labels import read_labels
from resnest_cli.catalog.weights import Weights, resolve
from resnest_cli.errors import OutputError, ResNeStError, UsageError, WriteError, require_extra
from resnest_cli.files import all_or_none, check_new, check_no_input, os_errors
from resnest_cli.imaging.decode import decode
from resnest_cli.imaging.preprocessing import check_sizes
from resnest_cli.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from resnest_cli.progress import SILENT, Progress
from resnest_cli.version import __version__

_PIXELS, _LOGITS, _BATCH = "pixels", "logits", "batch"
_CONFIG_FILE = f"{METADATA_KEY}.json"  # among the extra files in a .pt2
_OPSET, _IR = 18, 8  # of ONNX, and the version of its files that came with that opset, in 2022
TOLERANCE = 1e-4  # of logits, relative to the greatest one if that is above 1

Run = Callable[[Tensor], NDArray[np.float32]]  # images (N, C, H, W) to logits (N, classes)


@dataclass(frozen=True)
class Exported:
    """A file that `export_model` has written."""

    path: Path
    difference: float  # greatest of a logit from the network's; relative if logits exceed 1
    seconds: float


@dataclass(frozen=True)
class Format:
    """A kind of file: how it is written, and how what was written is run for comparison."""

    suffix: str
    write: Callable[[Checkpoint, Path], None]
    run: Callable[[Path], Run]
    extra: str = ""  # of this package, that installs
    packages: tuple[str, ...] = ()  # import names


def export_model(
    model: str | None,
    output: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    format: str | None = None,  # noqa: A002  # the name of the option
    store: str = "fp32",
    preprocess: str = "default",
    crop: int | None = None,
    resize: int | None = None,
    overwrite: bool = False,
    offline: bool = False,
    progress: Progress = SILENT,
) -> Exported:
    """Write a model to a file for other programs, once that gives the same logits as the model.

    Args:
        model: a variant's name or timm alias, `demo`, or a checkpoint's path; None: what `weights`
            describes itself as.
        output: the file; an OpenVINO .xml gets a .bin beside it.
        weights: a local checkpoint instead of the published one.
        labels: class names, one a line, stored instead of the checkpoint's.
        format: `onnx`, `openvino`, `torch` or `safetensors`; default: by the suffix of `output`,
            which is added if there is none.
        store: `fp16` halves a .safetensors file: weights, but not biases and statistics, are
            rounded.
        preprocess: stored with the model: `default`, `hub`, `paper` or `squash`.
        crop: input resolution in pixels, 32 to 2048; default: as `preprocess` says.
        resize: pixels of the short side before the centre crop; default: in the same ratio.
        overwrite: replace files that exist.
        offline: never touch the network.
        progress: receives the state of a download.

    Raises:
        UsageError: an option is wrong, or `output` is the checkpoint itself.
        OutputError: the file exists or cannot be written.
        CheckpointError: the weights are missing or damaged.
        LabelsError: the labels are unreadable or of the wrong number.
        ResNeStError: a package is missing, or the file's logits are not the model's.
    """
    start = time.monotonic()
    check_sizes(crop, resize)
    names = read_labels(Path(labels)) if labels is not None else None
    path, kind = _target(Path(output), format, store)
    files = [path, path.with_suffix(".bin")] if kind.suffix == ".xml" else [path]
    for file in files:
        check_new(file, overwrite=overwrite)
    check_no_input(files, [Path(labels) if labels is not None else None])
    require_extra(kind.extra, *kind.packages)
    source = resolve(model, weights, offline=offline, on_bytes=progress.download)
    if any(file.exists() and file.samefile(source.path) for file in files):
        raise UsageError(f"`output` is the checkpoint itself, '{source.path}': name another file")
    checkpoint = _prepared(source, fp16=store == "fp16")
    if names:
        names.check(checkpoint.config.num_classes, f"'{labels}'")
        checkpoint = checkpoint._replace(config=replace(checkpoint.config, labels=names))
    view = checkpoint.config.preprocessing.named(preprocess).sized(crop, resize)
    checkpoint = checkpoint._replace(config=replace(checkpoint.config, preprocessing=view))
    return Exported(path, _write(kind, checkpoint, path), time.monotonic() - start)


def _target(path: Path, name: str | None, store: str) -> tuple[Path, Format]:
    """The file to write and its format, by the format's name or else the path's suffix."""
    path, chosen = _with_suffix(path, name)
    if store not in ("fp32", "fp16") or (store == "fp16" and chosen.suffix != ".safetensors"):
        raise UsageError(f"`store` must be fp32, or fp16 for a .safetensors file, not '{store}'")
    return path, chosen


def _with_suffix(path: Path, name: str | None) -> tuple[Path, Format]:
    if name is not None and name not in FORMATS:
        raise UsageError(f"`format` must be one of {', '.join(FORMATS)}, not '{name}'")
    if path.is_dir():
        raise OutputError(f"'{path}' is a folder; name a file in it")
    by_suffix = {kind.suffix: kind for kind in FORMATS.values()}
    chosen = FORMATS[name] if name else by_suffix.get(path.suffix)
    if chosen is None:
        raise UsageError(
            f"`output` must end in one of {', '.join(by_suffix)}, not '{path.name}'; "
            f"or choose a `format`: {', '.join(FORMATS)}"
        )
    if path.suffix == chosen.suffix:
        return path, chosen
    if path.suffix in by_suffix:
        raise UsageError(f"`format={name}` is written to a {chosen.suffix} file, not '{path.name}'")
    return path.with_name(path.name + chosen.suffix), chosen


def _prepared(weights: Weights, *, fp16: bool) -> Checkpoint:
    """The checkpoint to write, with its origin in the config."""
    state, config, _ = load_checkpoint(weights)
    if not config.num_classes:
        raise UsageError(f"'{weights.path}' has no last layer: it gives no logits to export")
    if fp16:
        state = {k: v.half().float() if v.ndim > 1 else v for k, v in state.items()}
    origin = config.origin or f"{weights.path.name}, SHA-256 {weights.sha256}"
    return Checkpoint(state, replace(config, tool_version=__version__, origin=origin), weights)


def _write(kind: Format, checkpoint: Checkpoint, path: Path) -> float:
    """Write a file elsewhere, verify it and put it into place; its difference."""
    names = [path.name, path.with_suffix(".bin").name]  # a graph, and its weights if apart
    with os_errors(f"'{path}'"), all_or_none(path.parent, names) as folder:
        try:
            with _quiet_exporters():
                kind.write(checkpoint, folder / path.name)
                difference = _greatest_difference(checkpoint, kind.run(folder / path.name))
        except WriteError:
            raise
        except ResNeStError as error:
            raise ResNeStError(f"'{path}' was not written: {error}") from error
    return difference


def _write_onnx(checkpoint: Checkpoint, path: Path) -> None:
    settings.contain("inductor")
    program = torch.onnx.export(
        checkpoint.network().requires_grad_(False),
        (_example(checkpoint.config),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim(_BATCH)},),
        input_names=[_PIXELS],
        output_names=[_LOGITS],
        opset_version=_OPSET,
        verbose=False,
    )
    assert program is not None
    graph = program.model.graph
    for part in (*graph, *graph.inputs, *graph.outputs, *graph.initializers.values()):
        part.metadata_props.clear()  # paths of this machine's Python files
    program.model.ir_version = _IR
    program.model.metadata_props[METADATA_KEY] = checkpoint.config.to_json()
    program.save(path, external_data=False)


def _write_openvino(checkpoint: Checkpoint, path: Path) -> None:
    from resnest_cli.engines.openvino.build import build_graph
    from resnest_cli.engines.openvino.graph import CONFIG_PLACE
    from resnest_cli.engines.openvino.runtime import ov

    graph = build_graph(checkpoint.state, checkpoint.config)
    graph.set_rt_info(checkpoint.config.to_json(), CONFIG_PLACE)
    # OpenVINO hides why a disk takes no more
    size = sum(tensor.nbytes for tensor in checkpoint.state.values())
    path.with_suffix(".bin").write_bytes(bytes(size))
    ov.save_model(graph, path, compress_to_fp16=False)


def _write_program(checkpoint: Checkpoint, path: Path) -> None:
    settings.contain("inductor")
    program = torch.export.export(
        checkpoint.network().requires_grad_(False),
        (_example(checkpoint.config),),
        dynamic_shapes=({0: torch.export.Dim(_BATCH)},),
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine's Python files
    content = io.BytesIO()  # a full disk would end the process
    torch.export.save(program, content, extra_files={_CONFIG_FILE: checkpoint.config.to_json()})
    path.write_bytes(content.getbuffer())


def _write_safetensors(checkpoint: Checkpoint, path: Path) -> None:
    save_checkpoint(path, checkpoint.network(), checkpoint.config)


def _example(config: ModelConfig) -> Tensor:
    crop = config.preprocessing.crop
    return torch.zeros(2, config.in_channels, crop, crop)  # a batch of 1 would be specialised


@contextmanager
def _quiet_exporters() -> Iterator[None]:
    """Hide the exporters' advice, which is for their developers."""
    log = logging.getLogger("torch")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _greatest_difference(checkpoint: Checkpoint, run: Run) -> float:
    """The greatest difference of a logit between a checkpoint's network and a written file.

    They are compared on a real image, alone and as a batch; more than `TOLERANCE` is an error.
    """
    network = checkpoint.network()
    image = _photograph(checkpoint.config)
    worst = 0.0
    for batch in (image, torch.cat([image, image.flip(3), image.flip(2)])):
        with torch.inference_mode():
            expected = network(batch).numpy()
        scale = max(float(np.abs(expected).max()), 1.0)
        found = float(np.abs(run(batch) - expected).max()) / scale
        worst = float(np.maximum(worst, found))  # NaN stays NaN
    if not worst <= TOLERANCE:  # which NaN is not
        raise ResNeStError(
            f"its logits differ from the network's by {worst:.1e}, more than {TOLERANCE:g}"
        )
    return worst


def _run_openvino(path: Path) -> Run:
    """An .onnx or .xml file, run by OpenVINO in float32."""
    from resnest_cli.engines.openvino.graph import read_graph
    from resnest_cli.engines.openvino.runtime import core

    graph, _ = read_graph(path)
    compiled = core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pixels: np.array(compiled(pixels.numpy())[0], np.float32)


def _run_torch(path: Path) -> Run:
    """A .safetensors file, or a .pt2 that this process has just written: no other is loaded."""
    module: torch.nn.Module
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()
    else:
        module = load_checkpoint(Weights(path)).network()

    def run(pixels: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = module(pixels).numpy()
        return logits

    return run


def _photograph(config: ModelConfig) -> Tensor:
    """A photograph as the network's input, (1, in_channels, crop, crop)."""
    image = torch.from_numpy(config.preprocessing(decode(example()[0]))).contiguous()[None]
    if config.in_channels == 3:
        return image
    return image.mean(1, keepdim=True).repeat(1, config.in_channels, 1, 1)


FORMATS = {
    "onnx": Format(".onnx", _write_onnx, _run_openvino, "export", ("onnxscript", "openvino")),
    "openvino": Format(".xml", _write_openvino, _run_openvino, "fast", ("openvino",)),
    "torch": Format(".pt2", _write_program, _run_torch),
    "safetensors": Format(".safetensors", _write_safetensors, _run_torch),
}
