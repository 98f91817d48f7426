"""`resnest explain`: where in images the evidence for a class is."""

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


def explain(
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
    stretch: options.Stretch = False,
    allow_private: options.AllowPrivate = False,
    model: options.Model = None,
    weights: options.Weights = None,
    labels: options.LabelsFile = None,
    preprocess: options.Preprocess = "default",
    crop: options.Crop = None,
    resize: options.Resize = None,
    classes: Annotated[
        list[str] | None,
        options.option(
            "--class NAME",
            options.RESULTS,
            "Explain this class: its name, WordNet id or number; repeatable. "
            "[default: each image's most probable one]",
        ),
    ] = None,
    why_not: Annotated[
        str | None,
        options.option(
            "--why-not NAME",
            options.RESULTS,
            "Explain why it is not this class: the difference of the two, in log odds.",
        ),
    ] = None,
    check: Annotated[
        bool,
        options.option(
            "--check",
            options.RESULTS,
            "Test each map: hide the fifth that it marks, and 20 times as much at random "
            "(22 more computations a map).",
        ),
    ] = False,
    detail: Annotated[
        bool,
        options.option(
            "--detail",
            options.RESULTS,
            "Maps four times as fine, each cell shared out by LayerCAM over stages 2 to 4 "
            "(engine torch).",
        ),
    ] = False,
    attention: Annotated[
        bool,
        options.option(
            "--attention",
            options.RESULTS,
            "The split-attention weights of each block, and their effect on the logit "
            "(engine torch; half as many computations as there are blocks).",
        ),
    ] = False,
    no_images: Annotated[
        bool, options.option("--no-images", options.OUTPUT, "Draw nothing; write rows and .npz.")
    ] = False,
    scale: Annotated[
        float | None,
        options.option(
            "--scale LOGITS",
            options.OUTPUT,
            "The value with the strongest colour, for all images. [default: the largest of the "
            "first 16 images, rounded]",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        options.option(
            "--output -o DIR",
            options.OUTPUT,
            "Folder to write (required): explain.jsonl, and maps and drawings in maps/.",
        ),
    ] = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    precision: options.Precision = "fp32",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Show where in images the evidence for a class is.

    A map holds the share of each cell of the image in a class's logit: its mean and the class's
    bias add up to the logit. Exit codes are as for predict.

    Examples:

      resnest explain dog.jpg -o why/

      resnest explain photos/ -o cat-or-dog/ --class cat --class dog

      resnest explain dog.jpg -o why-not/ --why-not cat --check

      resnest explain dog.jpg -o inside/ --detail --attention
    """
    if output is None:
        raise UsageError("explain needs a folder for its maps: `output=DIR`")
    set_verbosity(quiet=quiet, verbose=verbose)
    offline = offline or settings.offline()
    name = options.chosen_model(model, weights)
    wanted = Inputs(
        tuple(inputs or ()), files_from, tuple(include or ()), tuple(exclude or ()), limit, null
    )
    from resnest_cli.explain.job import ExplainJob

    job = ExplainJob(
        wanted, output, tuple(classes or ()), why_not,
        model=ModelSpec(name, weights, labels, preprocess, crop, resize, offline=offline),
        runtime=RuntimeOptions(
            device, engine, precision, batch_size=batch_size, workers=workers
        ),
        decode=DecodeOptions(
            not no_exif, options.colour(background), max_pixels,
            stretch=stretch, allow_private=allow_private, offline=offline,
        ),
        images=not no_images, check=check, detail=detail, attention=attention, scale=scale,
        resume=resume, overwrite=overwrite,
    )  # fmt: skip
    summary = job.run(chosen_progress(name or settings.DEFAULT_MODEL, quiet=quiet))
    log.log(SUMMARY, str(summary))
    return 3 if summary.failed else 0
