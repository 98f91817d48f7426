"""Augmentation of training images, and mixing within a batch."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from resnest_cli.imaging.preprocessing import Preprocessing
from resnest_cli.training.recipe import AUGMENTATIONS, Recipe
from resnest_cli.training.transforms import BatchMixer, mix_seed, seeded, train_transform
from tests.conftest import drawn

VIEW = Preprocessing("default", crop=32, resize=32)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_transforms_give_pixels_and_can_be_sent_to_workers(augment):
    """Where processes are not forked, as on macOS and Windows, all of it is pickled."""
    transform = train_transform(Recipe(augment=augment), VIEW)
    again = pickle.loads(pickle.dumps(transform))
    image, found = drawn(50, 40), []
    for seed in range(8):
        with seeded(seed):
            found.append(np.asarray(transform(image)))
        with seeded(seed):
            assert np.array_equal(again(image), found[-1])
        assert (found[-1].dtype, found[-1].shape) == (np.uint8, (32, 32, 3))
    distinct = {pixels.tobytes() for pixels in found}
    assert len(distinct) == (1 if augment == "none" else 8)


def test_light_augmentation_crops_and_flips():
    """With min_scale 1 the whole of a square image is left, flipped or not."""
    image = drawn(48, 48)
    whole = np.asarray(image.resize((32, 32), 2))
    for flip, expected in ((True, {0, 1}), (False, {0})):
        transform = train_transform(Recipe(augment="light", min_scale=1.0, flip=flip), VIEW)
        flipped = set()
        for seed in range(12):
            with seeded(seed):
                pixels = np.asarray(transform(image))
            (number,) = [n for n in (0, 1) if np.array_equal(pixels, whole[:, :: 1 - 2 * n])]
            flipped.add(number)
        assert flipped == expected


def test_min_scale_bounds_the_area_of_crops():
    """A pixel's value is its column, so the width of a crop is the range of its values."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    image = Image.fromarray(np.ascontiguousarray(ramp))
    for least in (0.5, 0.08):
        transform = train_transform(Recipe(augment="light", min_scale=least), VIEW)
        spans = []
        for seed in range(40):
            with seeded(seed):
                pixels = np.asarray(transform(image)).astype(int)
            spans.append((pixels.max() - pixels.min()) / 255)
        smallest = (least * 3 / 4) ** 0.5  # of the smallest area the narrowest shape
        assert smallest * 0.9 < min(spans) < smallest * 1.7


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_blends_neighbours_in_the_proportion_of_their_targets(kind):
    mixer = BatchMixer(Recipe(**{"mixup": 0.0, kind: 1.0}), 8)
    generator = torch.Generator().manual_seed(0)
    pixels, labels = torch.rand(8, 3, 10, 12, generator=generator), torch.arange(8)
    before, untouched = torch.get_rng_state(), pixels.clone()
    for seed in range(5):
        mixed, targets = mixer(pixels, labels, seed)
        again, _ = mixer(pixels, labels, seed)
        assert torch.equal(mixed, again)
        assert torch.allclose(targets.sum(1), torch.ones(8))
        weight = float(targets[0, 0])  # of the image itself; the rest is its neighbour's
        assert float(targets[0].sum() - targets[0, 0]) == pytest.approx(1 - weight, abs=1e-6)
        neighbour = int(targets[0, 1:].argmax()) + 1
        if kind == "cutmix":
            kept = (mixed[0] == pixels[0]).all(0).float().mean()
            assert float(kept) == pytest.approx(weight, abs=1e-6)
        else:
            blend = weight * pixels[0] + (1 - weight) * pixels[neighbour]
            assert torch.allclose(mixed[0], blend, atol=1e-6)
    assert torch.equal(pixels, untouched)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(mixed, mixer(pixels, labels, 99)[0])


def test_processes_mix_their_parts_of_a_batch_with_the_same_weights():
    mixer = BatchMixer(Recipe(mixup=1.0), 4)
    pixels, labels = torch.rand(8, 3, 4, 4), torch.arange(8) % 4
    parts = [mixer(pixels[half], labels[half], 5)[1] for half in (slice(4), slice(4, 8))]
    assert torch.equal(parts[0], parts[1])


def test_with_both_each_step_draws_one():
    mixer = BatchMixer(Recipe(mixup=1.0, cutmix=1.0), 4)
    pixels, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    blended = {bool((mixer(pixels, labels, seed)[0] != pixels).all()) for seed in range(20)}
    assert blended == {True, False}


def test_without_mixing_targets_are_the_labels():
    pixels, labels = torch.rand(3, 3, 4, 4), torch.tensor([2, 0, 1])
    mixed, targets = BatchMixer(Recipe(mixup=0.0), 3)(pixels, labels, 0)
    assert mixed is pixels
    assert torch.equal(targets, torch.eye(3)[labels])


def test_seeds_of_neighbours_have_nothing_in_common():
    seeds = {mix_seed(seed, place) for seed in range(20) for place in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mix_seed(1, 2) == mix_seed(1, 2) != mix_seed(1, 2, 1)
