"""`resnest download`: checkpoints ahead of use."""

from __future__ import annotations

from typing import Annotated

import typer

from resnest_cli import checkpoints
from resnest_cli.bundled import DEMO, demo_checkpoint
from resnest_cli.commands.options import complete_model
from resnest_cli.errors import CheckpointError, UsageError
from resnest_cli.terminal import DownloadBar, stderr_is_terminal
from resnest_cli.variants import VARIANTS, get_variant

_ALL_GB = sum(v.size or v.params * 4 for v in VARIANTS) / 1e9


def download(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...",
            help="Variants, by name or timm's name.",
            autocompletion=complete_model,
            show_default=False,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help=f"All variants, {_ALL_GB:.1f} GB.")] = False,
) -> int:
    """Fetch and verify checkpoints, so that predict needs no network.

    Files that are there and were verified are left alone. They go to $RESNEST_HOME/checkpoints,
    by default the user's cache folder; 'resnest doctor' names it. $RESNEST_MIRROR is tried first.

    Examples:

      resnest download resnest50 resnest101

      RESNEST_MIRROR=https://files.example.org/resnest resnest download --all
    """
    if bool(names) == every:
        raise UsageError("name the variants to download, or give --all")
    wanted = [name for name in names or () if name != DEMO]
    if DEMO in (names or ()):
        typer.echo(f"{DEMO}: {demo_checkpoint()} (it came with the package)")
    variants = VARIANTS if every else [get_variant(name) for name in wanted]
    failed = 0
    for variant in variants:
        try:
            with DownloadBar(variant.name) as bar:
                path = checkpoints.obtain(
                    variant, on_progress=bar if stderr_is_terminal() else None
                )
        except CheckpointError as error:
            if len(variants) == 1:
                raise
            typer.echo(f"error: {error}", err=True)
            failed += 1
        else:
            typer.echo(f"{variant.name}: {path}")
    return 0 if not failed else 1 if failed == len(variants) else 3
