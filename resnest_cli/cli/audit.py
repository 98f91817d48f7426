"""`resnest audit`: wrong labels, outliers and copies in class folders."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnest_cli import settings
from resnest_cli.cli import options
from resnest_cli.cli.progress import chosen_progress
from resnest_cli.cli.tables import print_table
from resnest_cli.engines.api import ModelSpec, RuntimeOptions
from resnest_cli.errors import UsageError
from resnest_cli.files import CSVStyle
from resnest_cli.imaging.decode_options import MAX_PIXELS, DecodeOptions
from resnest_cli.progress import SUMMARY, set_verbosity
from resnest_cli.text import counted, printable

if TYPE_CHECKING:
    from resnest_cli.embed.audit import Audit
    from resnest_cli.embed.audit_rows import Finding

log = logging.getLogger(__name__)

_MOST_SHOWN = 20


def audit(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of class folders, or of train/, val/ ... with class folders.",
            show_default=False,
        ),
    ],
    reviewed: Annotated[
        Path | None,
        options.option(
            "--reviewed FILE",
            options.INPUT,
            "An earlier --output, with your words in its column 'verdict': those images are not "
            "reported again. [default: the --output that --overwrite replaces]",
        ),
    ] = None,
    no_exif: options.NoExif = False,
    background: options.Background = None,
    max_pixels: options.MaxPixels = MAX_PIXELS,
    stretch: options.Stretch = False,
    model: options.Model = None,
    weights: options.Weights = None,
    preprocess: options.Preprocess = "default",
    crop: options.Crop = None,
    resize: options.Resize = None,
    folds: Annotated[
        int,
        options.option(
            "--folds N",
            options.RESULTS,
            "Parts of the images that are judged in turn by the others; a class with fewer "
            "distinct images is not judged.",
            (2, 100),
        ),
    ] = 5,
    seed: Annotated[
        int, options.option("--seed N", options.RESULTS, "Of the parts' choice.", (0, None))
    ] = 0,
    fmt: options.Format = None,
    output: Annotated[
        Path | None,
        options.option(
            "--output -o FILE",
            options.OUTPUT,
            "Write a row for every image to FILE, the most suspicious first: .csv, .tsv, .jsonl, "
            ".json or .parquet. [default: a table of the most suspicious]",
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    csv_bom: options.CSVBom = False,
    csv_safe: options.CSVSafe = False,
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    precision: options.Precision = "fp32",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Find probable wrong labels, outliers and copies in class folders.

    Each label is judged by a layer that was trained on other images, and shown with the class that
    fits better and the most similar images. No image is moved or changed. Exit codes: 0 done,
    whatever was found; 1 nothing could be done; 2 wrong command line; 3 some images cannot be
    read (each has its row); 130 interrupted.

    Examples:

      resnest audit photos/

      resnest audit photos/ -o audit.csv

      resnest audit photos/ -o audit.csv --overwrite
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    output = None if output == Path("-") else output
    if fmt == "parquet" and output is None:
        raise UsageError("`format=parquet` needs a file: `output=FILE`")
    if output and (fmt or output.suffix.lower()) in ("table", ".txt"):
        raise UsageError("the table is for standard output; write csv, tsv, json, jsonl or parquet")
    from resnest_cli.embed.audit import AuditJob
    from resnest_cli.embed.audit_rows import write_rows

    offline = offline or settings.offline()
    name = options.chosen_model(model, weights)
    style = CSVStyle(csv_bom, csv_safe)
    found = AuditJob(
        folder,
        ModelSpec(name, weights, None, preprocess, crop, resize, offline=offline),
        RuntimeOptions(device, engine, precision, batch_size=batch_size, workers=workers),
        DecodeOptions(
            not no_exif, options.colour(background), max_pixels, stretch=stretch, offline=offline
        ),
        output, fmt, reviewed, folds, seed, overwrite, style,
    ).run(chosen_progress(name or settings.DEFAULT_MODEL, quiet=quiet))  # fmt: skip
    if output is None and fmt not in (None, "table"):
        write_rows(sys.stdout.buffer, found.findings, fmt or "", style)
    elif output is None and found.suspicious:
        print_table([_row(f) for f in found.suspicious[:_MOST_SHOWN]], left=("Image", "Issue"))
        if len(found.suspicious) > _MOST_SHOWN:
            typer.echo(f"the first {_MOST_SHOWN}; --output FILE has all")
    log.log(SUMMARY, "\n".join(_summary(found)))
    return 3 if found.failed else 0


def _row(finding: Finding) -> dict[str, str]:
    agree = finding.suggested or finding.label
    votes = sum(neighbour.label == agree for neighbour in finding.neighbours)
    quality = finding.quality
    return {
        "Image": printable(finding.path),
        "Issue": " ".join(finding.issues),
        "Quality": "-" if quality is None else f"{quality:.3f}",
        "Suggested": printable(finding.suggested or "-"),
        "Neighbours": f"{votes} of {len(finding.neighbours)} {printable(agree)}",
        "Same pixels": printable(finding.twin or "-"),
    }


def _summary(found: Audit) -> list[str]:
    words = {
        "label": "probably of another class",
        "conflict": "with the same pixels in another class",
        "outlier": "unlike all others",
        "leak": "with the same pixels in another split",
    }
    lines = [f"{counted(len(found.findings), 'image')}: {len(found.suspicious):,} to look at"]
    for issue, text in words.items():
        if count := found.count(issue):
            lines.append(f"  {count:,} {text}")
    if skipped := sum(finding.note is not None for finding in found.findings):
        lines.append(f"  {skipped:,} not judged: their classes have too few images")
    if seen := sum(finding.verdict is not None for finding in found.findings):
        lines.append(f"  {seen:,} reviewed before")
    if found.failed:
        lines.append(f"  {found.failed:,} cannot be read: their rows say why")
    return [*lines, found.describe]
