"""`resnest predict`: images to predictions."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from resnest_cli import settings
from resnest_cli.cli import options
from resnest_cli.cli.progress import chosen_progress
from resnest_cli.engines.api import ModelSpec, RuntimeOptions
from resnest_cli.files import CSVStyle
from resnest_cli.imaging.decode_options import MAX_PIXELS, DecodeOptions
from resnest_cli.inputs.discover import Inputs
from resnest_cli.progress import SUMMARY, set_verbosity

log = logging.getLogger(__name__)


def predict(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...",
            help="Image files, archives, folders (walked recursively), quoted globs, URLs (http, "
            "https, s3, gs, az), or - for one image on standard input; any number, mixed.",
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
    labels: options.LabelsFile = None,
    preprocess: options.Preprocess = "default",
    crop: options.Crop = None,
    resize: options.Resize = None,
    top_k: options.TopK = None,
    threshold: options.Threshold = 0.0,
    fmt: options.Format = None,
    as_json: options.Json = False,
    output: options.Output = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    partition_size: options.PartitionSize = None,
    shard: options.Shard = None,
    retry_failed: options.RetryFailed = False,
    on: options.On = None,
    csv_bom: options.CSVBom = False,
    csv_safe: options.CSVSafe = False,
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
    """Classify images.

    Results go to standard output or --output; progress and the summary to standard error.
    Exit codes: 0 all done, 1 nothing could be done, 2 wrong command line, 3 some or all
    inputs failed (each has its row), 130 interrupted.

    Examples:

      resnest predict dog.jpg

      resnest predict photos/ 'more/**/*.png' -o results.csv

      resnest predict photos/ -o results.jsonl --resume

      resnest predict photos/ -o out/ --shard 1/16

      resnest predict photos/ -o by-ray/ --on ray

      find . -name '*.jpg' | resnest predict --files-from - -f jsonl

      curl -s https://example.org/cat.jpg | resnest predict -

      resnest predict dog.jpg --model best.safetensors --top-k 3
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    offline = offline or settings.offline()
    name = options.chosen_model(model, weights)
    target = None if output in (None, "-") else Path(output)
    wanted = Inputs(
        tuple(inputs or ()), files_from, tuple(include or ()), tuple(exclude or ()), limit,
        null,
    )  # fmt: skip
    from resnest_cli.cluster.job import PARTITION_SIZE, PartitionedJob, is_folder
    from resnest_cli.inference.job import PredictionJob

    in_partitions = is_folder(output, partition_size, shard, retry_failed=retry_failed, on=on)
    job = PredictionJob(
        wanted, target, options.chosen_format(fmt, as_json),
        model=ModelSpec(name, weights, labels, preprocess, crop, resize, offline=offline),
        runtime=RuntimeOptions(device, engine, precision, compiled, batch_size, workers),
        decode=DecodeOptions(
            not no_exif, options.colour(background), max_pixels, fast_jpeg,
            stretch=stretch, allow_private=allow_private, offline=offline,
        ),
        top_k=top_k, threshold=threshold, resume=resume, overwrite=overwrite,
        csv=CSVStyle(csv_bom, csv_safe),
    )  # fmt: skip
    # rows on a terminal are progress enough
    tasks = not (wanted.is_one_image or (target is None and sys.stdout.isatty()))
    label = name or settings.DEFAULT_MODEL
    progress = chosen_progress(label, quiet=quiet, tasks=tasks)
    if in_partitions:
        size = PARTITION_SIZE if partition_size is None else partition_size
        summary = PartitionedJob(job, size, shard, retry_failed, on).run(progress)
    else:
        summary = job.run(progress)
    if summary.done > 1 or summary.failed or summary.left_out:
        log.log(SUMMARY, str(summary))
    return 3 if summary.failed else 0
