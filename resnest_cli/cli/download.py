"""`resnest download`: models made ready ahead of use."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from resnest_cli.catalog.demo import DEMO
from resnest_cli.catalog.variants import VARIANTS, get_variant, list_models
from resnest_cli.cli import options
from resnest_cli.cli.progress import chosen_progress
from resnest_cli.errors import CheckpointError, UsageError
from resnest_cli.progress import set_verbosity

log = logging.getLogger(__name__)

_ALL_GB = sum(v.size or v.params * 4 for v in VARIANTS) / 1e9


def download(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...",
            help="Model names or timm aliases (see list-models).",
            autocompletion=options.complete_model,
            show_default=False,
        ),
    ] = None,
    every: Annotated[bool, options.option("--all", None, f"All models, {_ALL_GB:.1f} GB.")] = False,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Download, verify and prepare models ahead of use.

    Checkpoints go to $RESNEST_HOME/checkpoints, by default in the user's cache folder; 'resnest
    doctor' shows where. $RESNEST_MIRROR is tried first. A verified file is not downloaded again.
    If OpenVINO runs models here, they are compiled for this CPU, too: the first prediction is then
    as fast as any.

    Examples:

      resnest download resnest50 resnest101

      RESNEST_MIRROR=https://files.example.org/resnest resnest download --all
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    if bool(names) == every:
        both = ", not both" if names else ""
        raise UsageError(f"name the models to download, or use `all`{both}")
    wanted = [name if name == DEMO else get_variant(name).name for name in names or list_models()]
    from resnest_cli.engines.select import download_model

    failed, advice = 0, ""
    for name in wanted:
        progress = chosen_progress(name, quiet=quiet)
        try:
            typer.echo(f"{name}: {download_model(name, offline=offline, progress=progress).path}")
        except CheckpointError as error:
            if len(wanted) == 1:
                raise
            reason, _, advice = str(error).partition("\n")
            log.error("error: %s", reason)
            failed += 1
    if advice:  # much the same for all
        log.error("%s", advice)
    return 0 if not failed else 1 if failed == len(wanted) else 3
