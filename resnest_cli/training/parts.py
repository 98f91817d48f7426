"""What a training run is made of besides its network: optimiser, averages, weights, places."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.swa_utils import AveragedModel

from resnest_cli.folders import LabelledPictures
from resnest_cli.model.resnest import ResNeSt
from resnest_cli.training.recipe import Recipe

_Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass
class Epoch:
    """One row of the history."""

    epoch: int  # from 1
    lr: float  # at its end
    train_loss: float
    val_loss: float
    val_top1: float  # per cent
    val_top5: float
    pictures_per_second: float
    seconds: float


@dataclass
class Position:
    """How far a run is."""

    epoch: int = 0  # finished epochs
    step: int = 0  # steps of the epoch after those
    seconds: float = 0.0  # of that epoch
    history: list[Epoch] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """What the live view shows."""

    epoch: int
    step: int
    steps: int  # in an epoch
    batch_size: int
    loss: float  # mean of the epoch so far
    lr: float


def averaged(network: ResNeSt, decay: float) -> AveragedModel:
    """An exponential moving average of weights and statistics, quicker at the beginning."""

    def update(averaged: _Tensors, current: _Tensors, count: Tensor | int) -> None:
        keep = min(decay, (1 + int(count)) / (10 + int(count)))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - keep)
        else:
            torch._foreach_copy_(averaged, current)

    with torch.no_grad():
        made = AveragedModel(network, multi_avg_fn=torch.no_grad()(update), use_buffers=True)
    return made.requires_grad_(False)


def optimizer(network: ResNeSt, recipe: Recipe) -> Optimizer:
    """SGD that leaves biases and batch norms without weight decay."""
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    nesterov = recipe.momentum > 0
    return SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov)


def class_weights(pictures: LabelledPictures) -> Tensor:
    """Weights (classes) in inverse proportion to the number of pictures; 1 where all are equal."""
    counts = torch.tensor(pictures.counts(), dtype=torch.float32)
    return counts.sum() / (len(counts) * counts.clamp(min=1))


def ranks(logits: Tensor, targets: Tensor) -> Tensor:
    """How many classes come before the true one, (N); of equal logits the lower index leads."""
    true = logits.gather(1, targets[:, None])
    before = torch.arange(logits.shape[1]) < targets[:, None]
    return ((logits > true) | ((logits == true) & before)).sum(1)
