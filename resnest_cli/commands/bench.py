"""`resnest bench`: how fast the variants are on this machine."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from resnest_cli import charts
from resnest_cli.bundled import DEMO
from resnest_cli.commands import options
from resnest_cli.engines.base import ENGINES, PRECISIONS
from resnest_cli.errors import OutputError, UsageError
from resnest_cli.files import into_place
from resnest_cli.terminal import set_verbosity
from resnest_cli.variants import match_variants

if TYPE_CHECKING:
    from resnest_cli.bench import Measured

log = logging.getLogger(__name__)

_COLUMNS = (
    "model", "engine", "precision", "batch", "ms", "p95", "pictures/s", "x eager", "% of limit",
    "top-1",
)  # fmt: skip
_LEFT = 3  # columns of words


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help=r"Variants, by name or pattern such as '\*fast\*', or demo. "
            r"\[default: $RESNEST_MODEL, else resnest50]",
            show_default=False,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All variants.")] = False,
    weights: options.Weights = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=r"torch, openvino or ncnn; may be given again. \[default: those that there are]",
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help=r"fp32, bf16 or fp16; may be given again. \[default: fp32]"
        ),
    ] = None,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(
            "--batch-size",
            "-b",
            metavar="N",
            min=1,
            max=4096,
            help=r"Pictures per step; may be given again. \[default: 1]",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(metavar="S", min=0.1, max=3600, help="Time for each figure.")
    ] = 3.0,
    device: options.Device = "auto",
    compiled: options.Compile = False,
    fmt: Annotated[
        Literal["table", "json"], typer.Option("--format", "-f", help="How to write it.")
    ] = "table",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write JSON to a file besides."),
    ] = None,
    chart: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw accuracy against speed as a PNG (extra train: matplotlib)."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that exist.")
    ] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Time networks on this machine.

    Latency is from stored pixels to logits, for a batch; plain eager PyTorch is timed in the same
    run, in turn with the engines. The limit is that of a large matrix product, measured here. A
    variant whose checkpoint is not on disk is timed with random weights, which is as fast.

    Examples:

      resnest bench

      resnest bench --all --chart variants.png

      resnest bench resnest50 resnest101 --precision fp32 --precision bf16 -b 1 -b 16 -f json

      resnest bench resnest50 --device cuda --precision fp16 -b 64 --compile
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    chosen = _models(models or [], every=every, weights=weights)
    _check(engine or (), ENGINES[1:])
    _check(precision or (), PRECISIONS)
    _check_targets(output, chart, overwrite=overwrite)
    from resnest_cli import bench as timing
    from resnest_cli.engines.torch_engine import resolve_device

    place = resolve_device(device)
    settings = timing.Settings(
        chosen,
        weights,
        engine or timing.engines_here(place),
        device,
        precision or ["fp32"],
        batch_size or [1],
        seconds,
        compiled,
    )
    limits = {p: timing.machine_limit(place, p) for p in settings.precisions}
    rows: list[Measured] = []
    if fmt == "table":
        _print(_COLUMNS)
    try:
        for row in timing.measure(settings, limits):
            rows.append(row)
            if fmt == "table":
                _print(_cells(row))
    finally:  # what is measured is kept
        if rows:
            about = timing.machine(place) | {"limit_flops": limits}
            _leave(rows, about, output, chart, fmt)
    return 0


def _leave(
    rows: Sequence[Measured],
    about: Mapping[str, object],
    output: Path | None,
    chart: Path | None,
    fmt: str,
) -> None:
    text = json.dumps({"machine": about, "rows": [asdict(row) for row in rows]}, indent=2)
    typer.echo(text if fmt == "json" else _foot(about))
    if output:
        with into_place(output) as path:
            path.write_text(text + "\n", encoding="utf-8")
    if chart:
        _draw(chart, rows)


def _check_targets(output: Path | None, chart: Path | None, *, overwrite: bool) -> None:
    if chart:
        charts.require_extra("matplotlib")
        if chart.suffix != ".png":
            raise UsageError(f"the chart '{chart}' should end in .png")
    for path in (output, chart):
        if path and path.exists() and not overwrite:
            raise OutputError(f"'{path}' exists already; replace it with --overwrite")
        if path and not path.absolute().parent.is_dir():
            raise OutputError(f"there is no folder '{path.parent}'; make it first")


def _check(given: Sequence[str], known: Sequence[str]) -> None:
    for value in given:
        if value not in known:
            raise UsageError(f"'{value}' is none of {', '.join(known)}")


def _models(given: Sequence[str], *, every: bool, weights: Path | None) -> list[str]:
    if sum((bool(given), every, weights is not None)) > 1:
        raise UsageError("give models, --all or --weights, one of them")
    if every:
        return [variant.name for variant in match_variants()]
    chosen: list[str] = []
    for name in given or [os.environ.get("RESNEST_MODEL") or "resnest50"]:
        whole = [v.name for v in match_variants(f"{name}*") if name in (v.name, v.alias)]
        fitting = whole or [variant.name for variant in match_variants(name)]
        if name == DEMO:
            fitting = [DEMO]
        if not fitting:
            raise UsageError(f"no model fits '{name}'; 'resnest list-models' shows all")
        chosen += [model for model in fitting if model not in chosen]
    return chosen


def _cells(row: Measured) -> tuple[str, ...]:
    return (
        row.model,
        row.engine if row.device == "cpu" else f"{row.engine} {row.device}",
        row.precision,
        f"{row.batch_size}",
        f"{row.latency_ms:.1f}",
        f"{row.p95_ms:.1f}",
        f"{row.pictures_per_second:,.1f}",
        "-" if row.times_eager is None else f"{row.times_eager:.2f}",
        "-" if row.of_limit is None else f"{100 * row.of_limit:.0f}",
        "-" if row.top1 is None else f"{row.top1:.2f}",
    )


def _print(cells: Sequence[str]) -> None:
    widths = (24, 14, 9, 5, 8, 8, 10, 7, 10, 6)
    padded = (
        cell.ljust(width) if number < _LEFT else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    typer.echo("  ".join(padded).rstrip())


def _foot(about: Mapping[str, object]) -> str:
    limits = about["limit_flops"]
    assert isinstance(limits, dict)
    measured = ", ".join(f"{p} {flops / 1e9:,.0f} GFLOP/s" for p, flops in limits.items())
    threads = f"{about['threads']} threads, torch {about['torch']}"
    return f"\n{about['processor']}, {threads}; limit of a matrix product: {measured}"


def _draw(path: Path, rows: Sequence[Measured]) -> None:
    """Each variant once, at the fastest it ran."""
    best: dict[str, tuple[float, float]] = {}
    for row in rows:
        if row.top1 and row.pictures_per_second > best.get(row.model, (0.0, 0.0))[0]:
            best[row.model] = (row.pictures_per_second, row.top1)
    if best:
        charts.draw_tradeoff(path, best)
    else:
        log.warning("nothing is drawn: no accuracy of these networks is published")
