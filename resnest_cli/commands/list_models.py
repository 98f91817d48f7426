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
_DROPPED_FIRST = ("timm", "interpolation", "resize", "top-5", "file", "GMACs", "crop", "on disk")


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
    validation set, as published: by timm for the preprocessing shown, else by the authors for
    theirs.

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
        typer.secho(
            "demo: ten everyday classes, comes with the package, needs no download", dim=True
        )
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

    console = Console()
    columns = _fitting(rows, console.width)
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    for heading in columns:
        left = COLUMNS[heading] in ("name", "alias", "interpolation", "cached")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for row in rows:
        shown = dict(zip(COLUMNS, cells(row), strict=True))
        table.add_row(
            *(shown[heading] for heading in columns), style="bold" if row["cached"] else ""
        )
    console.print(table)
    if missing := [heading for heading in COLUMNS if heading not in columns]:
        console.print(f"a wider terminal also shows: {', '.join(missing)}", style="dim")


def _fitting(rows: list[dict[str, Any]], width: int) -> list[str]:
    """The headings of the columns that a terminal of a width has room for."""
    widths = {h: max(map(len, c)) for h, c in zip(COLUMNS, _by_column(rows), strict=True)}
    for heading in _DROPPED_FIRST:
        if sum(widths.values()) + 2 * len(widths) + 2 <= width:
            break
        del widths[heading]
    return list(widths)


def _by_column(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return list(zip(COLUMNS, *map(cells, rows), strict=True))


def _print_plain(rows: list[dict[str, Any]]) -> None:
    widths = [max(map(len, column)) for column in _by_column(rows)]
    lines = []
    for line in (list(COLUMNS), *map(cells, rows)):
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        lines.append("  ".join(padded).rstrip())
    typer.echo("\n".join(lines))
