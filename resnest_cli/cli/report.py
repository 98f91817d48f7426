"""`resnest report`: results as a page to look through."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from resnest_cli.cli import options
from resnest_cli.cli.progress import chosen_progress
from resnest_cli.progress import SUMMARY, set_verbosity
from resnest_cli.text import counted, printable

log = logging.getLogger(__name__)


def report(
    results: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS", help="What predict wrote: .jsonl, .json, .csv, .tsv or .parquet."
        ),
    ],
    output: Annotated[
        Path, options.option("--output -o FILE", options.OUTPUT, "Write the page to FILE.")
    ] = Path("report.html"),
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Write a page to look through results.

    The page is one file, opens from disk and loads nothing from the network. It shows a thumbnail
    of each image, failures with their reason, filters, a histogram, and what gave the results.
    Exit codes: 0 all done, 1 nothing was written, 2 wrong command line.

    Examples:

      resnest report results.jsonl

      resnest report results.csv -o review.html --overwrite
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    from resnest_cli.report.page_of_results import report as written

    progress = chosen_progress("", quiet=quiet)
    summary = written(results, output, overwrite=overwrite, progress=progress)
    text = f"{counted(summary.images, 'image')} in '{printable(str(output))}'"
    if summary.failed:
        text += f"; {summary.failed:,} failed"
    if summary.without_thumbnail:
        text += f"; {summary.without_thumbnail:,} without thumbnail"
    if summary.unfinished:
        text += "; the run is unfinished"
    log.log(SUMMARY, text)
    return 0
