"""Parts of the training loop: optimizer, averaged weights, class weights, losses, stop requests."""

from __future__ import annotations

import math
import os
import signal
import threading
from types import FrameType

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from resnest_cli.datasets.class_folders import LabelledImages
from resnest_cli.model.resnest import ResNeSt
from resnest_cli.training.distributed import DistContext
from resnest_cli.training.recipe import Recipe

_Tensors = tuple[Tensor, ...] | list[Tensor]


def ema_model(network: ResNeSt, decay: float) -> AveragedModel:
    """An exponential moving average of weights and statistics.

    The decay of the n-th step is at most (1 + n) / (10 + n), so that random weights fade quickly.
    """

    def update(averaged: _Tensors, current: _Tensors, count: Tensor | int) -> None:
        if averaged[0].is_floating_point():
            step_decay = min(decay, (1 + int(count)) / (10 + int(count)))
            update_floats = get_ema_multi_avg_fn(step_decay)  # type: ignore[no-untyped-call]
            update_floats(averaged, current, count)
            return
        for kept, new in zip(averaged, current, strict=True):
            kept.copy_(new)

    with torch.no_grad():
        model = AveragedModel(network, multi_avg_fn=torch.no_grad()(update), use_buffers=True)
    return model.requires_grad_(False)


def optimizer(network: ResNeSt, recipe: Recipe) -> Optimizer:
    """SGD with Nesterov momentum, without weight decay on biases and BatchNorm."""
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    nesterov = recipe.momentum > 0
    return SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov)


def class_weights(images: LabelledImages) -> Tensor:
    """Weights (classes) in inverse proportion to the number of images; 1 if all are equal."""
    counts = torch.tensor(images.counts(), dtype=torch.float32)
    return counts.sum() / (len(counts) * counts.clamp(min=1))


def ranks(logits: Tensor, targets: Tensor) -> Tensor:
    """How many classes rank before the true one, (N); of equal logits the lower index is first."""
    true = logits.gather(1, targets[:, None])
    before = torch.arange(logits.shape[1]) < targets[:, None]
    return ((logits > true) | ((logits == true) & before)).sum(1)


class RunningLoss:
    """The mean loss of an epoch's steps, over all processes.

    The sum stays on the device: to read it makes a GPU wait.
    """

    def __init__(self, processes: DistContext, device: str) -> None:
        self._processes = processes
        # Apple's GPUs have no float64
        dtype = torch.float32 if device == "mps" else torch.float64
        self.sum = torch.zeros((), dtype=dtype, device=device)
        self.steps = 0

    def restart(self, total: Tensor | float = 0.0, steps: int = 0) -> None:
        """Start an epoch, or continue one from the sum of its first steps."""
        self.sum, self.steps = torch.zeros_like(self.sum) + total, steps

    def accumulate(self, loss: Tensor) -> None:
        """Add the loss of a step, as this process computed it."""
        own = loss.detach().to(self.sum.dtype, copy=True)
        self.sum += self._processes.all_reduce_sum(own) / self._processes.world_size
        self.steps += 1

    def mean(self) -> float:
        """The mean so far; NaN before the first step, or if training diverged."""
        return float(self.sum) / self.steps if self.steps else math.nan


class StopRequest:
    """While it is entered, the first Ctrl-C, SIGTERM or SIGHUP sets `requested`.

    A second one interrupts; what is ignored, as SIGHUP is under nohup, stays ignored.

    In a thread other than the main one, where Python delivers no signals, nothing is caught.
    """

    def __init__(self) -> None:
        self.requested = False
        self._process = os.getpid()
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            names = ("SIGINT", "SIGTERM", "SIGHUP")  # the last one is not on Windows
            for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
                if number != signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN:
                    continue
                self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a decoding process that has just been forked
            os._exit(128 + number)
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
