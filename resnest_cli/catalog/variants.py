"""The 13 published ResNeSt variants.

Figures: the paper (arXiv 2004.08955), its authors' repository (github.com/zhanghang1989/ResNeSt)
and timm's results tables (github.com/huggingface/pytorch-image-models). Nothing here imports more
than the standard library, so that `resnest list-models` starts fast.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from fnmatch import fnmatchcase

from resnest_cli.catalog.demo import DEMO
from resnest_cli.errors import UsageError
from resnest_cli.imaging.preprocessing import Preprocessing

EXPANSION = 4  # a bottleneck's output channels, as a multiple of its stage's base
STAGE_BASES = (64, 128, 256, 512)  # base channels of the four stages at width 1


@dataclass(frozen=True)
class Architecture:
    """The hyper-parameters of a ResNeSt, except its numbers of classes and input channels."""

    blocks: tuple[int, int, int, int]  # bottlenecks in each of the four stages
    stem_width: int = 32  # channels of the stem's first two convolutions; its third has twice that
    radix: int = 2  # splits that are weighted by attention
    cardinality: int = 1  # groups, as in ResNeXt
    base_width: int = 64  # channels of one group in the first stage
    avd_first: bool = False  # pool before the 3x3 convolution (the fast variants) or after it
    width: float = 1.0  # factor on every channel count, for small data sets and small files

    def scaled(self, channels: int) -> int:
        """A channel count times `width`, rounded to a multiple of 8 and at least 8."""
        return max(8 * round(channels * self.width / 8), 8)

    def inner_channels(self, out_channels: int) -> int:
        """Channels of the 3x3 convolution in a bottleneck: `base_width` per group, scaled."""
        unit = self.radix * self.cardinality  # whole splits, and whole groups of the attention
        group = out_channels // EXPANSION * self.base_width / STAGE_BASES[0]
        return max(unit * round(group / unit), unit) * self.cardinality

    @property
    def stage_channels(self) -> tuple[int, int, int, int]:
        """Output channels of the four stages: 256, 512, 1024 and 2048 at width 1."""
        first, second, third, fourth = (self.scaled(base) * EXPANSION for base in STAGE_BASES)
        return first, second, third, fourth


@dataclass(frozen=True)
class Variant:
    """One published network: its architecture, checkpoint, preprocessing and accuracy."""

    name: str
    alias: str | None  # timm's name
    architecture: Architecture
    params: int
    gmacs: float  # 1e9 multiply-accumulates for one image of `crop` x `crop`
    preprocessing: Preprocessing  # `default`: timm's where timm has the variant, else crop + 32
    digest: str  # first eight hex digits of the .pth file's SHA-256
    size: int | None  # bytes of the .pth file
    # published accuracy on ImageNet-1k in per cent
    top1_authors: float | None  # by the authors' PyTorch code, with their preprocessing
    top1_timm: float | None = None  # with timm's preprocessing
    top5: float | None = None  # the same run's

    @property
    def file_name(self) -> str:
        """The published name of the .pth file."""
        prefix = "gluon_" if self.name in ("resnest14", "resnest26") else ""
        return f"{prefix}{self.name}-{self.digest}.pth"

    @property
    def top1(self) -> float | None:
        """ImageNet-1k top-1 in per cent: timm's, else the authors' with their preprocessing."""
        return self.top1_timm or self.top1_authors


def _fast(radix: int, cardinality: int, base_width: int) -> Architecture:
    return Architecture((3, 4, 6, 3), 32, radix, cardinality, base_width, avd_first=True)


def _view(crop: int, resize: int, interpolation: str) -> Preprocessing:
    return Preprocessing("default", crop=crop, resize=resize, interpolation=interpolation)


_BILINEAR, _BICUBIC = _view(224, 256, "bilinear"), _view(224, 256, "bicubic")

# fmt: off
VARIANTS: tuple[Variant, ...] = (
    Variant("resnest14", "resnest14d", Architecture((1, 1, 1, 1)), 10_611_688, 2.76,
            _BILINEAR, "9c8fe254", 42_562_639, None, 75.516, 92.512),
    Variant("resnest26", "resnest26d", Architecture((2, 2, 2, 2)), 17_069_448, 3.64,
            _BILINEAR, "50eb607c", 68_470_242, None, 78.476, 94.300),
    Variant("resnest50", "resnest50d", Architecture((3, 4, 6, 3)), 27_483_240, 5.40,
            _BILINEAR, "528c19ca", 110_273_258, 81.03, 80.958, 95.372),
    Variant("resnest101", "resnest101e", Architecture((3, 4, 23, 3), 64), 48_275_016, 13.38,
            _view(256, 292, "bilinear"), "22405ba7", 193_782_911, 82.83, 82.916, 96.310),
    Variant("resnest200", "resnest200e", Architecture((3, 24, 36, 3), 64), 70_201_544, 35.69,
            _view(320, 352, "bicubic"), "75117900", None, 83.84, 83.880, 96.880),
    Variant("resnest269", "resnest269e", Architecture((3, 30, 48, 8), 64), 110_929_480, 77.69,
            _view(416, 448, "bicubic"), "0cc87c48", 445_402_691, 84.54, 84.542, 96.988),
    Variant("resnest50_fast_1s1x64d", None, _fast(1, 1, 64), 26_217_896, 4.34,
            _BICUBIC, "d8fbf808", None, 80.33),
    Variant("resnest50_fast_2s1x64d", None, _fast(2, 1, 64), 27_483_240, 4.34,
            _BICUBIC, "44938639", None, 80.53),
    Variant("resnest50_fast_4s1x64d", None, _fast(4, 1, 64), 31_912_712, 4.35,
            _BICUBIC, "f74f3fc3", None, 80.76),
    Variant("resnest50_fast_1s2x40d", None, _fast(1, 2, 40), 25_946_680, 4.38,
            _BICUBIC, "32830b84", None, 80.59),
    Variant("resnest50_fast_2s2x40d", None, _fast(2, 2, 40), 26_943_792, 4.38,
            _BICUBIC, "9d126481", None, 80.61),
    Variant("resnest50_fast_4s2x40d", "resnest50d_4s2x40d", _fast(4, 2, 40), 30_417_592, 4.40,
            _BICUBIC, "41d14ed0", 122_133_282, 81.14, 81.146, 95.566),
    Variant("resnest50_fast_1s4x24d", "resnest50d_1s4x24d", _fast(1, 4, 24), 25_677_000, 4.43,
            _BICUBIC, "d4a4f76f", 103_045_531, 80.99, 81.024, 95.338),
)
# fmt: on

BY_NAME = {name: v for v in VARIANTS for name in (v.name, v.alias) if name}


def get_variant(name: str) -> Variant:
    """The variant with a canonical name or timm alias; a `UsageError` offers the nearest names."""
    if name in BY_NAME:
        return BY_NAME[name]
    near = difflib.get_close_matches(name, BY_NAME, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "see 'resnest list-models'"
    raise UsageError(f"no model is called '{name}'; {hint}")


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models, `demo` last, that fit a shell-style pattern by name or timm alias.

    A pattern without wildcards fits every name that contains it.
    """
    if not any(sign in pattern for sign in "*?["):
        pattern = f"*{pattern}*"
    names = [*((v.name, v.alias) for v in VARIANTS), (DEMO, None)]
    return [
        name for name, alias in names if any(fnmatchcase(n, pattern) for n in (name, alias or name))
    ]
