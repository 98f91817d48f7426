"""Everything that relies on Typer's private parts: for a quick start, and for clear messages.

Typer converts values with pydantic, whose import takes about 60 ms: a seventh of the time in which
one image is classified. So values that need no conversion are taken unchanged here. The names used
belong to Typer 0.29 (see pyproject.toml's upper bound); where they are missing, Typer does it all.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

_NEEDED = "_runtime_param", "get_runtime_param", "type_descriptor"


def install_fast_coercion(parameters: Iterable[Any]) -> None:
    """Let parameters take values that need no conversion unchanged."""
    for parameter in parameters:
        if all(hasattr(parameter, name) for name in _NEEDED):
            parameter._runtime_param = FastCoercion()


class FastCoercion:
    """Takes a value that needs no conversion unchanged, and leaves any other to Typer."""

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
        try:
            return param.get_runtime_param().coerce(value, param=param, ctx=ctx)
        except typer.BadParameter as error:
            if allowed := _allowed(wanted):
                error.message = f"must be {allowed}, not '{value}'"
            raise


def _allowed(wanted: Any) -> str:
    """The values that an option takes, in words; empty if Typer's own message is left to say it."""
    if wanted.choices:
        return f"one of {', '.join(wanted.choices)}"
    if wanted.annotation not in (int, float):
        return ""
    kind = "a whole number" if wanted.annotation is int else "a number"
    least, most = wanted.parameter_info.min, wanted.parameter_info.max
    if least is None or most is None:
        return kind if least is None else f"{kind}, {least} or more"
    return f"{kind} from {least} to {most}"
