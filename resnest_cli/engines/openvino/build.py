"""A checkpoint's network as an OpenVINO graph, built operation by operation.

It is `model.resnest` in eval mode, each batch norm folded into its convolution in float64, as
`model.surgery` does: the logits differ from PyTorch's by rounding only. Nothing is traced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from resnest_cli.engines.api import FEATURES, LOGITS, MAPS
from resnest_cli.engines.openvino.runtime import ov

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from resnest_cli.catalog.config import ModelConfig
    from resnest_cli.catalog.variants import Architecture

    Node = Any  # OpenVINO's, whose package has no types

PIXELS = "pixels"  # the graph's input
_EPSILON = 1e-5  # of torch.nn.BatchNorm2d


def build_graph(
    state: Mapping[str, Tensor], config: ModelConfig, outputs: Sequence[str] = (LOGITS,)
) -> ov.Model:
    """The graph of a network, for batches of any size.

    Args:
        state: float32 tensors by their published names.
        config: the architecture, the number of channels and classes, and the crop.
        outputs: those of `engines.api.OUTPUTS` that the graph has, in this order.

    Returns:
        A graph whose input `pixels` is float32 (N, in_channels, crop, crop), normalised.
    """
    crop = config.preprocessing.crop
    pixels = ov.opset13.parameter([-1, config.in_channels, crop, crop], np.float32, PIXELS)
    pixels.output(0).get_tensor().set_names({PIXELS})
    layers = _Layers({name: tensor.numpy() for name, tensor in state.items()}, config.architecture)
    maps = layers.feature_maps(pixels)
    features = ov.opset13.reduce_mean(maps, [2, 3])  # (N, channels)
    nodes = {MAPS: maps, FEATURES: features, LOGITS: layers.linear(features, "fc")}
    results = []
    for name in outputs:
        results.append(ov.opset13.result(nodes[name]))
        results[-1].output(0).get_tensor().set_names({name})
    return ov.Model(results, [pixels], config.name)


class _Layers:
    """The layers of one network: each method takes a node and gives the node after it."""

    def __init__(self, state: Mapping[str, NDArray[np.float32]], architecture: Architecture):
        self._state = state
        self._architecture = architecture
        self._op = ov.opset13

    def feature_maps(self, x: Node) -> Node:
        """Images (N, in_channels, H, W) to the last maps, (N, channels, H / 32, W / 32)."""
        x = self.relu(self.conv(x, "conv1.0", "conv1.1", stride=2, padding=1))
        x = self.relu(self.conv(x, "conv1.3", "conv1.4", padding=1))
        x = self.relu(self.conv(x, "conv1.6", "bn1", padding=1))
        x = ov.opset1.max_pool(x, [2, 2], [1, 1], [1, 1], [3, 3], "floor")
        for stage, blocks in enumerate(self._architecture.blocks):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                x = self.bottleneck(x, f"layer{stage + 1}.{block}.", stride=stride)
        return x

    def bottleneck(self, x: Node, name: str, *, stride: int) -> Node:
        """1x1, split attention with average-pool downsampling (AVD), 1x1, and the shortcut."""
        first = self._architecture.avd_first
        out = self.relu(self.conv(x, f"{name}conv1", f"{name}bn1"))
        if stride > 1 and first:
            out = self.avd_pool(out, stride)
        out = self.split_attention(out, f"{name}conv2.")
        if stride > 1 and not first:
            out = self.avd_pool(out, stride)
        out = self.conv(out, f"{name}conv3", f"{name}bn3")
        if f"{name}downsample.1.weight" in self._state:
            x = self.conv(self.pool(x, stride), f"{name}downsample.1", f"{name}downsample.2")
        return self.relu(self._op.add(out, x))

    def avd_pool(self, x: Node, stride: int) -> Node:
        """The mean over 3x3, padding included, which does a bottleneck's striding."""
        return self._op.avg_pool(x, [stride, stride], [1, 1], [1, 1], [3, 3], False, "floor")

    def pool(self, x: Node, stride: int) -> Node:
        """The mean over a shortcut's windows; one at the edge counts only what lies inside."""
        if stride == 1 or x.get_output_partial_shape(0)[-1].get_length() == 1:
            return x
        sides = [stride, stride]
        return self._op.avg_pool(x, sides, [0, 0], [0, 0], sides, True, "ceil")

    def split_attention(self, x: Node, name: str) -> Node:
        """(N, channels, H, W) to the same shape: see `model.split_attention.SplitAttention`."""
        radix, groups = self._architecture.radix, self._architecture.cardinality
        x = self.conv(x, f"{name}conv", f"{name}bn0", padding=1, groups=groups * radix)
        splits = self.splits(self.relu(x))
        pooled = self._op.reduce_mean(reduce(self._op.add, splits), [2, 3], keep_dims=True)
        x = self.relu(self.conv(pooled, f"{name}fc1", f"{name}bn1", groups=groups))
        weights = self.splits(self.attention(self.conv(x, f"{name}fc2", groups=groups)))
        return reduce(self._op.add, map(self._op.multiply, splits, weights))

    def splits(self, x: Node) -> list[Node]:
        """The channels of each of `radix` splits."""
        radix = self._architecture.radix
        return [x] if radix == 1 else list(self._op.split(x, 1, radix).outputs())

    def attention(self, logits: Node) -> Node:
        """Logits (group, split, channel) to weights (split, group, channel), summing to 1."""
        radix, groups = self._architecture.radix, self._architecture.cardinality
        if radix == 1:
            return self._op.sigmoid(logits)
        channels = logits.get_output_partial_shape(0)[1].get_length()
        each = [0, groups, radix, channels // (groups * radix)]  # 0: the batch, whatever it is
        weights = self._op.softmax(self._op.reshape(logits, each, True), 2)
        if groups > 1:  # of a single group the order is the same
            weights = self._op.transpose(weights, [0, 2, 1, 3])
        return self._op.reshape(weights, [0, channels, 1, 1], True)

    def conv(
        self, x: Node, name: str, norm: str | None = None, *,
        stride: int = 1, padding: int = 0, groups: int = 1,
    ) -> Node:  # fmt: skip
        """A convolution with the batch norm after it, if one is named."""
        weight, bias = self.folded(name, norm)
        kwargs = {
            "strides": [stride, stride], "pads_begin": [padding, padding],
            "pads_end": [padding, padding], "dilations": [1, 1], "name": name,
        }  # fmt: skip
        if groups == 1:
            out = self._op.convolution(x, self.constant(weight), **kwargs)
        else:
            grouped = weight.reshape(groups, -1, *weight.shape[1:])  # (groups, out, in, k, k)
            out = self._op.group_convolution(x, self.constant(grouped), **kwargs)
        return self._op.add(out, self.constant(bias.reshape(1, -1, 1, 1)))

    def folded(
        self, name: str, norm: str | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A convolution's filters and bias, its batch norm folded in: see `fold_batch_norm`."""
        weight, bias = self._state[f"{name}.weight"], self._state.get(f"{name}.bias")
        if norm is None:
            assert bias is not None
            return weight, bias
        gamma, beta, mean, var = (
            self._state[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(var + _EPSILON)
        folded = np.empty_like(weight)
        np.multiply(
            weight, scale[:, None, None, None], out=folded, dtype=np.float64, casting="same_kind"
        )
        shifted = (0.0 if bias is None else bias.astype(np.float64)) - mean
        return folded, (shifted * scale + beta).astype(np.float32)

    def constant(self, values: NDArray[np.float32]) -> Node:
        """A node of these values; a node that is given an array would convert it to a list."""
        return self._op.constant(values, shared_memory=True)

    def linear(self, x: Node, name: str) -> Node:
        """The last layer: (N, features) to (N, classes)."""
        weight, bias = self._state[f"{name}.weight"], self._state[f"{name}.bias"]
        product = self._op.matmul(x, self.constant(weight), False, True)
        return self._op.add(product, self.constant(bias[None]))

    def relu(self, x: Node) -> Node:
        """The positive part."""
        return self._op.relu(x)
