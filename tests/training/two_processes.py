"""What test_distributed computes in one process and, as a script under torchrun, in two."""

import os
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from resnest_cli import train
from resnest_cli.catalog.variants import Architecture
from resnest_cli.errors import UsageError
from resnest_cli.model.resnest import ResNeSt, initialise
from resnest_cli.training.distributed import DistContext, SharedDropout, share_batch_norms
from resnest_cli.training.summary import Step, TrainingProgress

RECIPE = {
    "model": "resnest14", "scratch": True, "width": 0.125, "crop": 32, "resize": 32, "epochs": 2,
    "batch_size": 8, "augment": "light", "mixup": 0, "dropout": 0.3, "lr": 0.2, "ema": 0.9,
    "check": True,
}  # fmt: skip


def compute(data: Path, folder: Path) -> None:
    """A step in float64 and a run, each with everything that depends on the whole batch."""
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    processes = DistContext.join("cpu")
    _check_broadcast(processes)
    _step(processes, folder / "step.pt")
    train(data, recipe=RECIPE, workers=0, output=folder / "run")
    if processes.world_size > 1:
        with pytest.raises(UsageError, match="must be a multiple of 2, not 9"):
            train(data, recipe=RECIPE, workers=0, output=folder / "odd", batch_size=9)
        assert not (folder / "odd" / "run.json").exists()  # which is written before images are read
        output, progress = folder / "interrupted", InterruptEpoch(2)
        with pytest.raises(KeyboardInterrupt):
            train(data, recipe=RECIPE, workers=0, output=output, progress=progress)


class InterruptEpoch(TrainingProgress):
    """Ctrl-C in the last step of an epoch, before it is saved."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def step(self, step: Step) -> None:
        if (step.epoch, step.step) == (self._epoch, step.steps):  # which is always reported
            raise KeyboardInterrupt


def _check_broadcast(processes: DistContext) -> None:
    def wrong() -> None:
        raise UsageError("for all processes")

    with pytest.raises(UsageError, match="for all processes"):
        processes.broadcast_from_main(wrong)
    assert processes.broadcast_from_main(lambda: processes.rank) == 0
    assert processes.any(processes.is_main, "cpu")


def _step(processes: DistContext, file: Path) -> None:
    """Gradients and statistics after one step on a batch of eight."""
    network = ResNeSt(Architecture((1, 1, 1, 1), width=0.125), num_classes=4)
    generator = torch.Generator().manual_seed(0)
    initialise(network, generator=generator)
    network = network.double().train()
    network.dropout = SharedDropout(0.3, 1, processes)
    if processes.world_size > 1:
        share_batch_norms(network, "cpu")
    pixels = torch.randn(8, 3, 64, 64, generator=generator).double()
    size = 8 // processes.world_size
    own = slice(processes.rank * size, (processes.rank + 1) * size)
    shared = processes.wrap_ddp(network)
    F.cross_entropy(shared(pixels[own]), (torch.arange(8) % 4)[own]).backward()
    if processes.is_main:
        gradients = {name: p.grad for name, p in network.named_parameters()}
        torch.save(gradients | dict(network.named_buffers()), file)


if __name__ == "__main__":
    compute(Path(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # as the command ends: a thread of gloo's may abort while Python shuts down
