"""A measured top-1 agrees with the published one or does not."""

import dataclasses

import numpy as np
import pytest

from resnest_cli.catalog.config import ModelConfig
from resnest_cli.catalog.labels import numbered
from resnest_cli.catalog.variants import get_variant
from resnest_cli.evaluation.metrics import Proportion, measure
from resnest_cli.evaluation.published import compare_with_published

CONFIG = ModelConfig.of_variant(get_variant("resnest50"))


@pytest.fixture(scope="module")
def measured():
    """Metrics of random logits on images of all 1000 classes."""
    rng = np.random.default_rng(0)
    return measure(rng.normal(size=(2000, 1000)).astype(np.float32), np.arange(2000) % 1000)


@pytest.mark.parametrize(
    ("top1", "images", "preprocess", "crop", "agrees"),
    [
        (0.8096, 50_000, "default", None, True),
        (0.8070, 50_000, "default", None, False),
        (0.8103, 50_000, "paper", None, True),
        (0.80, 2_000, "default", None, True),
        (0.70, 2_000, "default", None, False),
        (0.80, 50_000, "hub", None, None),
        (0.8096, 50_000, "default", 288, None),
    ],
)
def test_a_published_top1_is_reproduced_or_not(measured, top1, images, preprocess, crop, agrees):
    half = 1.96 * (top1 * (1 - top1) / images) ** 0.5
    interval = Proportion(top1, top1 - half, top1 + half)
    metrics = dataclasses.replace(measured, top1=interval, images=images)
    preprocessing = CONFIG.preprocessing.named(preprocess).sized(crop, None)
    config = dataclasses.replace(CONFIG, preprocessing=preprocessing)
    found = compare_with_published(config, metrics)
    assert found.agrees == agrees
    assert ("only for preprocessing 'default'" in found.reason) == (agrees is None)
    assert ("NOT" in found.reason) == (agrees is False)
    assert found.source == (
        None if agrees is None else {"paper": "the authors"}.get(preprocess, "timm")
    )


def test_other_networks_and_other_classes_are_not_compared(measured):
    assert get_variant("resnest50").top1_timm == 80.958
    for change in ({"name": "demo"}, {"labels": numbered(1000)}):
        assert not compare_with_published(dataclasses.replace(CONFIG, **change), measured)


def test_images_of_all_classes_are_needed():
    metrics = measure(np.eye(1000, dtype=np.float32)[:990], np.arange(990))
    found = compare_with_published(CONFIG, metrics)
    assert (found.agrees, found.published) == (None, None)
    assert found.reason == "not compared: 10 of ImageNet's 1,000 classes have no images"
