"""`resnest duplicates`: images that occur more than once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from resnest_cli import settings
from resnest_cli.cli import options
from resnest_cli.cli.progress import chosen_progress
from resnest_cli.engines.api import ModelSpec, RuntimeOptions
from resnest_cli.imaging.decode_options import MAX_PIXELS, DecodeOptions
from resnest_cli.inputs.discover import Inputs
from resnest_cli.progress import SUMMARY, set_verbosity
from resnest_cli.text import counted, printable

log = logging.getLogger(__name__)


def duplicates(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...",
            help="Folders (walked recursively), image files, quoted globs, http(s) URLs; any "
            "number, mixed.",
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
    distance: Annotated[
        float,
        options.option(
            "--distance D",
            options.RESULTS,
            "The greatest distance of two images of a group: 0 is equal, 1 is unlike.",
            (0, 1),
        ),
    ] = 0.2,
    verdicts: Annotated[
        Path | None,
        options.option(
            "--verdicts FILE",
            options.RESULTS,
            "A reviewed duplicates.csv, or a verdicts.csv, of another search; those in --output "
            "are always read.",
        ),
    ] = None,
    output: Annotated[
        Path,
        options.option(
            "--output -o DIR",
            options.OUTPUT,
            "Folder to write: duplicates.csv, duplicates.html, verdicts.csv.",
        ),
    ] = Path("duplicates"),
    overwrite: Annotated[
        bool,
        options.option(
            "--overwrite",
            options.OUTPUT,
            "Replace an earlier list and sheet in --output; its verdicts are kept.",
        ),
    ] = False,
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    precision: options.Precision = "fp32",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Find images that occur more than once, exactly or nearly.

    Near-duplicates are resized, recompressed, cropped, mirrored or slightly recoloured. Each pair
    of a group is compared by its pixels. No image is ever changed or deleted. Exit codes: 0 all
    done, 1 nothing was written, 2 wrong command line, 3 some images cannot be read.

    Examples:

      resnest duplicates photos/

      resnest duplicates photos/ more/ -o review/

      resnest duplicates photos/ -o review/ --overwrite
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    offline = offline or settings.offline()
    name = options.chosen_model(model, weights)
    wanted = Inputs(
        tuple(inputs or ()), files_from, tuple(include or ()), tuple(exclude or ()), limit, null
    )
    from resnest_cli.embed.duplicates import ROWS, DuplicatesJob

    job = DuplicatesJob(
        wanted, output, distance, verdicts,
        model=ModelSpec(name, weights, offline=offline),
        runtime=RuntimeOptions(
            device, engine, precision, batch_size=batch_size, workers=workers
        ),
        decode=DecodeOptions(
            not no_exif, options.colour(background), max_pixels,
            stretch=stretch, allow_private=allow_private, offline=offline,
        ),
        overwrite=overwrite,
    )  # fmt: skip
    found = job.run(chosen_progress(name or settings.DEFAULT_MODEL, quiet=quiet))
    text = f"{counted(found.images, 'image')}: {counted(len(found.groups), 'group')}, "
    text += f"{found.exact:,} exact and {found.near:,} near: see '{printable(str(output / ROWS))}'"
    if found.failed:
        text += f"; {len(found.failed):,} failed: their rows say why"
    if found.again:
        text += f"; left out: {counted(found.again, 'further path')} to the same files"
    if found.left_out:
        text += f"; {found.left_out}"
    log.log(SUMMARY, text)
    return 3 if found.failed else 0
