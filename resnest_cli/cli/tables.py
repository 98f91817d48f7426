"""Tables on standard output."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence

Row = Mapping[str, str]  # cells by heading


def print_table(rows: Sequence[Row], *, left: Collection[str], bold: Collection[int] = ()) -> None:
    """Print rows, some of them bold; columns whose heading is not in `left` are aligned right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading in left else "right")
    for index, row in enumerate(rows):
        table.add_row(*row.values(), style="bold" if index in bold else "")
    width = None if sys.stdout.isatty() else table_width(rows)
    Console(width=width, markup=False, highlight=False).print(table)


def table_width(rows: Sequence[Row]) -> int:
    """The characters that `print_table` needs for a line."""
    columns = [[heading, *(row[heading] for row in rows)] for heading in rows[0]]
    return sum(max(map(len, column)) for column in columns) + 3 * len(columns)
