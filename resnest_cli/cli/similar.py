"""`resnest similar`: images that look like others."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from resnest_cli import settings
from resnest_cli.cli import options
from resnest_cli.cli.progress import chosen_progress
from resnest_cli.engines.api import ModelSpec, RuntimeOptions
from resnest_cli.errors import UsageError
from resnest_cli.imaging.decode_options import DecodeOptions
from resnest_cli.inputs.discover import Inputs
from resnest_cli.progress import SUMMARY, set_verbosity
from resnest_cli.text import counted

log = logging.getLogger(__name__)


def similar(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE...",
            help="Images to look for: files, folders, quoted globs, http(s) URLs, or - for one on "
            "standard input.",
            show_default=False,
        ),
    ] = None,
    index: Annotated[
        Path | None,
        options.option("--index FILE", options.INPUT, "What embed has written (required)."),
    ] = None,
    limit: options.Limit = None,
    allow_private: options.AllowPrivate = False,
    model: Annotated[
        str | None,
        options.option(
            "--model -m NAME",
            options.MODEL,
            "Model name or a checkpoint's path; its weights must be the index's. "
            "[default: the index's model]",
            complete=options.complete_model,
        ),
    ] = None,
    weights: Annotated[
        Path | None, options.option("--weights FILE", options.MODEL, "Local checkpoint.")
    ] = None,
    top_k: Annotated[
        int,
        options.option("--top-k -k N", options.RESULTS, "Similar images of each.", (1, 1000)),
    ] = 10,
    approximate: Annotated[
        bool,
        options.option(
            "--approximate",
            options.RESULTS,
            "Find most of the nearest images, faster, for more than 100,000: needs pip install "
            "'resnest-cli[index]', makes FILE.voyager once, and prints its recall.",
        ),
    ] = False,
    fmt: Annotated[
        Literal["table", "json", "jsonl", "csv", "tsv"] | None,
        options.option(
            "--format -f",
            options.OUTPUT,
            "Output format. [default: by --output's suffix, else table]",
        ),
    ] = None,
    as_json: options.Json = False,
    output: Annotated[
        Path | None,
        options.option(
            "--output -o FILE",
            options.OUTPUT,
            "Write results to FILE: .json, .jsonl, .csv, .tsv or .txt. [default: standard output]",
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        options.option(
            "--sheet FILE",
            options.OUTPUT,
            "Also write a contact sheet: .html, one file that loads nothing, or .png.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, options.option("--overwrite", options.OUTPUT, "Replace files that exist.")
    ] = False,
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Find the images that are most similar to others.

    Images are compared by the cosine of the vectors that embed has made, 1 for the same direction.
    The search is exact unless --approximate is given. Preprocessing is the index's, and an index of
    other weights is refused. Exit codes are as for predict.

    Examples:

      resnest similar dog.jpg --index vectors.npy

      resnest similar dog.jpg --index vectors.npy -k 20 --sheet similar.html

      resnest similar photos/ --index vectors.npy -o similar.csv
    """
    if index is None:
        raise UsageError("similar needs what embed has written: `index=FILE`")
    set_verbosity(quiet=quiet, verbose=verbose)
    output = None if output == Path("-") else output
    offline = offline or settings.offline()
    wanted = Inputs(tuple(images or ()), limit=limit)
    from resnest_cli.embed.similar import SimilarJob

    job = SimilarJob(
        wanted, index, output, options.chosen_format(fmt, as_json), top_k,
        model=ModelSpec(model, weights) if model or weights else None,
        runtime=RuntimeOptions(device, engine, batch_size=batch_size, workers=workers),
        decode=DecodeOptions(allow_private=allow_private, offline=offline),
        approximate=approximate, sheet=sheet, overwrite=overwrite,
    )  # fmt: skip
    progress = chosen_progress(model or "", quiet=quiet, tasks=output is not None or approximate)
    summary = job.run(progress)
    text = f"{counted(summary.done, 'image')} in {summary.seconds:.1f} s"
    if summary.failed:
        text += f"; {summary.failed:,} failed: their rows say why"
    if summary.recall is not None:
        text += f"; approximate: recall {summary.recall:.1%} of the nearest {top_k}, on a sample"
    if summary.done > 1 or summary.failed or summary.recall is not None:
        log.log(SUMMARY, text)
    return 3 if summary.failed else 0
