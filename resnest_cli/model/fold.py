"""Batch norm folded into the convolutions before it, for inference only."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from resnest_cli.model.resnest import Bottleneck, ResNeSt


def fold_batch_norm(network: ResNeSt) -> None:
    """Fold every batch norm of a network in eval mode into its convolution, in place.

    In eval mode a batch norm is y = (x - mean) * scale + bias with scale = weight / sqrt(var +
    eps), so the convolution before it can do it. The answers move by rounding only.
    """
    for owner, conv_name, norm_name in list(_pairs(network)):
        conv, norm = owner.get_submodule(conv_name), owner.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        _fold(conv, norm)
        parent, _, child = norm_name.rpartition(".")
        setattr(owner.get_submodule(parent), child, nn.Identity())


def _pairs(network: ResNeSt) -> Iterator[tuple[nn.Module, str, str]]:
    """Each convolution's name and its batch norm's, below the module that has both."""
    yield network, "conv1.0", "conv1.1"
    yield network, "conv1.3", "conv1.4"
    yield network, "conv1.6", "bn1"
    for block in network.modules():
        if isinstance(block, Bottleneck):
            yield block, "conv1", "bn1"
            yield block, "conv2.conv", "conv2.bn0"
            yield block, "conv2.fc1", "conv2.bn1"
            yield block, "conv3", "bn3"
            if isinstance(block.downsample, nn.Sequential):
                yield block, "downsample.1", "downsample.2"


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    scale = norm.weight.double() / (var.double() + norm.eps).sqrt()
    bias = conv.bias.double() if conv.bias is not None else 0.0
    conv.weight = nn.Parameter((conv.weight.double() * scale.view(-1, 1, 1, 1)).float())
    conv.bias = nn.Parameter(((bias - mean.double()) * scale + norm.bias.double()).float())
