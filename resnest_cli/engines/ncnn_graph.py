"""A ResNeSt as ncnn knows networks: a text that lists layers, and their weights in one piece.

The formats are told in ncnn's wiki ("param and model file structure", "operators"): a line a layer,
`type name inputs outputs input-names output-names key=value ...`; a map that several layers read is
shared out by a Split layer; weights of convolutions and inner products follow one another in the
order of the layers, each after four bytes that say how they are stored (zeros: float32).

Each line ends with the shapes of its outputs at the network's own resolution, by which ncnn chooses
the size of its tiles; pictures of another size go through all the same.

Three things get a form in which they cost less, with the same results but for rounding:

- Of a split-attention block each split is a convolution of its own (its groups are the split's), so
  that no large map is copied to take it apart.
- The attention's two layers are full matrices. The first takes the pooled maps of all splits, which
  adds them up; the rows of the second stand in the order in which the maps do.
- Where a shortcut has a convolution, that and the block's last one are one, of the maps of both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from resnest_cli.model.resnest import Bottleneck, ResNeSt
from resnest_cli.model.split_attention import SplitAttention

_MAGIC = "7767517"  # of the text format
_RELU = 1  # as an activation that a layer applies
_MAX, _AVERAGE = 0, 1
_ADD = 0  # of what BinaryOp does

Shape = tuple[int, ...]  # (channels, H, W), or fewer


def to_ncnn(network: ResNeSt, crop: int, pixels: str, logits: str) -> tuple[str, bytes]:
    """Layers and weights of a network whose batch norms are folded: float32, one picture a time.

    Args:
        network: what to convert.
        crop: pixels, height and width of the pictures to come.
        pixels: name of the input (channels, H, W), normalised.
        logits: name of the output (classes).
    """
    graph = _Graph()
    x = graph.add("Input", [], (network.in_channels, crop, crop), name=pixels)
    for index in (0, 3, 6):
        x = graph.convolution(network.conv1[index], x, relu=True)
    x = graph.pooling(_MAX, x, network.maxpool)
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        for block in stage:
            assert isinstance(block, Bottleneck)
            x = _bottleneck(graph, block, x)
    x = graph.global_average(x)
    assert isinstance(network.fc, nn.Linear)
    graph.inner_product(network.fc.weight, network.fc.bias, x, name=logits)
    return graph.text(), b"".join(graph.weights)


def _bottleneck(graph: _Graph, block: Bottleneck, x: str) -> str:
    x, shortcut = graph.share(x, 2)
    out = graph.convolution(block.conv1, x, relu=True)
    out = _average_pooling(graph, block.avd_before, out)
    out = _split_attention(graph, block.conv2, out)
    out = _average_pooling(graph, block.avd_behind, out)
    if isinstance(block.downsample, nn.Sequential):
        shortcut = _average_pooling(graph, block.downsample[0], shortcut)
        last, other = block.conv3, block.downsample[1]
        assert isinstance(other, nn.Conv2d)
        assert last.bias is not None
        assert other.bias is not None
        return graph.convolution(
            last, graph.joined([out, shortcut]), relu=True,
            weight=torch.cat([last.weight, other.weight], 1), bias=last.bias + other.bias,
        )  # fmt: skip
    out = graph.convolution(block.conv3, out)
    return graph.add("ReLU", [graph.add("BinaryOp", [out, shortcut], values={0: _ADD})])


def _split_attention(graph: _Graph, block: SplitAttention, x: str) -> str:
    """Feature maps (channels, H, W) to feature maps of the same shape."""
    radix, channels = block.radix, block.conv.in_channels
    parts = graph.slices(x, [channels // radix] * radix)
    splits, pooled = [], []
    for index, part in enumerate(parts):
        rows = slice(index * channels, (index + 1) * channels)
        bias = block.conv.bias
        assert bias is not None
        maps = graph.convolution(
            block.conv, part, relu=True, weight=block.conv.weight[rows], bias=bias[rows],
            groups=block.cardinality,
        )  # fmt: skip
        maps, seen = graph.share(maps, 2)
        splits.append(maps)
        pooled.append(graph.global_average(seen))
    first, second = _full(block.fc1), _full(block.fc2)
    order = torch.arange(radix * channels).reshape(block.cardinality, radix, -1)
    order = order.transpose(0, 1).flatten()  # from (group, split, channel)
    assert block.fc2.bias is not None
    hidden = graph.inner_product(
        first.repeat(1, radix), block.fc1.bias, graph.joined(pooled), relu=True
    )
    logits = graph.inner_product(second[order], block.fc2.bias[order], hidden)
    if radix == 1:
        weights = [graph.add("Sigmoid", [logits])]
    else:
        of_splits = graph.add("Reshape", [logits], (radix, channels), {0: channels, 1: radix})
        attention = graph.add("Softmax", [of_splits], values={0: 0, 1: 1})
        flat = graph.add("Reshape", [attention], (radix * channels,), {0: radix * channels})
        weights = graph.slices(flat, [channels] * radix)
    total = ""
    for maps, weight in zip(splits, weights, strict=True):
        weighed = graph.add(
            "Scale", [maps, weight], values={0: -233}
        )  # in place; a factor per channel
        total = graph.add("BinaryOp", [total, weighed], values={0: _ADD}) if total else weighed
    return total


def _average_pooling(graph: _Graph, layer: nn.Module, x: str) -> str:
    if isinstance(layer, nn.Identity):
        return x
    assert isinstance(layer, nn.AvgPool2d)
    return graph.pooling(_AVERAGE, x, layer)


def _full(layer: nn.Conv2d) -> torch.Tensor:
    """The matrix (out, in) that a grouped 1x1 convolution is."""
    blocks: Callable[..., torch.Tensor] = torch.block_diag
    return blocks(*layer.weight.flatten(1).chunk(layer.groups))


@dataclass
class _Graph:
    """Layers and weights so far. A layer's only output has the layer's name."""

    layers: list[str] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)  # of every output
    weights: list[bytes] = field(default_factory=list)

    def add(
        self, kind: str, inputs: Sequence[str], shape: Shape | None = None,
        values: dict[int, object] | None = None, *, name: str | None = None,
    ) -> str:  # fmt: skip
        """A layer of one output, by default in the shape of the first input."""
        shapes = [self.shapes[inputs[0]] if shape is None else shape]
        return self._add(kind, inputs, shapes, values, name)[0]

    def share(self, x: str, count: int) -> list[str]:
        """The same map for several layers."""
        return self._add("Split", [x], [self.shapes[x]] * count)

    def slices(self, x: str, sizes: Sequence[int]) -> list[str]:
        """A map or a vector taken apart at its first dimension."""
        if len(sizes) == 1:
            return [x]
        shapes = [(size, *self.shapes[x][1:]) for size in sizes]
        return self._add("Slice", [x], shapes, {-23300: _array(sizes), 1: 0})

    def joined(self, inputs: Sequence[str]) -> str:
        """Maps or vectors put together at their first dimension."""
        if len(inputs) == 1:
            return inputs[0]
        length = sum(self.shapes[x][0] for x in inputs)
        return self.add("Concat", inputs, (length, *self.shapes[inputs[0]][1:]), {0: 0})

    def global_average(self, x: str) -> str:
        """Maps (channels, H, W) to a vector (channels)."""
        return self.add("Pooling", [x], self.shapes[x][:1], {0: _AVERAGE, 4: 1})

    def pooling(self, kind: int, x: str, layer: nn.MaxPool2d | nn.AvgPool2d) -> str:
        size, stride, padding = (_side(n) for n in (layer.kernel_size, layer.stride, layer.padding))
        whole, counts_padding = not layer.ceil_mode, getattr(layer, "count_include_pad", False)
        values: dict[int, object] = {
            0: kind, 1: size, 2: stride, 3: padding, 5: int(whole), 6: int(counts_padding)
        }  # fmt: skip
        channels, *sides = self.shapes[x]
        more = 0 if whole else stride - 1
        outputs = ((side + 2 * padding - size + more) // stride + 1 for side in sides)
        return self.add("Pooling", [x], (channels, *outputs), values)

    def convolution(
        self, layer: nn.Module, x: str, *, relu: bool = False, weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None, groups: int = 1,
    ) -> str:  # fmt: skip
        """A layer's, or a part of it."""
        assert isinstance(layer, nn.Conv2d)
        weight = layer.weight if weight is None else weight
        bias = layer.bias if bias is None else bias
        size, stride, padding = layer.kernel_size[0], layer.stride[0], _side(layer.padding)
        values: dict[int, object] = {
            0: len(weight), 1: size, 3: stride, 4: padding, 5: 1, 6: weight.numel()
        }  # fmt: skip
        if groups > 1:
            values[7] = groups
        if relu:
            values[9] = _RELU
        self._store(weight, bias)
        sides = ((side + 2 * padding - size) // stride + 1 for side in self.shapes[x][1:])
        kind = "ConvolutionDepthWise" if groups > 1 else "Convolution"
        return self.add(kind, [x], (len(weight), *sides), values)

    def inner_product(
        self, weight: torch.Tensor, bias: torch.Tensor | None, x: str, *, relu: bool = False,
        name: str | None = None,
    ) -> str:  # fmt: skip
        values: dict[int, object] = {0: len(weight), 1: 1, 2: weight.numel()}
        if relu:
            values[9] = _RELU
        self._store(weight, bias)
        return self.add("InnerProduct", [x], (len(weight),), values, name=name)

    def text(self) -> str:
        return "\n".join([_MAGIC, f"{len(self.layers)} {len(self.shapes)}", *self.layers]) + "\n"

    def _add(
        self, kind: str, inputs: Sequence[str], shapes: Sequence[Shape],
        values: dict[int, object] | None = None, name: str | None = None,
    ) -> list[str]:  # fmt: skip
        name = name or f"{kind.lower()}{len(self.layers)}"
        count = len(shapes)
        made = [name] if count == 1 else [f"{name}.{index}" for index in range(count)]
        self.shapes.update(zip(made, shapes, strict=True))
        settings = [f"{key}={value}" for key, value in (values or {}).items()]
        hints = [n for shape in shapes for n in _hint(shape)]
        settings.append(f"-23330={_array(hints)}")
        fields = [kind, name, len(inputs), count, *inputs, *made, *settings]
        self.layers.append(" ".join(map(str, fields)))
        return made

    def _store(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        assert bias is not None  # as batch norms are folded
        stored_as_float32 = bytes(4)
        values = (weight.detach().float().numpy(), bias.detach().float().numpy())
        self.weights += [stored_as_float32, *(np.ascontiguousarray(v).tobytes() for v in values)]


def _side(value: object) -> int:
    """The one number of a size that is the same in both directions."""
    if isinstance(value, tuple):
        assert len(set(value)) == 1
        value = value[0]
    assert isinstance(value, int)
    return value


def _hint(shape: Shape) -> list[int]:
    """Number of dimensions, then width, height and channels, 1 where there are none."""
    return [len(shape), *reversed(shape), *[1] * (3 - len(shape))]


def _array(values: Sequence[int]) -> str:
    """As the format has arrays: the length, then the values; such keys are -23300 - key."""
    return ",".join(map(str, [len(values), *values]))
