"""One run on several processes, as `torchrun` starts them, with the result of one.

What a process computes alone is shared where that matters: gradients by DistributedDataParallel,
batch norms' statistics here, dropout's mask by drawing it for the whole batch in each.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.parallel import DistributedDataParallel

from resnest_cli.errors import ResNeStError, UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process's place among those of a run."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # on its machine

    @classmethod
    def join(cls, device: str) -> Processes:
        """Join the processes that `torchrun` started; alone, where it didn't."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        if not dist.is_initialized():
            backend = "nccl" if device.startswith("cuda") else "gloo"
            # the others wait while one looks through the pictures
            dist.init_process_group(backend, timeout=timedelta(hours=12))
        return cls(dist.get_rank(), count, int(os.environ.get("LOCAL_RANK", "0")))

    def own_device(self, device: str) -> str:
        """The device of this process: of several GPUs each process takes its own.

        Raises:
            UsageError: there are fewer GPUs than processes on this machine.
        """
        if self.count == 1 or not device.startswith("cuda"):
            return device
        if self.local_rank >= (there := torch.cuda.device_count()):
            raise UsageError(
                f"each process needs a GPU of its own, and there are {there} here\n"
                f"use --nproc-per-node {there}, or --device cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return f"cuda:{self.local_rank}"

    def __enter__(self) -> Processes:
        """Nothing is left to do: they have been joined."""
        return self

    def __exit__(self, *_: object) -> None:
        """Part from the others."""
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def check_batch(self, batch_size: int, *, pairs: bool) -> None:
        """Raise `UsageError` unless a batch can be shared out evenly, in pairs if asked."""
        parts = self.count * (2 if pairs and self.count > 1 else 1)
        if batch_size % parts:
            raise UsageError(
                f"--batch-size is for all {self.count} processes together and must be a multiple "
                f"of {parts}, not {batch_size}"
            )

    def share(self, network: nn.Module) -> nn.Module:
        """The network with its gradients averaged over the processes."""
        if self.count == 1:
            return network
        # batch norms' statistics are the same in all processes already; the option has two names
        known = signature(DistributedDataParallel).parameters
        sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        unsynced: dict[str, Any] = {sync: False}
        return DistributedDataParallel(network, **unsynced)

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def agree(self, value: Callable[[], T]) -> T:
        """What `value` gives, or the error that it raises, in the process that leads."""
        if self.count == 1:
            return value()
        agreed: list[tuple[T | None, ResNeStError | None]] = [(None, None)]
        if self.leads:
            try:
                agreed = [(value(), None)]
            except ResNeStError as error:
                agreed = [(None, error)]
        dist.broadcast_object_list(agreed)
        result, failure = agreed[0]
        if failure:
            raise failure
        return cast("T", result)

    def any(self, flag: bool, device: str) -> bool:
        """Whether the flag is set in any of the processes."""
        if self.count == 1:
            return flag
        return bool(self.total(torch.tensor(float(flag), device=device)))


ALONE = Processes()


class _Sum(torch.autograd.Function):
    """The sum over the processes, through which gradients flow: theirs are summed as well."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def _sum(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)
    return total


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the pictures of all processes; torch's own does that on GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (N, C, H, W) to feature maps of the same shape."""
        if not self.training:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = _sum(wide.new_tensor(wide.numel() / wide.shape[1]))
        mean = _sum(wide.sum((0, 2, 3))) / count
        centred = wide - mean[:, None, None]
        variance = _sum(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            momentum = self.momentum or 0.1
            unbiased = variance * count / (count - 1)
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(unbiased, momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normalised: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normalised.to(x.dtype)


class SharedDropout(nn.Dropout):
    """Dropout whose mask is a function of `step` and the place in the whole batch."""

    def __init__(self, p: float, seed: int, processes: Processes) -> None:
        super().__init__(p)
        self.seed = seed
        self.step = 0
        self.processes = processes

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # else compiled for each step
    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C) to features of the same shape, a share of them 0 in training."""
        if not self.training or self.p == 0:
            return x
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        whole = torch.rand(len(x) * self.processes.count, x.shape[1], generator=generator)
        kept = whole[self.processes.rank * len(x) :][: len(x)] >= self.p
        return x * kept.to(x.device, x.dtype) / (1 - self.p)


def share_batch_norms(network: nn.Module, device: str) -> nn.Module:
    """The network with batch norms that look at the pictures of all processes."""
    if device.startswith("cuda"):
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d  # the same parameters, another forward
    return network
