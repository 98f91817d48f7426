"""Everything that can go wrong on purpose, and the exit code each ends the command with.

    ResNeStError                1  something could not be done at all
    ├── UsageError              2  an option or a name is wrong
    ├── CheckpointError         1  weights are missing, damaged or of another network
    │   └── DownloadError       1  no address gave the file
    ├── ImageError              -  one picture could not be read: becomes that picture's error row
    ├── DatasetError            1  labelled pictures are not there, or not as they must be
    ├── LabelsError             1  class names are unreadable or of the wrong number
    ├── EngineError             1  a device, engine or precision is not to be had
    └── OutputError             1  results cannot be written, or resumed, where they should go
        └── ReaderGone          0  who read the results from a pipe has enough of them

A message is one or two lines: what was wrong, then what to do about it.
"""

from __future__ import annotations


class ResNeStError(Exception):
    """The base of every error this package raises on purpose."""

    exit_code = 1


class UsageError(ResNeStError):
    """An option, or a name given in one, is wrong."""

    exit_code = 2


class CheckpointError(ResNeStError):
    """Weights are missing, damaged, or belong to another network."""


class DownloadError(CheckpointError):
    """No address gave the file; the message holds each one's reason."""


class ImageError(ResNeStError):
    """One picture could not be read; in a batch it becomes that picture's error row."""


class DatasetError(ResNeStError):
    """Labelled pictures are not there, or not as training or evaluation needs them."""


class LabelsError(ResNeStError):
    """Class names are unreadable, or not as many as the network has classes."""


class EngineError(ResNeStError):
    """A device, an engine or a precision is not to be had here."""


class OutputError(ResNeStError):
    """Results cannot be written, or resumed, where they were asked for."""


class ReaderGone(OutputError):
    """Whoever read the results from a pipe has closed it: no fault of anyone."""

    exit_code = 0
