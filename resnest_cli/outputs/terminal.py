"""Results for people: blocks with bars at a terminal, plain ones in pipes and files."""

from __future__ import annotations

from typing import IO

from resnest_cli.results import Prediction, Result
from resnest_cli.text import printable

_BAR_WIDTH = 24  # columns of a bar that stands for a probability of 1
_EIGHTHS = " ▏▎▍▌▋▊▉"
_NOTHING_LEFT = "no class reached the threshold"


class TerminalWriter:
    """A block per image: its path, then a bar, a percentage and a name for each prediction."""

    def __init__(self, *, foot: str) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, soft_wrap=True)
        self._foot = foot

    def write(self, result: Result) -> None:
        """Print one result."""
        from rich.text import Text

        block = Text(printable(result.path), style="bold")
        for p in result.predictions:
            lead = p.rank == 1
            block.append(f"\n  {p.probability:>7.2%} ", style="bold" if lead else "not bold")
            block.append(self._bar(p.probability), style="green" if lead else "not bold cyan")
            block.append(f" {title(p)}", style="bold" if lead else "not bold")
        if result.error:
            block.append(f"\n  {printable(result.error)}", style="not bold red")
        elif not result.predictions:
            block.append(f"\n  {_NOTHING_LEFT}", style="not bold dim")
        self._console.print(block)

    def close(self) -> None:
        """Print what gave the results."""
        self._console.print(f"\n{self._foot}", style="dim")

    def _bar(self, probability: float) -> str:
        whole, eighths = divmod(round(probability * _BAR_WIDTH * 8), 8)
        bar = "█" * whole + (_EIGHTHS[eighths] if eighths else "")
        if not self._console.encoding.lower().startswith("utf"):
            bar = "#" * round(probability * _BAR_WIDTH)
        return bar.ljust(_BAR_WIDTH)


class TextWriter:
    """The same as plain text, for pipes and files."""

    def __init__(self, stream: IO[bytes], *, foot: str) -> None:
        self._stream = stream
        self._foot = foot

    def write(self, result: Result) -> None:
        """Append a block of lines."""
        lines = [printable(result.path)]
        lines += [f"  {p.rank:>3}  {p.probability:>8.2%}  {title(p)}" for p in result.predictions]
        if result.error:
            lines.append(f"  error: {printable(result.error)}")
        elif not result.predictions:
            lines.append(f"  {_NOTHING_LEFT}")
        self._put("\n".join(lines))

    def close(self) -> None:
        """Append what gave the results."""
        self._put(f"\n{self._foot}")

    def _put(self, text: str) -> None:
        self._stream.write(f"{text}\n".encode("utf-8", "backslashreplace"))
        self._stream.flush()


def title(prediction: Prediction) -> str:
    """A class's name for people, with its WordNet id if it has one."""
    name = printable(prediction.label)
    return f"{name} ({prediction.wnid})" if prediction.wnid else name
