"""Every error raised on purpose. A message is one or two lines: what is wrong, what to do."""

from __future__ import annotations

import errno
import math
import re
from importlib.util import find_spec
from numbers import Integral, Real

# faults of a disk, a network or a full table that may be gone at another time
_PASSING = (
    "EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EINTR", "EBUSY", "EMFILE", "ENFILE", "ENOMEM",
    "ENOTCONN", "ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "EHOSTDOWN", "EHOSTUNREACH",
    "ENETDOWN", "ENETUNREACH", "ENETRESET", "EREMOTEIO",
)  # fmt: skip
MAY_PASS = {getattr(errno, name) for name in _PASSING if hasattr(errno, name)}


class ResNeStError(Exception):
    """The base of every error that this package raises on purpose."""

    exit_code = 1  # of the command that it ends
    reported = False  # another process of the same run reports it


class UsageError(ResNeStError):
    """An option, or a name given in one, is wrong."""

    exit_code = 2


class CheckpointError(ResNeStError):
    """Weights are missing, damaged, or belong to another network."""


class DownloadError(CheckpointError):
    """No address served the file; the message holds the reason of each."""


class ImageError(ResNeStError):
    """One image cannot be read; in a batch it becomes that image's error row.

    `may_pass`: the reason may be gone at another time, as a server's that is too busy.
    """

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class DatasetError(ResNeStError):
    """Labelled images are missing, or unusable for training or evaluation."""


class LabelsError(ResNeStError):
    """Class names are unreadable, or their number is not the network's number of classes."""


class EngineError(ResNeStError):
    """A device, an engine or a precision is not available on this machine."""


class OutputError(ResNeStError):
    """Results cannot be written or resumed where they were asked for."""


class WriteError(OutputError, OSError):
    """The system refuses to write a file, which the message names."""


class BrokenPipe(OutputError):
    """The reader of the results has closed the pipe, as `head` does: not a failure."""

    exit_code = 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory, in the words of whichever library it is."""
    words = "out of memory|not enough memory|alloc|failed to map"
    return isinstance(error, MemoryError) or bool(re.search(words, str(error), re.I))


def check_memory(error: BaseException, what: str) -> None:
    """Raise `EngineError` if an error is that there was too little memory for something."""
    if is_out_of_memory(error):
        reason = f"not enough memory for {what}; other programs may be using it"
        raise EngineError(reason) from error


def check_number(
    name: str, value: object, low: float, high: float = math.inf, *, unit: str = "",
    whole: bool = True,
) -> None:  # fmt: skip
    """Raise `UsageError` unless an option's value is a number from `low` to `high`."""
    number = isinstance(value, Integral if whole else Real)
    if number and low <= value <= high:  # type: ignore[operator]
        return
    kind = "" if number else "a whole number, " if whole else "a number, "
    span = f"{low} or more" if high == math.inf else f"{low} to {high}"
    raise UsageError(f"`{name}` must be {kind}{span}{unit}, not {value!r}")


def require_extra(extra: str, *packages: str) -> None:
    """Raise `ResNeStError`, with the pip command, unless an extra's packages can be imported."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ResNeStError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed\n"
            f"pip install 'resnest-cli[{extra}]'"
        )
