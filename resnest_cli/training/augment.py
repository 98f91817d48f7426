"""A training picture's way to the network: cut out, mirrored and changed at random; and mixing.

Random numbers come from torch's global generator for single pictures, as torchvision's transforms
take them, and from NumPy's for whole batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from resnest_cli.preprocess import Preprocessing
from resnest_cli.training.recipe import Recipe

View = Callable[[Image.Image], Tensor]

_POLICIES = {
    "randaugment": v2.RandAugment,
    "autoaugment": v2.AutoAugment,
    "trivial": v2.TrivialAugmentWide,
}
_RESAMPLINGS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


def training_view(recipe: Recipe, preprocessing: Preprocessing) -> View:
    """A transform of RGB pictures of any size to uint8 (3, crop, crop)."""
    size, modes = preprocessing.crop, [preprocessing.interpolation]
    if recipe.augment == "none":
        return PlainView(preprocessing)
    high = max(recipe.max_scale, 1.0)  # of the picture with its border
    steps = [MirrorBorder((high**0.5 - 1) / 2)] if high > 1 else []
    if recipe.resampling:
        modes = list(_RESAMPLINGS)
    crops = [
        v2.RandomResizedCrop(
            size,
            scale=(recipe.min_scale / high, recipe.max_scale / high),
            interpolation=_mode(mode),
        )
        for mode in modes
    ]
    steps.append(v2.RandomChoice(crops) if len(crops) > 1 else crops[0])
    if recipe.flip:
        steps.append(v2.RandomHorizontalFlip())
    if recipe.augment in _POLICIES:
        steps.append(_POLICIES[recipe.augment](interpolation=_mode("bilinear")))
    if recipe.resampling:
        steps.append(v2.RandomApply([v2.GaussianBlur(3, (0.2, 1.2))], p=0.15))
        steps.append(v2.RandomAdjustSharpness(3.0, p=0.3))
    return _composed([*steps, v2.PILToTensor()])


class PlainView:
    """A picture as the finished network will see it: uint8 (3, crop, crop)."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, image: Image.Image) -> Tensor:
        """An RGB picture of any size to pixels."""
        return torch.from_numpy(self.preprocessing.pixels(image).copy()).permute(2, 0, 1)


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


def _composed(steps: list[Callable[[Any], Any]]) -> View:
    view: View = v2.Compose(steps)
    return view


def _mode(name: str) -> v2.InterpolationMode:
    return v2.InterpolationMode(name)
