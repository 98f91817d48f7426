"""Split attention (section 3.1 of the ResNeSt paper, arXiv 2004.08955).

One 3x3 convolution gives `radix` times the channels; what comes out is `radix` splits of the same
feature map. A small network looks at the splits' sum, pooled over space, and weighs the splits
channel by channel; the weights of one channel sum to 1 over the splits. With radix 1 there is
nothing to weigh against: the weight is a sigmoid, as in a squeeze-and-excitation network.

The channels are laid out radix-major (appendix of the paper): first all groups of split 1, then
all groups of split 2. So one grouped convolution serves all `cardinality` groups at once.
"""

from __future__ import annotations

from functools import reduce
from operator import add, mul

from torch import Tensor, nn


class SplitAttention(nn.Module):
    """A 3x3 convolution whose `radix` splits are weighed by attention.

    Args:
        channels: channels that go in and come out; a multiple of `cardinality`.
        radix: splits per group; 1 gives squeeze-and-excitation.
        cardinality: groups that work apart from each other.
        reduction: the attention network's inner width is `channels * radix / reduction`,
            but at least 32.
    """

    def __init__(
        self, channels: int, *, radix: int = 2, cardinality: int = 1, reduction: int = 4
    ) -> None:
        super().__init__()
        inner = max(channels * radix // reduction, 32)
        inner += -inner % cardinality  # whole groups, at widths that nobody published
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
        total, wide = reduce(add, splits), self.fc1.weight.dtype  # of the maps or more exact
        pooled = total.mean((2, 3), keepdim=True, dtype=wide)  # (N, channels, 1, 1)
        logits = self.fc2(self.relu(self.bn1(self.fc1(pooled))))  # (N, radix * channels, 1, 1)
        weights = self.attention(logits).to(maps.dtype).chunk(self.radix, 1)
        weighed: Tensor = reduce(add, map(mul, splits, weights))
        return weighed

    def attention(self, logits: Tensor) -> Tensor:
        """Weights, radix-major, of attention logits, cardinality-major.

        `fc2` is grouped, so the logits of one group stand together: (group, split, channel). The
        feature maps stand (split, group, channel). Both are (N, radix * channels, 1, 1).
        """
        if self.radix == 1:
            return logits.sigmoid()
        n, channels = logits.shape[:2]
        each = channels // (self.cardinality * self.radix)
        grouped = logits.reshape(n, self.cardinality, self.radix, each)
        return grouped.softmax(2).transpose(1, 2).reshape(n, channels, 1, 1)
