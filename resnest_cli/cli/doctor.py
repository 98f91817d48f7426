"""`resnest doctor`: what is installed, what it can use, and whether it works."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from resnest_cli.cli import options
from resnest_cli.cli.options import option


def doctor(
    fmt: Annotated[
        Literal["table", "json"],
        option("--format -f", options.OUTPUT, "Output format; json is for bug reports."),
    ] = "table",
    as_json: options.Json = False,
) -> int:
    """Show versions, devices, engines and the cache, and classify an image.

    The exit code is 1 if the classification fails.

    Examples:

      resnest doctor

      resnest doctor --json > report.json
    """
    from resnest_cli.inference.diagnosis import diagnose

    as_json = options.chosen_format(fmt, as_json) == "json"
    report: dict[str, object] = {}
    works = False
    for title, facts in diagnose():
        report[title.lower().replace("-", "_")] = facts
        works = "works" in facts
        if not as_json:
            typer.secho(title, bold=True)
            for name, fact in facts.items():
                typer.echo(f"  {name:<12} {fact}")
    if as_json:
        typer.echo(json.dumps(report | {"works": works}, indent=2, ensure_ascii=False))
    return 0 if works else 1
