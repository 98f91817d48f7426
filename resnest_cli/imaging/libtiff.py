"""What libtiff has to say of an image, which it would write to standard error without a name."""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

from resnest_cli.text import one_line, printable

log = logging.getLogger(__name__)

_installing = threading.Lock()
_here = threading.local()  # `words`, while this thread listens
_LONGEST = 500  # bytes of a message
# libtiff's TIFFErrorHandler: the function that speaks, a format and its values, a va_list, which
# all common ABIs pass as a pointer
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)


@contextmanager
def listening(name: str) -> Iterator[list[str]]:
    """Collect the messages of this thread's decoding of an image; they are logged for `-v`."""
    with _installing:
        _install()
    words: list[str] = []
    _here.words = words
    try:
        yield words
    finally:
        _here.words = None
        for text in words:
            log.info("'%s': %s", printable(name), text)


@cache
def _install() -> list[Any]:
    """Set the handlers of Pillow's libtiff, once; gives what must stay alive."""
    # with the symbols of what it is linked to
    pillow = ctypes.CDLL(import_module("PIL._imaging").__file__)
    kept: list[Any] = []
    for name in ("TIFFSetWarningHandler", "TIFFSetErrorHandler"):
        if not hasattr(pillow, name):  # Pillow without libtiff, or with one that hides its names
            continue
        install = getattr(pillow, name)
        install.argtypes, install.restype = [_Handler], _Handler
        chain: list[Any] = []
        handler = _Handler(_heard(chain))
        chain.append(install(handler))
        kept += [handler, chain]
    return kept


def _heard(before: list[Any]) -> Any:
    write = ctypes.CDLL(None).vsnprintf
    write.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]

    def handler(module: bytes | None, form: bytes, values: int | None) -> None:
        words = getattr(_here, "words", None)
        if words is None:  # not this package's image
            if before and before[0]:
                before[0](module, form, values)
            return
        text = ctypes.create_string_buffer(_LONGEST)
        write(text, _LONGEST, form, values)
        words.append(one_line(text.value.decode(errors="replace")))

    return handler
