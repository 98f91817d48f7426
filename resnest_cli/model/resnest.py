"""ResNeSt: a ResNet with split attention (arXiv 2004.08955).

Differences from a ResNet-50:

- the stem is three 3x3 convolutions instead of one 7x7;
- a shortcut that halves the resolution pools, then applies its 1x1 convolution;
- a bottleneck that halves the resolution does so by average pooling; its 3x3 has stride 1;
- the 3x3 convolution is a `SplitAttention`.

Parameters are named as in the authors' code, in timm and in the published checkpoints. No Python
branch depends on data, so that `torch.export` takes every variant with a dynamic batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resnest_cli.catalog.variants import Architecture
from resnest_cli.model.split_attention import SplitAttention

StateDict = dict[str, Tensor]  # parameters and buffers by their published names


class Bottleneck(nn.Module):
    """1x1, split attention, 1x1, and a shortcut around them."""

    def __init__(
        self, architecture: Architecture, in_channels: int, out_channels: int, *, stride: int
    ) -> None:
        super().__init__()
        a = architecture
        width = a.inner_channels(out_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        # average-pool downsampling (AVD), before or after the 3x3 convolution
        pool = nn.AvgPool2d(3, stride, padding=1) if stride > 1 else nn.Identity()
        self.avd_before = pool if a.avd_first else nn.Identity()
        self.conv2 = SplitAttention(width, radix=a.radix, cardinality=a.cardinality)
        self.avd_after = nn.Identity() if a.avd_first else pool
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        same_shape = stride == 1 and in_channels == out_channels
        self.downsample = (
            nn.Identity() if same_shape else _shortcut(in_channels, out_channels, stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, ceil(H / stride), ceil(W / stride))."""
        out = self.relu(self.bn1(self.conv1(x)))  # (N, width, H, W)
        out = self.avd_after(self.conv2(self.avd_before(out)))  # (N, width, H / stride, W / stride)
        out = self.bn3(self.conv3(out))  # (N, out, H / stride, W / stride)
        result: Tensor = self.relu(out.add_(self.downsample(x)))
        return result


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """(N, in, H, W) to the shape that a bottleneck gives; odd sizes are rounded up, as there."""
    pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(
        pool if stride > 1 else nn.Identity(),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class ResNeSt(nn.Module):
    """The network of an architecture: images (N, in_channels, H, W) to logits (N, num_classes).

    Args:
        architecture: which ResNeSt; each of `catalog.variants.VARIANTS` has one.
        num_classes: outputs of the last layer; 0 leaves it out, and pooled features come out.
        in_channels: channels of the images.
        dropout: fraction of the pooled features dropped in training, 0 to 1.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.num_classes = num_classes
        self.in_channels = in_channels
        stem, stages = architecture.scaled(architecture.stem_width), architecture.stage_channels
        self.num_features = stages[-1]

        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, stem, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
            nn.Conv2d(stem, stem, 3, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
            nn.Conv2d(stem, stem * 2, 3, padding=1, bias=False),
        )
        self.bn1 = nn.BatchNorm2d(stem * 2)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

        self.layer1 = _stage(architecture, 0, stem * 2)
        self.layer2 = _stage(architecture, 1, stages[0])
        self.layer3 = _stage(architecture, 2, stages[1])
        self.layer4 = _stage(architecture, 3, stages[2])

        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.fc(self.dropout(self.pooled_features(x)))
        return logits

    def pooled_features(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to the last layer's input, (N, num_features)."""
        fc = self.fc
        dtype = fc.weight.dtype if isinstance(fc, nn.Linear) else None  # fp32 for 16-bit maps
        return self.forward_features(x).mean((2, 3), dtype=dtype)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to the last maps, (N, num_features, H / 32, W / 32)."""
        return self.stage_features(x)[-1]

    def stage_features(self, x: Tensor) -> list[Tensor]:
        """The maps after each of the four stages, at 1/4, 1/8, 1/16 and 1/32 of the resolution.

        Their channels are `architecture.stage_channels`: 256, 512, 1024 and 2048 at width 1.
        """
        x = self.relu(self.bn1(self.conv1(x)))  # (N, 64 or 128, H / 2, W / 2)
        x = self.maxpool(x)  # (N, 64 or 128, H / 4, W / 4)
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps


def _stage(architecture: Architecture, number: int, in_channels: int) -> nn.Sequential:
    """The bottlenecks of stage 0 to 3; the first of stages 1 to 3 halves the resolution."""
    out_channels = architecture.stage_channels[number]
    first = Bottleneck(architecture, in_channels, out_channels, stride=2 if number else 1)
    others = range(architecture.blocks[number] - 1)
    rest = (Bottleneck(architecture, out_channels, out_channels, stride=1) for _ in others)
    return nn.Sequential(first, *rest)


def shapes_only(architecture: Architecture, *, num_classes: int, in_channels: int) -> ResNeSt:
    """A network whose tensors have shapes and no values: built without memory or random numbers."""
    with torch.device("meta"):
        return ResNeSt(architecture, num_classes=num_classes, in_channels=in_channels)


def initialise(
    model: ResNeSt, *, zero_gamma: bool = False, generator: torch.Generator | None = None
) -> None:
    """Fill a network with random weights: He et al. (arXiv 1502.01852), fan out, for ReLU.

    Args:
        model: changed in place.
        zero_gamma: start each block's last batch norm at 0, so that a block is its shortcut at
            first; deep networks learn faster (Goyal et al., arXiv 1706.02677, 5.1).
        generator: of the random numbers; torch's global one by default.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01, generator=generator)
            nn.init.zeros_(module.bias)
    if zero_gamma:
        for module in model.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)
