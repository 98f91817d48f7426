"""`resnest list-models`: the models, and what they cost and achieve."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Literal

import typer

from resnest_cli.catalog.weights import ModelInfo, model_infos
from resnest_cli.cli import options
from resnest_cli.cli.options import option
from resnest_cli.cli.tables import print_table, table_width
from resnest_cli.errors import UsageError

_LEFT = ("model", "timm", "interpolation", "on disk")
_ROOMY = ("timm", "resize", "interpolation", "top-5")  # left out where there is little space


def list_models(
    pattern: Annotated[
        str, typer.Argument(help="Part of a name, or a pattern such as '*fast*'.")
    ] = "*",
    fmt: Annotated[
        Literal["table", "json", "csv"], option("--format -f", options.OUTPUT, "Output format.")
    ] = "table",
    as_json: options.Json = False,
) -> None:
    """List the models: size, cost, input, published accuracy.

    GMACs are for one image at the crop size. top-1 and top-5 are per cent on ImageNet-1k's
    validation set, as published: by timm for the preprocessing shown, else by the authors for
    theirs. demo is the bundled model for ten everyday classes.

    Examples:

      resnest list-models

      resnest list-models 'resnest50*' -f json
    """
    fmt = options.chosen_format(fmt, as_json)
    infos = model_infos(pattern)
    if not infos:
        raise UsageError(f"no model fits '{pattern}'; 'resnest list-models' shows all")
    values = [asdict(info) for info in infos]
    if fmt == "json":
        typer.echo(json.dumps(values, indent=2))
    elif fmt == "csv":
        writer = csv.DictWriter(sys.stdout, values[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(values)
    else:
        _print_table(infos)


def _print_table(infos: Sequence[ModelInfo]) -> None:
    """Print the table, of which a narrow terminal shows the columns that matter most."""
    rows = [_cells(info) for info in infos]
    narrow = sys.stdout.isatty() and shutil.get_terminal_size().columns < table_width(rows)
    if narrow:
        rows = [{name: row[name] for name in row if name not in _ROOMY} for row in rows]
    print_table(rows, left=_LEFT, bold=[i for i, info in enumerate(infos) if info.cached])
    if narrow:
        typer.secho(f"a wider terminal also shows: {', '.join(_ROOMY)}", dim=True)


def _cells(info: ModelInfo) -> dict[str, str]:
    # where a file's size is not published, its parameters are nearly all of it
    size = f"{info.bytes / 1e6:.0f} MB" if info.bytes else f"~{info.params * 4e-6:.0f} MB"
    return {
        "model": info.name,
        "timm": info.alias or "-",
        "params": f"{info.params / 1e6:.1f} M",
        "GMACs": f"{info.gmacs:.2f}",
        "crop": f"{info.crop}",
        "resize": f"{info.resize}",
        "interpolation": info.interpolation,
        "top-1": f"{info.top1:.2f}" if info.top1 else "-",
        "top-5": f"{info.top5:.2f}" if info.top5 else "-",
        "file": size,
        "on disk": "yes" if info.cached else "no",
    }
