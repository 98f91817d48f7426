"""`resnest report`: results as a page to look through."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from resnest_cli.cli import options
from resnest_cli.cli.progress import chosen_progress
from resnest_cli.errors import UsageError
from resnest_cli.progress import SUMMARY, set_verbosity
from resnest_cli.text import counted, printable

log = logging.getLogger(__name__)


def report(
    results: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS",
            help="What predict wrote: .jsonl, .json, .csv, .tsv, .parquet, or a folder of "
            "partitions.",
        ),
    ],
    output: Annotated[
        Path, options.option("--output -o FILE", options.OUTPUT, "Write the page to FILE.")
    ] = Path("report.html"),
    data: Annotated[
        Path | None,
        options.option(
            "--data DIR",
            options.INPUT,
            "The images' true classes: a folder with a folder for each class, or with "
            "--ground-truth any folder of the images.",
        ),
    ] = None,
    ground_truth: Annotated[
        Path | None,
        options.option(
            "--ground-truth FILE",
            options.INPUT,
            "List with a path below --data and its class in each line, as for evaluate.",
        ),
    ] = None,
    explain: Annotated[
        Path | None,
        options.option(
            "--explain DIR", options.INPUT, "What explain wrote for the images: show its maps."
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Write a page to look through results.

    The page is one file, opens from disk and loads nothing from the network. It shows a thumbnail
    of each image, failures with their reason, filters, a histogram, and what gave the results;
    with true classes the confusion too, and with maps these. Thumbnails beyond 20,000 images are
    in a folder beside the page.
    Exit codes: 0 all done, 1 nothing was written, 2 wrong command line.

    Examples:

      resnest report results.jsonl

      resnest report results.csv -o review.html --overwrite

      resnest report results.csv -o checked.html --data photos/ --explain why/
    """
    if ground_truth and not data:
        raise UsageError("`ground_truth` needs the folder of the images: `data=DIR`")
    set_verbosity(quiet=quiet, verbose=verbose)
    from resnest_cli.datasets.labelled_folder import LabelledFolder
    from resnest_cli.report.page_of_results import report as written

    progress = chosen_progress("", quiet=quiet)
    truth = LabelledFolder(data, ground_truth) if data else None
    summary = written(
        results, output, truth=truth, explain=explain, overwrite=overwrite, progress=progress
    )
    text = f"{counted(summary.images, 'image')} in '{printable(str(output))}'"
    if summary.failed:
        text += f"; {summary.failed:,} failed"
    if summary.without_thumbnail:
        text += f"; {summary.without_thumbnail:,} without thumbnail"
    if summary.side_files:
        text += f"; thumbnails also in '{printable(str(summary.side_files))}', which belongs to it"
    if summary.unfinished:
        text += "; the run is unfinished"
    log.log(SUMMARY, text)
    return 0
