"""`resnest merge`: the partitions of a run to one file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from resnest_cli.cli import options
from resnest_cli.cli.progress import chosen_progress
from resnest_cli.files import CSVStyle
from resnest_cli.progress import SUMMARY, set_verbosity
from resnest_cli.text import counted

log = logging.getLogger(__name__)


def merge(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="What predict wrote with --output FOLDER/."),
    ],
    output: Annotated[
        Path | None,
        options.option(
            "--output -o FILE",
            options.OUTPUT,
            "Write all rows to FILE: .jsonl, .json, .csv, .tsv, .parquet or .txt. "
            "[default: standard output]",
        ),
    ] = None,
    fmt: options.Format = None,
    overwrite: options.Overwrite = False,
    csv_bom: options.CSVBom = False,
    csv_safe: options.CSVSafe = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Write the partitions of a run to one file, in the order of the inputs.

    Every partition is checked first: if one is missing, cut, doubled, changed or of another run,
    it is named, and nothing is written. Exit codes: 0 all done, 1 nothing was written, 2 wrong
    command line, 3 written, but some inputs had failed (each has its row).

    Examples:

      resnest merge out/ -o all.csv

      resnest merge out/ -o all.parquet --overwrite
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    from resnest_cli.cluster.merge import merge as merged

    target = None if output == Path("-") else output
    summary = merged(
        folder, target, fmt=fmt, overwrite=overwrite, csv=CSVStyle(csv_bom, csv_safe),
        progress=chosen_progress("", quiet=quiet),
    )  # fmt: skip
    text = f"{counted(summary.rows, 'row')} of {counted(summary.partitions, 'partition')}"
    if summary.failed:
        text += f"; {summary.failed:,} hold an error"
    if summary.passing:
        text += f", and {summary.passing:,} of them may succeed at another time"
    log.log(SUMMARY, text)
    return 3 if summary.failed else 0
