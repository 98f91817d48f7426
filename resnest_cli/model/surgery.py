"""Changes to a network: batch norms folded, a new head, another number of input channels."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from resnest_cli.catalog.config import ModelConfig
from resnest_cli.model.resnest import Bottleneck, ResNeSt, StateDict


def fold_batch_norm(network: ResNeSt) -> None:
    """Fold every batch norm of a network in eval mode into its convolution, in place.

    In eval mode a batch norm is y = (x - mean) * scale + bias with scale = weight / sqrt(var +
    eps), so the convolution before it can do it. The logits change by rounding only.
    """
    for owner, conv_name, norm_name in list(_pairs(network)):
        conv, norm = owner.get_submodule(conv_name), owner.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        owner.set_submodule(conv_name, fuse_conv_bn_eval(conv.double(), norm.double()).float())
        owner.set_submodule(norm_name, nn.Identity())


def _pairs(network: ResNeSt) -> Iterator[tuple[nn.Module, str, str]]:
    """The names of each convolution and its batch norm, below the module that owns both."""
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


def with_new_head(state: StateDict, config: ModelConfig) -> StateDict:
    """A state with a random last layer for a config's classes, or without one for 0 classes."""
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    if config.num_classes:
        head = nn.Linear(config.architecture.stage_channels[-1], config.num_classes)
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)
        state |= {"fc.weight": head.weight.data, "fc.bias": head.bias.data}
    return state


def adapt_input(filters: Tensor, channels: int) -> Tensor:
    """The stem's first filters (out, in, 3, 3) for another number of input channels, as in timm."""
    if channels == 1:
        return filters.sum(1, keepdim=True)
    repeats = -(-channels // filters.shape[1])
    repeated = filters.repeat(1, repeats, 1, 1)[:, :channels]
    return repeated * (filters.shape[1] / channels)
