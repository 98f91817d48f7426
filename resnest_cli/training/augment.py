"""A training picture's way to the network: cut out, mirrored and changed at random; and mixing.

Random numbers come from torch's global generator for single pictures, as torchvision's transforms
take them, and from NumPy's for whole batches. For small pictures what counts here is microseconds:
the processors that decode and change pictures are, on a machine without a GPU, those that train.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from resnest_cli.preprocess import Preprocessing
from resnest_cli.training.recipe import Recipe

Pixels = NDArray[np.uint8]
View = Callable[[Image.Image], Pixels]

_POLICIES = {
    "randaugment": v2.RandAugment,
    "autoaugment": v2.AutoAugment,
    "trivial": v2.TrivialAugmentWide,
}
_LOG_RATIO = math.log(4 / 3)  # of a part's width to its height, at most, either way
_TRIES = 10  # at a part that lies within the picture
_RESAMPLINGS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


def training_view(recipe: Recipe, preprocessing: Preprocessing) -> View:
    """A transform of RGB pictures of any size to pixels (crop, crop, 3)."""
    if recipe.augment == "none":
        return PlainView(preprocessing)
    interpolations = _RESAMPLINGS if recipe.resampling else (preprocessing.interpolation,)
    steps: list[Callable[[Image.Image], Image.Image]] = []
    high = max(recipe.max_scale, 1.0)  # of the picture with its border
    if high > 1:
        steps.append(MirrorBorder((high**0.5 - 1) / 2))
    scale = recipe.min_scale / high, recipe.max_scale / high
    steps.append(CutOut(scale, preprocessing.crop, interpolations, flip=recipe.flip))
    if recipe.augment in _POLICIES:
        steps.append(_POLICIES[recipe.augment](interpolation=v2.InterpolationMode.BILINEAR))
    if recipe.resampling:
        steps.append(v2.RandomApply([v2.GaussianBlur(3, (0.2, 1.2))], p=0.15))
        steps.append(v2.RandomAdjustSharpness(3.0, p=0.3))
    return AugmentedView(steps)


class AugmentedView:
    """A picture changed step by step, its pixels uint8 (crop, crop, 3)."""

    def __init__(self, steps: Sequence[Callable[[Image.Image], Image.Image]]) -> None:
        self.steps = steps

    def __call__(self, image: Image.Image) -> Pixels:
        """An RGB picture of any size to pixels."""
        for step in self.steps:
            image = step(image)
        return np.asarray(image)


class PlainView:
    """A picture as the finished network will see it: uint8 (crop, crop, 3)."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, image: Image.Image) -> Pixels:
        """An RGB picture of any size to pixels."""
        return self.preprocessing.pixels(image)


class CutOut:
    """Cut a random part out, bring it to the network's size, and mirror it or not, in one go.

    The part is drawn as in Szegedy et al., 2014 (arXiv 1409.4842): a share of the picture's area
    between two bounds, and a ratio of its sides between 3:4 and 4:3, evenly on a logarithmic scale.
    Where ten tries give none that lies within the picture, the largest such part of its middle is
    taken.

    Args:
        scale: the bounds of the share, 0 to 1.
        size: of the result's sides, in pixels.
        interpolations: one of these is drawn each time.
        flip: mirror every other picture.
    """

    def __init__(
        self, scale: tuple[float, float], size: int, interpolations: Sequence[str], *, flip: bool
    ) -> None:
        self.scale = scale
        self._size = (size, size)
        self._flip = flip
        self._interpolations = [Image.Resampling[name.upper()] for name in interpolations]

    def __call__(self, image: Image.Image) -> Image.Image:
        """An RGB picture of any size to one of (size, size)."""
        numbers = iter(torch.rand(2 * _TRIES + 4).tolist())  # at once: a call costs more than they
        kind, mirrored = next(numbers), next(numbers)
        box = self.part(*image.size, numbers)
        how = self._interpolations[int(kind * len(self._interpolations))]
        image = image.crop(box).resize(self._size, how)
        if self._flip and mirrored < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image

    def part(self, width: int, height: int, numbers: Iterator[float]) -> tuple[int, int, int, int]:
        """A part of a picture: left, top, right, bottom; `numbers` are random, 0 to 1."""
        x, y = next(numbers), next(numbers)
        low, high = self.scale
        for share, ratio in zip(numbers, numbers, strict=True):
            area = (low + (high - low) * share) * width * height
            sides = math.exp(_LOG_RATIO * (2 * ratio - 1))
            w, h = round(math.sqrt(area * sides)), round(math.sqrt(area / sides))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
                return left, top, left + w, top + h
        most = math.exp(_LOG_RATIO)
        w, h = min(width, round(height * most)), min(height, round(width * most))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


class MirrorBorder:
    """Continue a picture beyond its edges as in a mirror, by a share of each side's length."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, image: Image.Image) -> Image.Image:
        """A picture that is `1 + 2 * share` times as wide and as high."""
        pixels = np.asarray(image)
        high, wide = (round(length * self.share) for length in pixels.shape[:2])
        return Image.fromarray(np.pad(pixels, ((high, high), (wide, wide), (0, 0)), "symmetric"))


def mix(pixels: Tensor, targets: Tensor, recipe: Recipe, rng: np.random.Generator) -> Tensor:
    """Mix neighbours of a batch in pairs, in place; gives the targets that then hold.

    Mixup blends two pictures, CutMix puts a rectangle of one into the other; in both the targets
    are blended by area or weight. Pairs are neighbours, so that a batch that is shared out among
    processes in even parts is mixed as it is in one.

    Args:
        pixels: (N, 3, H, W), changed in place.
        targets: probabilities (N, classes).
        recipe: its `mixup` and `cutmix`.
        rng: drawn from equally in every process.
    """
    if not recipe.mixes:
        return targets
    cut = recipe.cutmix > 0 and (recipe.mixup == 0 or rng.random() < 0.5)
    alpha = recipe.cutmix if cut else recipe.mixup
    weight = float(rng.beta(alpha, alpha))  # of a picture itself
    partner = torch.arange(len(pixels), device=pixels.device).bitwise_xor(1)
    partner.clamp_(max=len(pixels) - 1)
    if cut:
        height, width = pixels.shape[2:]
        top, bottom = _span(height, weight, rng)
        left, right = _span(width, weight, rng)
        patch = pixels[partner, :, top:bottom, left:right]
        pixels[:, :, top:bottom, left:right] = patch
        weight = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        pixels.lerp_(pixels[partner], 1 - weight)
    return targets.lerp(targets[partner], 1 - weight)


def _span(length: int, weight: float, rng: np.random.Generator) -> tuple[int, int]:
    """Where CutMix's rectangle begins and ends along one side; its area is about 1 - weight."""
    half = length * (1 - weight) ** 0.5 / 2
    centre = rng.integers(length)
    return max(round(centre - half), 0), min(round(centre + half), length)
