"""Draws the terminal for the documentation: runs a command in a real terminal, records what comes.

python docs/capture.py docs/assets/predict.svg resnest predict examples --model demo
"""

from __future__ import annotations

import io
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 88


def capture(command: list[str]) -> str:
    """What a command writes to a terminal, with its colours."""
    parent, child = pty.openpty()
    environment = os.environ | {
        "COLUMNS": str(COLUMNS),
        "TERM": "xterm-256color",
        "PYTHONUTF8": "1",
    }
    seen = b""
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environment):
        os.close(child)
        try:
            while chunk := os.read(parent, 4096):
                seen += chunk
        except OSError:  # how Linux says that the other end is closed
            os.close(parent)
    return seen.decode()


def draw(command: list[str], target: Path) -> None:
    """Run a command and draw its terminal as SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(f"\x1b[1m$ {shlex.join(command)}\x1b[0m"))
    console.print(Text.from_ansi(capture(command).replace("\r", "")))
    drawn = console.export_svg(title="resnest")
    # the reader's own monospaced font will do; nothing is fetched from elsewhere
    target.write_text(re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL))


if __name__ == "__main__":
    draw(sys.argv[2:], Path(sys.argv[1]))
