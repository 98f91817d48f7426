"""The `resnest` command: knows the commands, and is the one place where errors end."""

from __future__ import annotations

import atexit
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from resnest_cli import __version__
from resnest_cli.errors import ReaderGone, ResNeStError

COMMANDS = {
    "predict": "Name what pictures show.",
    "list-models": "List the variants: size, cost, how they see pictures, published accuracy.",
    "download": "Fetch and verify checkpoints, so that predict needs no network.",
    "train": "Teach a network the classes of a folder.",
    "evaluate": "Measure a network on labelled pictures.",
    "export": "Write a network as a file for other programs.",
    "bench": "Time networks on this machine.",
    "doctor": "Show versions, devices, engines and the cache, and classify a picture.",
}


def command(name: str) -> Callable[..., int | None]:
    """The function behind a command, its module imported for it."""
    module = name.replace("-", "_")
    function: Callable[..., int | None] = getattr(
        import_module(f"resnest_cli.commands.{module}"), module
    )
    return function


class _Commands(TyperGroup):
    """Lists the commands without importing them; the one that is asked for is put in place."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, found, rest = super().resolve_command(ctx, args)
        if name:
            single = typer.Typer(add_completion=False, rich_markup_mode="rich")
            single.command(name)(command(name))
            found = typer.main.get_command(single)
            _read_plainly(found.get_params(ctx))
        return name, found, rest

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        _read_plainly(self.get_params(ctx))
        return super().parse_args(ctx, args)


def _read_plainly(parameters: Iterable[Any]) -> None:
    for parameter in parameters:
        if all(hasattr(parameter, name) for name in _AsItIs.NEEDED):
            parameter._runtime_param = _AsItIs()


class _AsItIs:
    """Takes a value that needs no conversion as it is, and leaves any other to Typer.

    Typer converts with pydantic, and to import that takes a seventh of a picture's whole time.
    """

    NEEDED = "_runtime_param", "get_runtime_param", "type_descriptor"  # what Typer has for it

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value of a parameter, of the type that its function wants."""
        wanted = param.type_descriptor
        if value is None and param.nargs == 1 and not param.multiple:
            return None
        texts = value if isinstance(value, tuple | list) else (value,)
        if all(isinstance(text, str) for text in texts):
            if wanted.annotation in (str, list[str]) or value in (wanted.choices or ()):
                return value
            if wanted.annotation is Path:
                return Path(value)
        elif value == param.default:
            return value
        param._runtime_param = None
        return param.get_runtime_param().coerce(value, param=param, ctx=ctx)


app = typer.Typer(
    name="resnest",
    cls=_Commands,
    rich_markup_mode="rich",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _words in COMMANDS.items():
    app.command(_name, help=_words)(lambda: None)


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
    """Run the command line, and end the process with its exit code.

    It ends at once: to take apart all that was imported takes longer than many an answer, and a
    thread that waits for a slow picture would be waited for.
    """
    code = run()
    for number in (signal.SIGINT, signal.SIGTERM):  # all is done
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "SIGCHLD"):  # decoding processes that are ended now have not failed
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if os.environ.get("RESNEST_DEBUG"):
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # reported already, or a reader that is gone
            stream.flush()
    os._exit(code)


def run() -> int:
    """Run the command line; the exit code."""
    _prepare_process()
    try:
        return app(standalone_mode=False) or 0
    except ReaderGone as error:
        return error.exit_code
    except ResNeStError as error:
        return _fail(str(error), error.exit_code)
    except typer.TyperException as error:
        return _wrong_command_line(error)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except OSError as error:
        where = f"'{error.filename}': " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 1)
    except Exception as error:  # a bug, or a fault nobody thought of: no traceback for users
        return _fail(
            f"{type(error).__name__}: {error}\nthis is unexpected; RESNEST_DEBUG=1 shows where", 1
        )


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
    with suppress(OSError):  # as for 2> on a full disk; the code tells
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
    import difflib

    from resnest_cli.sources import is_url

    first = arguments[0] if arguments else ""
    if first and first not in COMMANDS and not first.startswith("-"):
        if os.path.exists(first) or is_url(first):
            return f"did you mean 'resnest predict {first}'?"
        near = difflib.get_close_matches(first, COMMANDS, n=1)
        return f"did you mean 'resnest {near[0]}'?" if near else "see 'resnest --help'"
    return f"see '{path} --help'"
