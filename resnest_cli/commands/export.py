"""`resnest export`: a network as a file for other programs."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from resnest_cli.commands import options
from resnest_cli.errors import OutputError, UsageError
from resnest_cli.terminal import SUMMARY, DownloadBar, set_verbosity, stderr_is_terminal

log = logging.getLogger(__name__)


def export(
    output: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="What to write; its suffix says how: .onnx, .xml (OpenVINO, with a .bin beside "
            "it), .pt2 (torch.export) or .safetensors.",
            show_default=False,
        ),
    ],
    model: options.Model = None,
    weights: options.Weights = None,
    average: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Checkpoint to blend with, weight by weight: a further training of the same "
            "network, for the same classes. Several: with their mean.",
            show_default=False,
        ),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            min=0,
            max=1,
            help=r"Of what --average names in the blend. \[default: all count the same]",
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        Literal["fp32", "fp16"],
        typer.Option(help="Type of the weights in a .safetensors file; fp16 halves it."),
    ] = "fp32",
    preprocess: options.Preprocess = "default",
    crop: options.Crop = None,
    resize: options.Resize = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a FILE that exists.")
    ] = False,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Write a network as a file for other programs.

    The file carries labels, preprocessing and origin: 'resnest predict --weights FILE' needs
    nothing else. A graph takes normalised float32 pictures (N, 3, crop, crop), any N, and gives
    logits. Before it is put in place its answers on a picture are compared with the network's.

    Examples:

      resnest export resnest50.onnx --model resnest50

      resnest export plants.xml --weights trained/plants/best.safetensors

      resnest export resnest50.safetensors --weights resnest50-528c19ca.pth

      resnest export blend.safetensors --weights a/best.safetensors --average b/best.safetensors
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    if share is not None and not average:
        raise UsageError("--share is of what --average names, and that names nothing")
    files = [output, output.with_suffix(".bin")] if output.suffix == ".xml" else [output]
    for file in files:
        if file.exists() and not overwrite:
            raise OutputError(f"'{file}' exists already; replace it with --overwrite")
    if not output.absolute().parent.is_dir():
        raise OutputError(f"there is no folder '{output.parent}'; make it first")
    name = options.chosen_model(model, weights)
    from resnest_cli import export as exporting

    exporting.check_suffix(output)
    from resnest_cli.model.load import load_state

    start = time.monotonic()
    with DownloadBar(name or "resnest50") as bar:
        shown = stderr_is_terminal() and not quiet
        loaded = load_state(
            name, weights=weights, offline=offline, on_progress=bar if shown else None
        )
    view = loaded.card.preprocessing.named(preprocess).sized(crop, resize)
    loaded = loaded._replace(card=replace(loaded.card, preprocessing=view))
    if average:
        from resnest_cli.model.average import average as blend

        loaded = blend(loaded, [load_state(weights=file) for file in average], share)
    difference = exporting.export(loaded, output, half=store == "fp16")
    log.log(
        SUMMARY,
        "'%s' written in %.1f s; its logits are the network's within %.1e",
        output,
        time.monotonic() - start,
        difference,
    )
    return 0
