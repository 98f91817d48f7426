"""OpenVINO itself, without its converters, and what it can do on this processor.

`openvino` imports its converters if they are installed, which takes as long as all the rest, and
reports the import to a server by the package `openvino_telemetry`. Nothing here uses them; a
program that imports this one and OpenVINO finds them when it asks for them.
"""

from __future__ import annotations

import os
import sys
import weakref
from threading import Lock
from typing import Any

from resnest_cli.errors import EngineError

_CONVERTERS = "openvino.tools.ovc"
_hidden = _CONVERTERS not in sys.modules
if _hidden:
    sys.modules[_CONVERTERS] = None  # type: ignore[assignment]
try:
    import openvino as ov
finally:
    if _hidden:
        del sys.modules[_CONVERTERS]


def _converter(name: str) -> Any:
    """What `openvino` lacks without its converters, for others in this process."""
    if name != "convert_model":
        raise AttributeError(f"module 'openvino' has no attribute '{name}'")
    from openvino.tools.ovc import convert_model

    ov.convert_model = convert_model
    return convert_model


if _hidden and not hasattr(ov, "__getattr__"):
    ov.__getattr__ = _converter

__all__ = ["COMPUTING", "core", "ov", "precision_hint", "supported_precisions"]

_cores: dict[int, ov.Core] = {}  # by process: of a forked one's core the threads do not exist

# our name: OpenVINO's for the property, and for what a processor can do
_PRECISIONS = {"fp32": ("f32", "FP32"), "bf16": ("bf16", "BF16"), "fp16": ("f16", "FP16")}


def core() -> ov.Core:
    """OpenVINO's entry point, one for the life of the process.

    A core that is destroyed takes with it the memory on which the signal handlers of the thread
    that made it run: after two, the next signal ends the process.

    Raises:
        EngineError: this process was forked while another thread computed.
    """
    if COMPUTING.interrupted:
        raise EngineError(
            "openvino cannot be used in this process, which was forked while another thread "
            "computed, or after a network was unloaded\n"
            "start processes by spawn or forkserver, or before the first prediction"
        )
    process = os.getpid()
    return _cores.get(process) or _cores.setdefault(process, ov.Core())


class _Computing:
    """Entered while OpenVINO works; a process that is forked meanwhile cannot use it.

    Nor can one that is forked after a network was unloaded: OpenVINO gives its threads, which do
    not exist there, to the next network.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._unloaded = False
        self._forked()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self.interrupted = self.interrupted or self._unloaded or getattr(self, "_entered", 0) > 0
        self._entered = 0
        self._lock = Lock()

    def loaded(self, model: Any) -> Any:
        """The same compiled model, noticed when it is unloaded."""
        weakref.finalize(model, self._unload).atexit = False
        return model

    def _unload(self) -> None:
        self._unloaded = True

    def __enter__(self) -> None:
        with self._lock:
            self._entered += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._entered -= 1


COMPUTING = _Computing()


def supported_precisions() -> list[str]:
    """The precisions that OpenVINO computes in on this processor."""
    able = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [name for name, (_, capability) in _PRECISIONS.items() if capability in able]


def precision_hint(precision: str) -> str:
    """OpenVINO's name of a precision; it is always given, as the default is the fastest one."""
    return _PRECISIONS[precision][0]
