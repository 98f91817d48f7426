"""The examples of a Markdown page: its code blocks, and what is expected of each.

Every command of a `sh` block is run as it stands, and must end with exit code 0. An HTML comment
before the block, invisible to readers, states what differs; several parts are separated by `;`.

    <!-- example: exit 3 -->                 another exit code, of each command
    <!-- example: exit 1 for --device -->    another exit code, of commands that hold a text
    <!-- example: add train --epochs 1 -->   words added to commands that hold a text, to save time
    <!-- example: swap --all => demo -->     one text instead of another, to save time
    <!-- example: offline -->                the network is switched off
    <!-- example: default model -->          the model is the program's default, not `demo`
    <!-- example: file recipe.yaml -->       the block is not run, but written to that file
    <!-- example: quote FILE -->             the block is not run, but must be part of that file
    <!-- example: slow -->                   the block is run by `pytest -m slow` only
    <!-- example: skip, REASON -->           the block is not run

A `text` block right after a `sh` block is what it prints on standard output; `...` in it stands for
any text.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S
)
_DIRECTIVE = re.compile(r"<!-- example: (.*?) -->\s*\Z", re.S)


@dataclass
class Block:
    """One code block of a page."""

    line: int
    language: str
    text: str
    options: list[tuple[str, str]]  # what the comment before it states: a word, and the rest
    output: str | None = None  # what it prints

    def option(self, name: str) -> str | None:
        """What is stated by a word; None if it does not occur."""
        return next((value for word, value in self.options if word == name), None)

    @property
    def is_run(self) -> bool:
        return self.language in ("sh", "python") and not any(
            word in ("file", "quote", "skip") for word, _ in self.options
        )

    def commands(self) -> Iterator[str]:
        """The commands of a `sh` block, lines that end in a backslash joined to the next."""
        for line in re.sub(r"\\\n *", "", self.text).splitlines():
            if line.strip() and not line.startswith("#"):
                yield line.partition("  #")[0]

    def adapted(self, command: str) -> str:
        """A command with what is added and swapped."""
        for word, value in self.options:
            if word == "swap":
                old, new = value.split(" => ")
                command = command.replace(old, new)
            elif word == "add":
                text, _, addition = value.partition(" ")
                command += f" {addition}" if text in command.split() else ""
        return command

    def exit_code(self, command: str) -> int:
        """The exit code that a command must have."""
        for word, value in self.options:
            code, _, text = value.partition(" for ")
            if word == "exit" and text in command:
                return int(code.split(",")[0])
        return 0


def read_blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    blocks: list[Block] = []
    end = 0
    for found in _FENCE.finditer(text):
        between = text[end : found.start()]
        line = text[: found.start()].count("\n") + 1
        content = textwrap.dedent(found["text"])
        follows = found["language"] == "text" and not between.strip() and blocks
        if follows and blocks[-1].language == "sh":
            blocks[-1].output = content
        else:
            blocks.append(Block(line, found["language"], content, _options(between)))
        end = found.end()
    return blocks


def _options(between: str) -> list[tuple[str, str]]:
    directive = _DIRECTIVE.search(between)
    parts = directive[1].split(";") if directive else []
    pairs = (part.strip().partition(" ") for part in parts)
    return [(word.rstrip(","), value) for word, _, value in pairs]


def prints(expected: str, actual: str) -> bool:
    """Whether output is as documented; `...` in the documented one stands for any text."""
    parts = [re.escape(_tidy(part)) for part in _tidy(expected).split("...")]
    return re.fullmatch(".*?".join(parts), _tidy(actual), re.S) is not None


def _tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())
