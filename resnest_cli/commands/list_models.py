"""`resnest list-models`: what there is."""

from __future__ import annotations

import csv
import io
import json
import sys
from typing import Annotated, Any, Literal

import typer

from resnest_cli.checkpoints import find
from resnest_cli.errors import UsageError
from resnest_cli.variants import Variant, match_variants

COLUMNS = {  # of the table: heading, key
    "model": "name",
    "timm": "alias",
    "params": "params",
    "GMACs": "gmacs",
    "crop": "crop",
    "resize": "resize",
    "interpolation": "interpolation",
    "top-1": "top1",
    "top-5": "top5",
    "file": "bytes",
    "on disk": "cached",
}


def list_models(
    pattern: Annotated[
        str, typer.Argument(help="Part of a name, or a pattern such as '*fast*'.")
    ] = "*",
    fmt: Annotated[
        Literal["table", "json", "csv"], typer.Option("--format", "-f", help="How to write it.")
    ] = "table",
) -> None:
    """List the variants: size, cost, how they see pictures, published accuracy.

    GMACs are for one picture of the crop size. top-1 and top-5 are per cent on ImageNet-1k's
    validation set, as published for the preprocessing shown.

    Examples:

      resnest list-models

      resnest list-models 'resnest50*' -f json
    """
    rows = [row(variant) for variant in match_variants(pattern)]
    if not rows:
        raise UsageError(f"no model fits '{pattern}'; 'resnest list-models' shows all")
    if fmt == "json":
        typer.echo(json.dumps(rows, indent=2))
    elif fmt == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        typer.echo(text.getvalue(), nl=False)
    elif sys.stdout.isatty():
        _print_table(rows)
    else:
        _print_plain(rows)


def row(variant: Variant) -> dict[str, Any]:
    """A variant as plain values; sizes in bytes, accuracy in per cent, None where unknown."""
    return {
        "name": variant.name,
        "alias": variant.alias,
        "params": variant.params,
        "gmacs": variant.gmacs,
        "crop": variant.preprocessing.crop,
        "resize": variant.preprocessing.resize,
        "interpolation": variant.preprocessing.interpolation,
        "top1": variant.top1,
        "top5": variant.accuracy.top5,
        "bytes": variant.size,
        "cached": find(variant) is not None,
    }


def cells(row: dict[str, Any]) -> list[str]:
    """A row for people, in the order of `COLUMNS`."""
    # where nobody published a file's size, its parameters are nearly all of it
    size = f"{row['bytes'] / 1e6:.0f} MB" if row["bytes"] else f"~{row['params'] * 4e-6:.0f} MB"
    shown = row | {
        "alias": row["alias"] or "-",
        "params": f"{row['params'] / 1e6:.1f} M",
        "gmacs": f"{row['gmacs']:.2f}",
        "top1": f"{row['top1']:.2f}" if row["top1"] else "-",
        "top5": f"{row['top5']:.2f}" if row["top5"] else "-",
        "bytes": size,
        "cached": "yes" if row["cached"] else "no",
    }
    return [str(shown[key]) for key in COLUMNS.values()]


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in COLUMNS:
        left = heading in ("model", "timm", "interpolation", "on disk")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for values in rows:
        table.add_row(*cells(values), style=None if values["cached"] else "dim")
    Console().print(table)


def _print_plain(rows: list[dict[str, Any]]) -> None:
    lines = [list(COLUMNS), *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(padded).rstrip())
