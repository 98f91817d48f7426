"""`resnest embed`: images to vectors."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from resnest_cli import settings
from resnest_cli.cli import options
from resnest_cli.cli.progress import chosen_progress
from resnest_cli.engines.api import ModelSpec, RuntimeOptions
from resnest_cli.errors import UsageError
from resnest_cli.imaging.decode_options import MAX_PIXELS, DecodeOptions
from resnest_cli.inputs.discover import Inputs
from resnest_cli.progress import SUMMARY, set_verbosity

log = logging.getLogger(__name__)


def embed(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...",
            help="Image files, folders (walked recursively), quoted globs, http(s) URLs, or - for "
            "one image on standard input; any number, mixed.",
            show_default=False,
        ),
    ] = None,
    files_from: options.FilesFrom = None,
    null: options.Null = False,
    include: options.Include = None,
    exclude: options.Exclude = None,
    limit: options.Limit = None,
    no_exif: options.NoExif = False,
    background: options.Background = None,
    max_pixels: options.MaxPixels = MAX_PIXELS,
    fast_jpeg: options.FastJpeg = False,
    stretch: options.Stretch = False,
    allow_private: options.AllowPrivate = False,
    model: options.Model = None,
    weights: options.Weights = None,
    preprocess: options.Preprocess = "default",
    crop: options.Crop = None,
    resize: options.Resize = None,
    output: Annotated[
        Path | None,
        options.option(
            "--output -o FILE",
            options.OUTPUT,
            "Write vectors to FILE (required): .npy, .safetensors or .parquet; and what gave them "
            "to FILE.run.json, and paths and errors, but for .parquet, to FILE.names.csv.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        options.option(
            "--resume",
            options.OUTPUT,
            "Continue an interrupted --output, or a finished one with further inputs.",
        ),
    ] = False,
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    precision: options.Precision = "fp32",
    compiled: options.Compile = False,
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Write the vectors that a network makes of images.

    A vector is the input of the network's last layer, pooled: float32, 2,048 numbers for the
    published models. Rows are in the order of the inputs; the row of an image that failed holds
    NaN (in Parquet null), and its error. Exit codes are as for predict.

    Examples:

      resnest embed photos/ -o vectors.npy

      resnest embed photos/ -o vectors.parquet --resume
    """
    if output is None:
        raise UsageError("embed needs a file for its vectors: `output=FILE`")
    set_verbosity(quiet=quiet, verbose=verbose)
    offline = offline or settings.offline()
    name = options.chosen_model(model, weights)
    wanted = Inputs(
        tuple(inputs or ()), files_from, tuple(include or ()), tuple(exclude or ()), limit, null
    )
    from resnest_cli.embed.job import EmbedJob

    job = EmbedJob(
        wanted, output,
        ModelSpec(name, weights, None, preprocess, crop, resize, offline=offline),
        RuntimeOptions(device, engine, precision, compiled, batch_size, workers),
        DecodeOptions(
            not no_exif, options.colour(background), max_pixels, fast_jpeg,
            stretch=stretch, allow_private=allow_private, offline=offline,
        ),
        resume=resume, overwrite=overwrite,
    )  # fmt: skip
    summary = job.run(chosen_progress(name or settings.DEFAULT_MODEL, quiet=quiet))
    log.log(SUMMARY, str(summary))
    return 3 if summary.failed else 0
