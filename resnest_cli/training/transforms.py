"""Training images on their way to the network: augmentation, and mixing within a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from resnest_cli.imaging.preprocessing import Preprocessing
from resnest_cli.training.recipe import Recipe

# RGB image of any size to crop x crop pixels, in a form that worker processes can be sent
ImageTransform = Callable[[Image.Image], Image.Image | NDArray[np.uint8]]

_POLICIES = {
    "randaugment": v2.RandAugment,
    "autoaugment": v2.AutoAugment,
    "trivial": v2.TrivialAugmentWide,
}


def train_transform(recipe: Recipe, preprocessing: Preprocessing) -> ImageTransform:
    """The transform of training images; its random numbers come from torch's generator."""
    if recipe.augment == "none":
        return preprocessing.pixels
    interpolation = v2.InterpolationMode(preprocessing.interpolation)
    scale = (recipe.min_scale, 1.0)
    steps = [v2.RandomResizedCrop(preprocessing.crop, scale=scale, interpolation=interpolation)]
    if recipe.flip:
        steps.append(v2.RandomHorizontalFlip())
    if policy := _POLICIES.get(recipe.augment):
        steps.append(policy(interpolation=v2.InterpolationMode.BILINEAR))
    composed: ImageTransform = v2.Compose(steps)
    return composed


class BatchMixer:
    """MixUp, CutMix, one of the two by chance, or neither, as a recipe says.

    Each image is mixed with its neighbour in the batch. Of several processes each mixes its own
    part of the batch, all with the same weights and rectangles.
    """

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        self.num_classes = num_classes
        self._mixers = [
            mixer(alpha=alpha, num_classes=num_classes)
            for mixer, alpha in ((v2.MixUp, recipe.mixup), (v2.CutMix, recipe.cutmix))
            if alpha > 0
        ]

    def __call__(self, pixels: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Pixels (N, 3, H, W) and class indices (N) to mixed pixels and targets (N, classes)."""
        if not self._mixers:
            return pixels, F.one_hot(labels, self.num_classes).float()
        with seeded(seed):
            drawn = int(torch.randint(len(self._mixers), ()))
            mixed, targets = self._mixers[drawn](pixels, labels)
        return mixed.contiguous(memory_format=torch.channels_last), targets


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it torch's CPU generator starts from a seed; afterwards it is as it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def mix_seed(*numbers: int) -> int:
    """One seed from several whole numbers, so that neighbouring ones have nothing in common."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
