"""The processes that evaluate together, as `torchrun` starts them, or the only one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from resnest_cli.engines.api import RuntimeOptions
from resnest_cli.errors import UsageError

if TYPE_CHECKING:
    from resnest_cli.training.distributed import DistContext

    Processes: TypeAlias = "DistContext | Alone"

T = TypeVar("T")


class Alone:
    """The only process, which needs no torch."""

    rank = 0
    world_size = 1
    is_main = True

    def gather(self, value: Callable[[], T]) -> list[T]:
        """As `DistContext.gather`."""
        return [value()]

    def broadcast_from_main(self, value: Callable[[], T]) -> T:
        """As `DistContext.broadcast_from_main`."""
        return value()

    @contextmanager
    def reported_by_main(self) -> Iterator[None]:
        """As `DistContext.reported_by_main`."""
        yield


def join_processes() -> Processes:
    """Join the processes that `torchrun` started, if it did.

    They exchange results by way of the CPU, whatever computes them.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return Alone()
    if missing := {"RANK", "MASTER_ADDR", "MASTER_PORT"} - os.environ.keys():
        raise UsageError(
            f"WORLD_SIZE is set in the environment, but {' and '.join(sorted(missing))} not\n"
            "start several processes with torchrun, or unset WORLD_SIZE"
        )
    from resnest_cli.training.distributed import DistContext

    return DistContext.join("cpu")


def own_runtime(runtime: RuntimeOptions, processes: Processes) -> RuntimeOptions:
    """The runtime of this process: each takes a GPU of its own, where GPUs are used."""
    if isinstance(processes, Alone) or runtime.engine not in ("auto", "torch"):
        return runtime
    from resnest_cli.engines.torch_engine import resolve_devices

    (device, *others) = resolve_devices(runtime.device)
    if others:
        raise UsageError("with several processes each takes one GPU: use `device=cuda`")
    if not device.startswith("cuda"):
        return runtime
    return replace(runtime, device=processes.own_device(device))
