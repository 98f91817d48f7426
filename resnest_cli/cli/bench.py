"""`resnest bench`: how fast models are on this machine."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnest_cli import settings
from resnest_cli.catalog.variants import BY_NAME, VARIANTS, list_models
from resnest_cli.catalog.weights import default_model
from resnest_cli.cli import options
from resnest_cli.cli.options import MACHINE, OUTPUT, option
from resnest_cli.cli.tables import print_table
from resnest_cli.engines.api import MAX_BATCH_SIZE
from resnest_cli.errors import UsageError, require_extra
from resnest_cli.files import atomic_write, check_new, check_no_input
from resnest_cli.progress import SUMMARY, set_verbosity

if TYPE_CHECKING:
    from resnest_cli.inference.benchmark import Measurement

log = logging.getLogger(__name__)


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help=r"Models, by name or pattern such as '\*fast\*'. "
            r"\[default: $RESNEST_MODEL, else resnest50]",
            show_default=False,
        ),
    ] = None,
    every: Annotated[bool, option("--all", None, "All variants.")] = False,
    weights: options.Weights = None,
    engine: Annotated[
        list[str] | None,
        option("--engine NAME", MACHINE, "torch or openvino; repeatable. [default: all installed]"),
    ] = None,
    precision: Annotated[
        list[str] | None,
        option("--precision NAME", MACHINE, "fp32, bf16 or fp16; repeatable. [default: fp32]"),
    ] = None,
    batch_size: Annotated[
        list[int] | None,
        option(
            "--batch-size -b N",
            MACHINE,
            "Images per step; repeatable. [default: 1]",
            (1, MAX_BATCH_SIZE),
        ),
    ] = None,
    seconds: Annotated[
        float, option("--seconds S", None, "Time for each figure.", (0.1, 3600))
    ] = 3.0,
    device: options.Device = "auto",
    compiled: options.Compile = False,
    fmt: options.TableFormat = "table",
    as_json: options.Json = False,
    output: Annotated[
        Path | None, option("--output -o FILE", OUTPUT, "Also write JSON to FILE, a .json.")
    ] = None,
    chart: Annotated[
        Path | None,
        option(
            "--chart FILE",
            OUTPUT,
            "Draw accuracy against speed as a .png (pip install 'resnest-cli[train]').",
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure how fast models are on this machine.

    Latency is from stored pixels to logits, for a batch; plain eager PyTorch is timed in the same
    run, in turn with the engines. The limit is that of a large matrix product, measured here. A
    variant whose checkpoint is not on disk is timed with random weights, which are as fast.

    Examples:

      resnest bench

      resnest bench --all --chart variants.png

      resnest bench resnest50 resnest101 --precision fp32 --precision bf16 -b 1 -b 16 -f json

      resnest bench resnest50 --device cuda --precision fp16 -b 64 --compile
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    fmt = options.chosen_format(fmt, as_json)
    chosen = _models(models or [], every=every, weights=weights)
    _check_targets(output, chart, overwrite=overwrite)
    check_no_input(filter(None, (output, chart)), [weights])
    from resnest_cli.inference import benchmark as timing

    precisions = precision or ["fp32"]
    about = timing.machine(device, precisions)
    rows: list[Measurement] = []
    try:
        for row in timing.benchmark(
            chosen, weights=weights, engines=engine or (), device=device, precisions=precisions,
            batch_sizes=batch_size or [1], seconds=seconds, torch_compile=compiled,
            limits=about["limit_flops"],
        ):  # fmt: skip
            rows.append(row)
            log.log(SUMMARY, "%s, %s: %.1f images/s", row.model, row.engine, row.images_per_second)
    finally:  # what is measured is kept
        if rows:
            _write(rows, about, fmt, output, chart)


def _models(given: Sequence[str], *, every: bool, weights: Path | None) -> list[str]:
    if sum((bool(given), every, weights is not None)) > 1:
        raise UsageError("give models, --all or --weights, one of them")
    if every:
        return [variant.name for variant in VARIANTS]
    chosen: list[str] = []
    for name in given or [default_model() or settings.DEFAULT_MODEL]:
        found = [BY_NAME[name].name] if name in BY_NAME else list_models(name)
        if not found:
            raise UsageError(f"no model fits '{name}'; 'resnest list-models' shows all")
        chosen += found
    return list(dict.fromkeys(chosen))


def _check_targets(output: Path | None, chart: Path | None, *, overwrite: bool) -> None:
    for name, path, suffix in (("output", output, ".json"), ("chart", chart, ".png")):
        if path and path.suffix.lower() != suffix:
            raise UsageError(f"`{name}` must end in {suffix}, not '{path}'")
        if path:
            check_new(path, overwrite=overwrite)
    if chart:
        require_extra("train", "matplotlib")


def _write(
    rows: Sequence[Measurement],
    about: Mapping[str, Any],
    fmt: str,
    output: Path | None,
    chart: Path | None,
) -> None:
    text = json.dumps({"machine": about, "rows": [asdict(row) for row in rows]}, indent=2)
    if fmt == "json":
        typer.echo(text)
    else:
        print_table([_cells(row) for row in rows], left=("model", "engine", "precision"))
        typer.echo(_foot(about))
    if output:
        with atomic_write(output) as path:
            path.write_text(text + "\n", encoding="utf-8")
    if chart:
        _draw(chart, rows)


def _cells(row: Measurement) -> dict[str, str]:
    return {
        "model": row.model,
        "engine": row.engine if row.device == "cpu" else f"{row.engine} {row.device}",
        "precision": row.precision,
        "batch": f"{row.batch_size}",
        "ms": f"{row.latency_ms:.1f}",
        "p95": f"{row.p95_ms:.1f}",
        "images/s": f"{row.images_per_second:,.1f}",
        "x eager": "-" if row.times_eager is None else f"{row.times_eager:.2f}",
        "% of limit": "-" if row.of_limit is None else f"{100 * row.of_limit:.0f}",
        "top-1": "-" if row.top1 is None else f"{row.top1:.2f}",
    }


def _foot(about: Mapping[str, Any]) -> str:
    limits = (f"{p} {flops / 1e9:,.0f} GFLOP/s" for p, flops in about["limit_flops"].items())
    threads = f"{about['threads']} threads, torch {about['torch']}"
    return f"{about['processor']}, {threads}; limit of a matrix product: {', '.join(limits)}"


def _draw(path: Path, rows: Sequence[Measurement]) -> None:
    """Draw each variant once, at the fastest it ran."""
    from resnest_cli.outputs import charts

    best: dict[str, tuple[float, float]] = {}
    for row in rows:
        if row.top1 and row.images_per_second > best.get(row.model, (0.0, 0.0))[0]:
            best[row.model] = (row.images_per_second, row.top1)
    if best:
        charts.draw_tradeoff(path, best)
    else:
        log.warning("no chart: the accuracy of these models is not published")
