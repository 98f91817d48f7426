"""Writes what is generated from the program: the command reference and the tables of models.

Run `python docs/generate.py` after a change of options or models; a test compares.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from resnest_cli.catalog.weights import model_infos
from resnest_cli.cli import app

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- models: begin -->", "<!-- models: end -->"

# how the examples of a command are tested, see tests/docs/examples.py
TESTED = {
    "download": "offline; exit 3",
    "train": "slow; add train --epochs 1 -j 0; add resnest101 --model demo -o trained/frozen; "
    "add resnest26 -o trained/small; add torchrun -b 8 -o trained/parallel",
    "evaluate": "slow; swap resnest101 => resnest50",
    "export": "slow; swap export resnest50 -o resnest50.onnx => export demo -o demo.xml",
    "bench": "slow; add bench --seconds 0.1 --engine torch; swap --all => demo; "
    "swap resnest50 resnest101 --precision fp32 --precision bf16 -b 1 -b 16 => demo; "
    "exit 1 for --device cuda",
    "audit": "slow; add audit --folds 3",
    "serve": "skip, it runs until it is stopped",
    "cache": "swap resnest50 inductor => resnest50",
}

# the models of the README, and for whom each is
CHOICES = {
    "resnest14": "a CPU in a hurry, fine-tuning on a CPU",
    "resnest50": "**most uses; the default**",
    "resnest50_fast_4s2x40d": "a fifth less work, about the same accuracy",
    "resnest101": "more accuracy",
    "resnest269": "the most accuracy, on a GPU",
    "demo": "trying it: bundled, ten everyday classes",
}


def pages() -> dict[Path, str]:
    """Every generated file and its text."""
    readme, choose = ROOT / "README.md", ROOT / "docs/getting-started/choose-a-model.md"
    return {
        ROOT / "docs/reference/cli.md": command_reference(),
        readme: _with_table(readme, short_table()),
        choose: _with_table(choose, full_table()),
    }


def command_reference() -> str:
    """The command reference as Markdown."""
    parts = [
        "# Command line\n",
        "Generated from the program by `python docs/generate.py`; `--help` shows the same.\n",
    ]
    for name in app.COMMANDS:
        command = app.command(name)
        words, examples = _split(inspect.getdoc(command) or "")
        parameters = [p for p in _parameters(command) if not p.info.hidden]
        parts += [f"## resnest {name}\n", f"{words}\n"]
        parts += [f"`{p.info.metavar or p.title}`: {_help(p)}\n" for p in parameters if not p.names]
        if any(p.names for p in parameters):
            parts.append("| option | meaning | range | default |\n|---|---|---|---|")
            parts += [_row(p) for p in parameters if p.names]
            parts.append("")
        parts += ["Examples:\n", *_how_tested(name), "```sh", *examples, "```", ""]
    return "\n".join(parts)


def _how_tested(command: str) -> list[str]:
    return [f"<!-- example: {TESTED[command]} -->"] if command in TESTED else []


def full_table() -> str:
    """Every model, with its cost, its input and its published accuracy."""
    heads = "model", "timm", "parameters", "GMACs", "crop", "resize", "top-1", "top-5"
    rows = [
        (
            f"`{m.name}`",
            f"`{m.alias}`" if m.alias else "-",
            f"{m.params / 1e6:.1f} M",
            f"{m.gmacs:.2f}",
            str(m.crop),
            f"{m.resize} {m.interpolation}",
            f"{m.top1:.2f}" if m.top1 else "-",
            f"{m.top5:.2f}" if m.top5 else "-",
        )
        for m in model_infos()
    ]
    return _table(heads, "---|---|--:|--:|--:|---|--:|--:", rows)


def short_table() -> str:
    """The models to choose from at first."""
    heads = "model", "take it for", "GMACs", "file", "top-1"
    rows = [
        (
            f"`{m.name}`",
            CHOICES[m.name],
            f"{m.gmacs:.1f}" if m.gmacs > 1 else f"{m.gmacs:.2f}",
            f"{(m.bytes or 0) / 1e6:.0f} MB",
            f"{m.top1:.1f}" if m.top1 else "-",
        )
        for m in model_infos()
        if m.name in CHOICES
    ]
    return _table(heads, "---|---|--:|--:|--:", rows)


def _table(heads: tuple[str, ...], rule: str, rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(
        [f"| {' | '.join(heads)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows)]
    )


def _with_table(page: Path, table: str) -> str:
    """A page with its table of models brought up to date."""
    head, rest = page.read_text(encoding="utf-8").split(BEGIN)
    return f"{head}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


class Parameter(NamedTuple):
    """One parameter of a command."""

    title: str  # of an argument
    names: list[str]  # of an option; an argument has none
    info: Any  # Typer's OptionInfo or ArgumentInfo
    kind: Any
    default: Any


def _parameters(command: Callable[..., Any]) -> Iterator[Parameter]:
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        annotated = next(
            h for h in (hints[name], *get_args(hints[name])) if get_origin(h) is Annotated
        )
        kind, info = get_args(annotated)
        # Typer keeps the first name where a default would stand
        given = [str(n) for n in (info.default, *(info.param_decls or ()))]
        names = [n for n in given if n.startswith("-")] or [f"--{name.replace('_', '-')}"]
        argument = type(info).__name__ == "ArgumentInfo"
        yield Parameter(name.upper(), [] if argument else names, info, kind, parameter.default)


def _row(p: Parameter) -> str:
    names = ", ".join(f"`{name}`" for name in sorted(p.names, key=len))
    choices = [
        c for k in (p.kind, *get_args(p.kind)) if get_origin(k) is Literal for c in get_args(k)
    ]
    if choices:
        span = ", ".join(choices)
    elif p.info.min is not None:
        span = (
            f"{p.info.min:g} and up" if p.info.max is None else f"{p.info.min:g} to {p.info.max:g}"
        )
    else:
        span = p.info.metavar or ""
    default = "" if p.default is None or p.default is False else str(p.default)
    return f"| {names} | {_help(p)} | {span} | {default} |"


def _split(text: str) -> tuple[str, list[str]]:
    words, _, examples = text.partition("\n\nExample")
    lines = [line.strip() for line in examples.splitlines()[1:]]
    return words, [line for line in lines if line]


def _help(p: Parameter) -> str:
    text = re.sub(r"\\([\[*])", r"\1", str(p.info.help))  # without Rich's escapes
    return re.sub(r"([*|])", r"\\\1", text)  # with Markdown's


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
