"""`resnest export`: a model as a file for other programs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from resnest_cli.cli import options
from resnest_cli.cli.options import option
from resnest_cli.cli.progress import chosen_progress
from resnest_cli.errors import UsageError
from resnest_cli.progress import SUMMARY, set_verbosity

log = logging.getLogger(__name__)


def export(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL|CHECKPOINT]",
            help="What to export: a model name or timm alias (see list-models), demo, or a "
            r"checkpoint's path. \[default: $RESNEST_MODEL, else resnest50]",
            autocompletion=options.complete_model,
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        option(
            "--output -o FILE",
            None,
            "File to write (required): .onnx, .xml (OpenVINO, with a .bin beside it), .pt2 "
            "(torch.export) or .safetensors.",
        ),
    ] = None,
    fmt: Annotated[
        Literal["onnx", "openvino", "torch", "safetensors"] | None,
        option(
            "--format -f",
            None,
            "Kind of file; its suffix is added to FILE if there is none. "
            "[default: by the suffix of FILE]",
        ),
    ] = None,
    model: options.Model = None,
    weights: options.Weights = None,
    labels: options.LabelsFile = None,
    store: Annotated[
        Literal["fp32", "fp16"],
        option("--store", None, "Type of the weights in a .safetensors file; fp16 halves it."),
    ] = "fp32",
    preprocess: options.Preprocess = "default",
    crop: options.Crop = None,
    resize: options.Resize = None,
    overwrite: Annotated[bool, option("--overwrite", None, "Replace a FILE that exists.")] = False,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write a model as ONNX, OpenVINO, torch.export or safetensors.

    The file carries labels, preprocessing and origin: 'resnest predict --weights FILE' needs
    nothing else (except for .pt2, which is for other programs alone). A graph takes normalised
    float32 images (N, 3, crop, crop), any N, and gives logits. Before it is put in place, its
    logits for an image are compared with the model's.

    Examples:

      resnest export resnest50 -o resnest50.onnx

      resnest export trained/plants/best.safetensors -o plants.xml

      resnest export resnest50-528c19ca.pth -o resnest50.safetensors --store fp16
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    if output is None:
        raise UsageError(_missing(source, model, weights))
    if source and (model or weights):
        given = f"`model={model}`" if model else f"`weights={weights}`"
        raise UsageError(f"'{source}' and {given} both name what to export: leave out one of them")
    name = source or options.chosen_model(model, weights)
    from resnest_cli.export.formats import export_model

    made = export_model(
        name, output, weights=weights, labels=labels, format=fmt, store=store,
        preprocess=preprocess, crop=crop, resize=resize, overwrite=overwrite, offline=offline,
        progress=chosen_progress(name or "resnest50", quiet=quiet),
    )  # fmt: skip
    log.log(
        SUMMARY,
        "'%s' written in %.1f s; its logits are the model's within %.1e",
        made.path, made.seconds, made.difference,
    )  # fmt: skip


def _missing(source: str | None, model: str | None, weights: Path | None) -> str:
    """How to write a command without -o, in which FILE may have been given as once it was."""
    named = model or weights
    what, file = (named, source) if named and source else (named or source or "resnest50", "x.onnx")
    return f"-o FILE is missing: what to write\nuse, for instance: resnest export {what} -o {file}"
