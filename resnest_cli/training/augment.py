"""A training picture's way to the network: cut out, mirrored and changed at random; and mixing.

Random numbers come from torch's global generator for single pictures, as torchvision's transforms
take them, and from NumPy's for whole batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
_RATIOS = [3 / 4, 4 / 3]  # of a part's width to its height
_RESAMPLINGS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


def training_view(recipe: Recipe, preprocessing: Preprocessing) -> View:
    """A transform of RGB pictures of any size to uint8 (3, crop, crop)."""
    if recipe.augment == "none":
        return PlainView(preprocessing)
    interpolations = _RESAMPLINGS if recipe.resampling else (preprocessing.interpolation,)
    steps: list[Callable[[Any], Any]] = [CutOut(recipe, preprocessing.crop, interpolations)]
    if recipe.augment in _POLICIES:
        steps.append(_POLICIES[recipe.augment](interpolation=v2.InterpolationMode.BILINEAR))
    if recipe.resampling:
        steps.append(v2.RandomApply([v2.GaussianBlur(3, (0.2, 1.2))], p=0.15))
        steps.append(v2.RandomAdjustSharpness(3.0, p=0.3))
    return _composed([*steps, as_tensor])


class PlainView:
    """A picture as the finished network will see it: uint8 (3, crop, crop)."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, image: Image.Image) -> Tensor:
        """An RGB picture of any size to pixels."""
        return torch.from_numpy(self.preprocessing.pixels(image).copy()).permute(2, 0, 1)


class CutOut:
    """Cut a random part out, bring it to the network's size, and mirror it or not, in one go.

    The part is drawn as torchvision's RandomResizedCrop draws it (Szegedy et al., 2014,
    arXiv 1409.4842); the step does what its `resized_crop` does, in a third of the time, which
    counts where pictures are small.
    """

    def __init__(self, recipe: Recipe, size: int, interpolations: Sequence[str]) -> None:
        high = max(recipe.max_scale, 1.0)  # of the picture with its border
        self._border = MirrorBorder((high**0.5 - 1) / 2) if high > 1 else None
        self._scale = [recipe.min_scale / high, recipe.max_scale / high]
        self._size = (size, size)
        self._flip = recipe.flip
        self._interpolations = [Image.Resampling[name.upper()] for name in interpolations]

    def __call__(self, image: Image.Image) -> Image.Image:
        """An RGB picture of any size to one of (size, size)."""
        if self._border:
            image = self._border(image)
        top, left, height, width = v2.RandomResizedCrop.get_params(image, self._scale, _RATIOS)
        box = (left, top, left + width, top + height)
        how = self._interpolations[_drawn(len(self._interpolations))]
        image = image.crop(box).resize(self._size, how)
        if self._flip and _drawn(2):
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image


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


def as_tensor(image: Image.Image) -> Tensor:
    """An RGB picture to uint8 (3, height, width), channels last in memory as networks take it."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _drawn(count: int) -> int:
    return int(torch.randint(count, ())) if count > 1 else 0


def _composed(steps: list[Callable[[Any], Any]]) -> View:
    view: View = v2.Compose(steps)
    return view
