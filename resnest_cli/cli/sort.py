"""`resnest sort`: images into folders by class."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from resnest_cli.cli import options
from resnest_cli.cli.progress import chosen_progress
from resnest_cli.errors import UsageError
from resnest_cli.progress import SUMMARY, set_verbosity
from resnest_cli.text import counted, listed, printable

log = logging.getLogger(__name__)

_MOST_NAMED = 5


def sort(
    results: Annotated[
        Path | None,
        typer.Argument(
            metavar="RESULTS",
            help="What predict wrote: .jsonl, .json, .csv, .tsv, .parquet, or a folder of "
            "partitions. Not for --undo.",
        ),
    ] = None,
    to: Annotated[
        Path | None, options.option("--to DIR", options.OUTPUT, "The folder for the folders.")
    ] = None,
    link: Annotated[
        bool,
        options.option("--link", options.OUTPUT, "Make symbolic links to the images. [default]"),
    ] = False,
    copy: Annotated[
        bool, options.option("--copy", options.OUTPUT, "Copy the images instead.")
    ] = False,
    move: Annotated[
        bool, options.option("--move", options.OUTPUT, "Move the images instead.")
    ] = False,
    threshold: Annotated[
        float,
        options.option(
            "--threshold P",
            options.OUTPUT,
            "Put images whose best probability is under P into 'unsure', 0 to 1.",
            (0, 1),
        ),
    ] = 0.0,
    undo: Annotated[
        bool,
        options.option(
            "--undo", options.OUTPUT, "Put everything back that sort placed in --to DIR."
        ),
    ] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Sort images into folders by class.

    Images that failed go to 'failed'. No file is ever overwritten: a name that is taken gets a
    number. The same command continues a run that was interrupted. Exit codes: 0 all done, 1
    nothing could be done, 2 wrong command line, 3 some images were left where they are, 130
    interrupted.

    Examples:

      resnest sort results.jsonl --to sorted

      resnest sort results.csv --to copies --copy --threshold 0.8

      resnest sort --to sorted --undo
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    chosen = [name for name, on in (("link", link), ("copy", copy), ("move", move)) if on]
    if to is None:
        raise UsageError("name the folder: `to=DIR`")
    if len(chosen) > 1:
        raise UsageError(f"`{chosen[0]}` and `{chosen[1]}` cannot be used together")
    if undo and (chosen or results or threshold):
        raise UsageError("`undo` takes `to` only: what was done is in the folder's journal")
    if results is None and not undo:
        raise UsageError("name the results: a file that predict wrote")
    from resnest_cli.report import sort as library

    progress = chosen_progress("", quiet=quiet)
    if undo or results is None:
        summary, verb = library.undo(to, progress=progress), "put back"
    else:
        how = chosen[0] if chosen else "link"
        summary = library.sort(results, to, how=how, threshold=threshold, progress=progress)
        verb = "sorted"
    folders = len([name for name, count in summary.folders.items() if count])
    text = f"{counted(summary.images, 'image')} {verb}"
    if not undo:
        text += f" into {counted(folders, 'folder')} of '{printable(str(to))}'"
    if summary.earlier:
        text += f"; {summary.earlier:,} were sorted before"
    log.log(SUMMARY, text)
    if summary.kept:
        names = listed([path for path, _ in summary.kept], _MOST_NAMED)
        log.warning("%s left alone: %s", counted(len(summary.kept), "image"), names)
        for path, reason in summary.kept[: None if verbose else _MOST_NAMED]:
            log.warning("%s: %s", printable(path), printable(reason))
    return 3 if summary.kept else 0
