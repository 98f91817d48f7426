"""Writes what is generated from the program: docs/commands.md and README's table of models.

Run `python docs/generate.py` after a change of options or variants; a test compares.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from resnest_cli import cli
from resnest_cli.variants import VARIANTS

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- models: begin -->", "<!-- models: end -->"


def commands() -> str:
    """The command reference as Markdown."""
    parts = [
        "# Commands\n",
        "Generated from the program by `python docs/generate.py`; the same as `--help` says.\n",
    ]
    for name in cli.COMMANDS:
        command = cli.command(name)
        words, examples = _split(inspect.getdoc(command) or "")
        parameters = list(_parameters(command))
        parts += [f"## resnest {name}\n", f"{words}\n"]
        parts += [
            f"`{p.info.metavar or 'PATTERN'}`: {_words(p)}\n" for p in parameters if not p.names
        ]
        if any(p.names for p in parameters):
            parts.append("| option | meaning | range | default |\n|---|---|---|---|")
            parts += [_row(p) for p in parameters if p.names]
            parts.append("")
        parts += ["Examples:\n", *(f"    {example}" for example in examples), ""]
    return "\n".join(parts)


def models() -> str:
    """The table of models as Markdown."""
    heads = "model", "timm", "parameters", "GMACs", "crop", "resize", "top-1", "top-5"
    lines = [f"| {' | '.join(heads)} |", "|---|---|--:|--:|--:|---|--:|--:|"]
    for v in VARIANTS:
        p = v.preprocessing
        cells = (
            v.name,
            v.alias or "-",
            f"{v.params:,}",
            f"{v.gmacs:.2f}",
            str(p.crop),
            f"{p.resize} {p.interpolation}",
            f"{v.top1:.2f}",
            f"{v.accuracy.top5:.2f}" if v.accuracy.top5 else "-",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def readme(text: str) -> str:
    """A README with its table of models brought up to date."""
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{models()}\n{END}{rest.split(END)[1]}"


class Parameter(NamedTuple):
    """One parameter of a command."""

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
        yield Parameter([] if argument else names, info, kind, parameter.default)


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
    return f"| {names} | {_words(p)} | {span} | {default} |"


def _split(text: str) -> tuple[str, list[str]]:
    words, _, examples = text.partition("\n\nExample")
    lines = [line.strip() for line in examples.splitlines()[1:]]
    return words, [line for line in lines if line]


def _words(p: Parameter) -> str:
    return str(p.info.help).replace("\\[", "[").replace("|", "\\|")


if __name__ == "__main__":
    (ROOT / "docs" / "commands.md").write_text(commands(), encoding="utf-8")
    page = ROOT / "README.md"
    page.write_text(readme(page.read_text(encoding="utf-8")), encoding="utf-8")
