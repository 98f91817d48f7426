"""The `resnest` command: registers the commands, and is the one place where errors end."""

from __future__ import annotations

import difflib
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from resnest_cli import __version__
from resnest_cli.batch import WORKING
from resnest_cli.commands.bench import bench
from resnest_cli.commands.doctor import doctor
from resnest_cli.commands.download import download
from resnest_cli.commands.evaluate import evaluate
from resnest_cli.commands.export import export
from resnest_cli.commands.list_models import list_models
from resnest_cli.commands.predict import predict
from resnest_cli.commands.train import train
from resnest_cli.errors import ReaderGone, ResNeStError
from resnest_cli.sources import is_url

app = typer.Typer(
    name="resnest",
    rich_markup_mode="rich",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, Callable[..., int | None]] = {
    "predict": predict,
    "list-models": list_models,
    "download": download,
    "train": train,
    "evaluate": evaluate,
    "export": export,
    "bench": bench,
    "doctor": doctor,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"resnest {__version__}")
        raise typer.Exit


@app.callback()
def _resnest(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Name what pictures show, with the ResNeSt networks (Split-Attention).

    Examples:

      resnest predict dog.jpg

      resnest predict photos/ -o results.csv

      resnest list-models
    """


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    _prepare_process()
    try:
        code = app(standalone_mode=False) or 0
    except ReaderGone as error:
        code = error.exit_code
    except ResNeStError as error:
        code = _fail(str(error), error.exit_code)
    except typer.TyperException as error:
        code = _wrong_command_line(error)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except OSError as error:
        where = f"'{error.filename}': " if error.filename else ""
        code = _fail(f"{where}{error.strerror or error}", 1)
    except Exception as error:  # a bug, or a fault nobody thought of: no traceback for users
        code = _fail(
            f"{type(error).__name__}: {error}\nthis is unexpected; RESNEST_DEBUG=1 shows where", 1
        )
    _leave(code)


def _leave(code: int) -> NoReturn:
    try:
        sys.stdout.flush()
    except OSError:  # reported already, or a reader that is gone: nothing to say at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if any(thread.name.startswith(WORKING) for thread in threading.enumerate()):
        sys.stderr.flush()
        os._exit(code)  # a thread that waits for a slow picture would be waited for
    sys.exit(code)


def _prepare_process() -> None:
    if sys.stdout is None:  # as after >&-
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = None if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")
    if not os.environ.get("RESNEST_DEBUG"):
        warnings.simplefilter("ignore")  # Pillow's and torch's advice is for developers
    handler = _ToStderr()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("resnest_cli").addHandler(handler)
    signal.signal(signal.SIGTERM, _interrupt)


class _ToStderr(logging.Handler):
    """Messages to whatever standard error is just then; a progress bar stands in for it."""

    def emit(self, record: logging.LogRecord) -> None:
        lead = "warning: " if record.levelno == logging.WARNING else ""
        with suppress(OSError):  # a full disk behind 2> is no reason to stop
            sys.stderr.write(f"{lead}{self.format(record)}\n")


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> int:
    if os.environ.get("RESNEST_DEBUG") and sys.exc_info()[0]:
        raise
    sys.stderr.write(f"error: {message}\n")
    return code


def _wrong_command_line(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "resnest"
    message = error.format_message()
    if not message and context:  # no arguments at all
        typer.echo(context.get_help())
        return 0
    return _fail(f"{message}\n{_hint(sys.argv[1:], path)}", 2)


def _hint(arguments: list[str], path: str) -> str:
    first = arguments[0] if arguments else ""
    if first and first not in COMMANDS and not first.startswith("-"):
        if os.path.exists(first) or is_url(first):
            return f"did you mean 'resnest predict {first}'?"
        near = difflib.get_close_matches(first, COMMANDS, n=1)
        return f"did you mean 'resnest {near[0]}'?" if near else "see 'resnest --help'"
    return f"see '{path} --help'"
