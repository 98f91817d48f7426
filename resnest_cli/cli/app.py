"""The `resnest` command: knows the commands, and is the one place where errors end."""

from __future__ import annotations

import atexit
import errno
import gc
import io
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from resnest_cli import settings
from resnest_cli.cli.typer_speed import install_fast_coercion
from resnest_cli.errors import BrokenPipe, ResNeStError, is_out_of_memory
from resnest_cli.text import printable
from resnest_cli.version import __version__

COMMANDS = {
    "predict": "Classify images.",
    "explain": "Show where in images the evidence for a class is.",
    "embed": "Write the vectors that a network makes of images.",
    "similar": "Find the images that are most similar to others.",
    "merge": "Write the partitions of a run to one file, in the order of the inputs.",
    "duplicates": "Find images that occur more than once, exactly or nearly.",
    "report": "Write a page to look through results.",
    "audit": "Find probable wrong labels, outliers and copies in class folders.",
    "sort": "Sort images into folders by class.",
    "list-models": "List the models: size, cost, input, published accuracy.",
    "download": "Download, verify and prepare models ahead of use.",
    "train": "Train or fine-tune a model on class folders.",
    "evaluate": "Measure a model on labelled images.",
    "export": "Write a model as ONNX, OpenVINO, torch.export or safetensors.",
    "serve": "Classify images over HTTP: a page and an API.",
    "bench": "Measure how fast models are on this machine.",
    "cache": "List and clean what is stored on disk.",
    "doctor": "Show versions, devices, engines and the cache, and classify an image.",
}


_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_REFUSED = (errno.EBADF, errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT)  # to be written


def command(name: str) -> Callable[..., int | None]:
    """The function behind a command, its module imported for it."""
    module = name.replace("-", "_")
    found: Callable[..., int | None] = getattr(import_module(f"resnest_cli.cli.{module}"), module)
    return found


class _Commands(TyperGroup):
    """Lists the commands without importing them; imports the one that is asked for."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, found, rest = super().resolve_command(ctx, args)
        if name:
            single = typer.Typer(add_completion=False, rich_markup_mode="rich")
            single.command(name)(command(name))
            found = typer.main.get_command(single)
            install_fast_coercion(found.get_params(ctx))
        return name, found, rest

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        install_fast_coercion(self.get_params(ctx))
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="resnest",
    cls=_Commands,
    rich_markup_mode="rich",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _help in COMMANDS.items():
    app.command(_name, help=_help)(lambda: None)


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
    """Image classification with ResNeSt (Split-Attention Networks).

    Examples:

      resnest predict dog.jpg

      resnest predict photos/ -o results.csv

      resnest list-models
    """


def main() -> NoReturn:
    """Run the command line, and end the process with its exit code.

    It ends without taking apart all that was imported, which takes longer than many a prediction,
    and without waiting for threads that wait for a slow image.
    """
    gc.set_threshold(100_000)  # imports make a great many objects and no garbage
    code = run(sys.argv[1:])
    for number in (signal.SIGINT, *_ENDING):  # all is done
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "SIGCHLD"):  # decoding processes that are ended now have not failed
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if settings.debug():
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # reported already, or the reader has closed the pipe
            stream.flush()
    os._exit(code)


def run(arguments: list[str]) -> int:
    """Run the command line; the exit code."""
    _prepare_process()
    try:
        code = app(arguments, prog_name="resnest", standalone_mode=False) or 0
        sys.stdout.flush()
        return code
    except (BrokenPipe, BrokenPipeError):
        return BrokenPipe.exit_code
    except SystemExit as error:  # which rich raises for a closed pipe
        if isinstance(error.__context__, BrokenPipeError):
            return BrokenPipe.exit_code
        raise
    except ResNeStError as error:
        return error.exit_code if error.reported else _fail(as_flags(str(error)), error.exit_code)
    except typer.TyperException as error:
        return _usage_error(error, arguments)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except OSError as error:
        named = f"'{error.filename}'" if error.filename else "standard output"
        where = f"{named}: " if error.filename or error.errno in _REFUSED else ""
        return _fail(f"{where}{error.strerror or error}", 1)
    except Exception as error:  # a bug, or a fault nobody thought of: no traceback for users
        if is_out_of_memory(error):
            return _fail("not enough memory; other programs may be using it", 1)
        message = f"{type(error).__name__}: {error}"
        return _fail(f"{message}\nthis is unexpected; RESNEST_DEBUG=1 shows where", 1)


def as_flags(message: str) -> str:
    """A library message with its parameters as options: `` `top_k=5` `` becomes `--top-k 5`."""

    def flag(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        return f"--{name.replace('_', '-')}" + (f" {value}" if value else "")

    return re.sub(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`", flag, message)


def _prepare_process() -> None:
    for number, name in enumerate(("stdout", "stderr"), 1):
        if getattr(sys, name) is None:  # as after >&-, see `__main__`
            setattr(sys, name, os.fdopen(number, "w", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = None if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")
    if not settings.debug():
        warnings.simplefilter("ignore")  # Pillow's and torch's advice is for developers
    logging.getLogger("resnest_cli").addHandler(_ToStderr())
    for name in ("PIL", "tifffile"):  # whose errors are rows; a logger without handler would print
        logging.getLogger(name).addHandler(logging.NullHandler())
    for ending in _ENDING:
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as nohup does with SIGHUP
            signal.signal(ending, signal.default_int_handler)


class _ToStderr(logging.Handler):
    """Messages to whatever standard error is just then; a progress bar stands in for it."""

    def emit(self, record: logging.LogRecord) -> None:
        lead = "warning: " if record.levelno == logging.WARNING else ""
        with suppress(OSError):  # a full disk behind 2> is no reason to stop
            sys.stderr.write(f"{lead}{_shown(as_flags(self.format(record)))}\n")


def _fail(message: str, code: int) -> int:
    if settings.debug() and sys.exc_info()[0]:
        raise
    with suppress(OSError):  # as for 2> on a full disk; the exit code remains
        sys.stderr.write(f"error: {_shown(message)}\n")
    return code


def _shown(message: str) -> str:
    """A message whose names of files or classes write nothing else to a terminal than text."""
    return "\n".join(map(printable, message.split("\n")))


def _usage_error(error: typer.TyperException, arguments: list[str]) -> int:
    context = getattr(error, "ctx", None)
    named = arguments[0] if arguments and arguments[0] in COMMANDS else ""
    path = context.command_path if context else f"resnest {named}".rstrip()
    message = error.format_message()
    if not message and context:  # no arguments at all
        typer.echo(context.get_help())
        return 0
    return _fail(f"{message}\n{_hint(arguments, path)}", 2)


def _hint(arguments: list[str], path: str) -> str:
    import difflib

    from resnest_cli.inputs.source import is_url
    from resnest_cli.inputs.stores import is_store_url

    first = arguments[0] if arguments else ""
    if first and first not in COMMANDS and not first.startswith("-"):
        if os.path.exists(first) or is_url(first) or is_store_url(first):
            return f"did you mean 'resnest predict {first}'?"
        near = difflib.get_close_matches(first, COMMANDS, n=1)
        return f"did you mean 'resnest {near[0]}'?" if near else "see 'resnest --help'"
    return f"see '{path} --help'"
