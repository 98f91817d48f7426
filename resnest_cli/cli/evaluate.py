"""`resnest evaluate`: a model measured on labelled images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from resnest_cli import settings
from resnest_cli.cli import options
from resnest_cli.cli.options import option
from resnest_cli.cli.progress import chosen_progress
from resnest_cli.datasets.labelled_folder import LabelledFolder
from resnest_cli.engines.api import ModelSpec, RuntimeOptions
from resnest_cli.files import CSVStyle
from resnest_cli.hardware import is_main_process
from resnest_cli.imaging.decode_options import MAX_PIXELS, DecodeOptions
from resnest_cli.progress import set_verbosity


def evaluate(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Folder of class folders, named after the classes, their WordNet ids or indices; "
            "with --ground-truth, folder of images. Or an archive, a glob of archives, or the URL "
            "of an object store.",
            show_default=False,
        ),
    ],
    ground_truth: Annotated[
        Path | None,
        option(
            "--ground-truth FILE",
            options.INPUT,
            "List of the images' classes: name, class in each line, such as ImageNet's "
            "LOC_val_solution.csv or a val.txt.",
        ),
    ] = None,
    labels_file: Annotated[Path | None, typer.Option(hidden=True)] = None,  # its former name
    include: options.Include = None,
    exclude: options.Exclude = None,
    limit: Annotated[
        int | None,
        option("--limit N", options.INPUT, "Use N images only, spread evenly over all.", (1, None)),
    ] = None,
    skip_unknown: Annotated[
        bool, option("--skip-unknown", options.INPUT, "Leave out classes that the model lacks.")
    ] = False,
    exif: Annotated[
        bool | None,
        option(
            "--exif/--no-exif",
            options.INPUT,
            "Apply the EXIF orientation of images. [default: yes, except for published models, "
            "which were measured without]",
        ),
    ] = None,
    background: options.Background = None,
    max_pixels: options.MaxPixels = MAX_PIXELS,
    fast_jpeg: options.FastJpeg = False,
    stretch: options.Stretch = False,
    model: options.Model = None,
    weights: options.Weights = None,
    labels: options.LabelsFile = None,
    preprocess: options.Preprocess = "default",
    crop: options.Crop = None,
    resize: options.Resize = None,
    bins: Annotated[
        int, option("--bins N", options.RESULTS, "Bins of the calibration error.", (2, 1000))
    ] = 15,
    fmt: options.TableFormat = "table",
    as_json: options.Json = False,
    output: Annotated[
        Path | None,
        option(
            "--output -o DIR",
            options.OUTPUT,
            "Folder for metrics.json, per_class.csv, confusion.csv and .png, reliability.png, "
            "mistakes.csv and .jpg, predictions.csv.",
        ),
    ] = None,
    mistakes: Annotated[
        int,
        option("--mistakes N", options.OUTPUT, "Images on the sheet of mistakes.", (0, 400)),
    ] = 36,
    calibrate: Annotated[
        Path | None,
        option(
            "--calibrate FILE",
            options.OUTPUT,
            "Fit a temperature on these images, and write a checkpoint (.safetensors) with "
            "calibrated probabilities.",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        option(
            "--overwrite",
            options.OUTPUT,
            "Replace files of a report in --output, and the file of --calibrate.",
        ),
    ] = False,
    csv_bom: options.CSVBom = False,
    csv_safe: options.CSVSafe = False,
    on: options.On = None,
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
    """Measure a model on labelled images.

    Top-1 and top-5 accuracy with 95 % intervals; precision, recall and F1 of each class; the
    confusion matrix and the calibration error. For a published model on ImageNet it reports whether
    the published top-1 was reproduced.

    Examples:

      resnest evaluate photos/ --model best.safetensors

      resnest evaluate photos/ --model best.safetensors -o report/

      resnest evaluate ILSVRC2012_val/ --ground-truth LOC_val_solution.csv --model resnest101

      resnest evaluate photos/ --model best.safetensors --calibrate calibrated.safetensors

      resnest evaluate photos/ --model best.safetensors --on ray

      torchrun --nproc-per-node 4 -m resnest_cli evaluate photos/ --model best.safetensors
    """
    quiet = quiet or not is_main_process()
    set_verbosity(quiet=quiet, verbose=verbose)
    fmt = options.chosen_format(fmt, as_json)
    name = options.chosen_model(model, weights)
    spec = ModelSpec(name, weights, labels, preprocess, crop, resize, offline=offline)
    from resnest_cli.evaluation import evaluate as evaluation

    exif = evaluation.applies_exif(spec) if exif is None else exif
    result = evaluation.evaluate(
        LabelledFolder(
            data, ground_truth or labels_file, tuple(include or ()), tuple(exclude or ()), limit
        ),
        spec,
        runtime=RuntimeOptions(device, engine, precision, compiled, batch_size, workers),
        decode=DecodeOptions(
            exif,
            options.colour(background),
            max_pixels,
            fast_jpeg,
            stretch=stretch,
            offline=offline or settings.offline(),
        ),
        skip_unknown=skip_unknown,
        bins=bins,
        output=output,
        mistakes=mistakes,
        calibrate=calibrate,
        overwrite=overwrite,
        csv=CSVStyle(csv_bom, csv_safe),
        on=on,
        progress=chosen_progress(name or settings.DEFAULT_MODEL, quiet=quiet),
    )
    if not is_main_process():
        return 0
    if fmt == "json":
        typer.echo(json.dumps(result.as_json(), indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join((*result.summary(), "", result.network)))
    return 3 if result.failed else 0
