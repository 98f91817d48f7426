"""Split attention (section 3.1 of the ResNeSt paper, arXiv 2004.08955).

Differences from a plain 3x3 convolution:

- it gives `radix` times the channels, that is `radix` splits of the feature map;
- a small network sees the sum of the splits, pooled over space, and weights the splits channel by
  channel: the weights of one channel sum to 1 over the splits;
- with radix 1 there is one split, and its weight is a sigmoid, as in squeeze-and-excitation.

The channels are laid out radix-major (appendix of the paper): first all groups of split 1, then
all groups of split 2. So one grouped convolution serves all `cardinality` groups at once.
"""

from __future__ import annotations

from functools import reduce
from operator import add, mul

from torch import Tensor, nn


class SplitAttention(nn.Module):
    """A 3x3 convolution whose `radix` splits are weighted by attention.

    Args:
        channels: input and output channels; a multiple of `cardinality`.
        radix: splits per group; 1 gives squeeze-and-excitation.
        cardinality: independent groups.
        reduction: the attention network's inner width is `channels * radix / reduction`,
            but at least 32.
    """

    def __init__(
        self, channels: int, *, radix: int = 2, cardinality: int = 1, reduction: int = 4
    ) -> None:
        super().__init__()
        inner = max(channels * radix // reduction, 32)
        inner += -inner % cardinality  # whole groups, at widths that are not published
        self.radix = radix
        self.cardinality = cardinality
        self.conv = nn.Conv2d(
            channels, channels * radix, 3, padding=1, groups=cardinality * radix, bias=False
        )
        self.bn0 = nn.BatchNorm2d(channels * radix)
        self.fc1 = nn.Conv2d(channels, inner, 1, groups=cardinality)
        self.bn1 = nn.BatchNorm2d(inner)
        self.fc2 = nn.Conv2d(inner, channels * radix, 1, groups=cardinality)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (N, channels, H, W) to feature maps of the same shape."""
        maps = self.relu(self.bn0(self.conv(x)))  # (N, radix * channels, H, W)
        splits = maps.chunk(self.radix, 1)  # radix times (N, channels, H, W)
        total = reduce(add, splits)  # (N, channels, H, W)
        dtype = self.fc1.weight.dtype  # the attention stays in fp32 where the maps are 16-bit
        pooled = total.mean((2, 3), keepdim=True, dtype=dtype)  # (N, channels, 1, 1)
        logits = self.fc2(self.relu(self.bn1(self.fc1(pooled))))  # (N, radix * channels, 1, 1)
        weights = self.attention(logits).to(maps.dtype).chunk(self.radix, 1)  # one for each split
        weighted: Tensor = reduce(add, map(mul, splits, weights))  # (N, channels, H, W)
        return weighted

    def attention(self, logits: Tensor) -> Tensor:
        """Attention logits to weights, both (N, radix * channels, 1, 1), in another order.

        `fc2` is grouped, so logits are ordered (group, split, channel); feature maps, and so the
        weights, are ordered (split, group, channel).
        """
        if self.radix == 1:
            return logits.sigmoid()
        n, channels = logits.shape[:2]
        each = channels // (self.cardinality * self.radix)  # channels of one split of one group
        grouped = logits.reshape(n, self.cardinality, self.radix, each)
        return grouped.softmax(2).transpose(1, 2).reshape(n, channels, 1, 1)
