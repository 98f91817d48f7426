"""Preprocessing to the bit, against timm, torchvision and the formula."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from resnest_cli import Classifier
from resnest_cli.catalog.variants import VARIANTS, get_variant
from resnest_cli.errors import UsageError
from resnest_cli.imaging.preprocessing import PREPROCESSINGS, Preprocessing
from tests.conftest import drawn

SIZES = [(500, 375), (375, 500), (224, 224), (256, 256), (100, 80), (1000, 257), (33, 400)]
WITH_TIMM = [v for v in VARIANTS if v.alias]
# one variant of each preprocessing; on the photographs each sees every fifth, and together all
DISTINCT = list({v.preprocessing: v for v in WITH_TIMM}.values())


@pytest.fixture(scope="module")
def images():
    return [drawn(*size, seed=seed) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def photographs(photos):
    return [Image.open(path).convert("RGB") for path in photos]


def timm_transform(variant):
    config = timm.get_pretrained_cfg(variant.alias).to_dict()
    return timm.data.create_transform(**timm.data.resolve_data_config(config))


def hub_transform():
    return transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )


def paper(image, s):
    """facts: the centre square of short side x s / (s + 32), resized to s x s, bicubic."""
    width, height = image.size
    c = min(width, height) * s / (s + 32)
    left, top = round((width - c) / 2), round((height - c) / 2)
    box = (left, top, round(left + c), round(top + c))
    square = image.crop(box).resize((s, s), Image.Resampling.BICUBIC)
    to_tensor = transforms.Compose(hub_transform().transforms[2:])
    return to_tensor(square)


def equal(ours, reference):
    return np.array_equal(ours, np.asarray(reference))


@pytest.mark.parametrize("variant", WITH_TIMM, ids=lambda v: v.name)
def test_default_is_timms_on_drawn_images(variant, images):
    reference = timm_transform(variant)
    assert all(equal(variant.preprocessing(p), reference(p)) for p in images)


@pytest.mark.parametrize("number", range(len(DISTINCT)), ids=lambda n: DISTINCT[n].name)
def test_default_is_timms_on_photographs(number, photographs):
    variant = DISTINCT[number]
    reference = timm_transform(variant)
    for image in photographs[number :: len(DISTINCT)]:
        assert equal(variant.preprocessing(image), reference(image))


def test_hub_is_torchvisions_on_photographs(photographs):
    ours, reference = get_variant("resnest269").preprocessing.named("hub"), hub_transform()
    assert all(equal(ours(image), reference(image)) for image in photographs[::2])


@pytest.mark.parametrize("number", range(len(DISTINCT)), ids=lambda n: DISTINCT[n].name)
def test_paper_is_the_formula_on_photographs(number, photographs):
    ours = DISTINCT[number].preprocessing.named("paper")
    for image in photographs[number :: len(DISTINCT)]:
        assert equal(ours(image), paper(image, ours.crop))


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_the_torchvision_rendering_is_the_same_to_the_bit(name, images):
    for variant in (get_variant("resnest50"), get_variant("resnest200")):
        ours = variant.preprocessing.named(name)
        assert all(equal(ours(p), ours.as_torchvision()(p)) for p in images)


def test_hub_and_paper_on_drawn_images(images):
    variant = get_variant("resnest50")
    hub = variant.preprocessing.named("hub")
    assert all(equal(hub(p), hub_transform()(p)) for p in images)
    assert all(equal(variant.preprocessing.named("paper")(p), paper(p, 224)) for p in images)


@pytest.mark.parametrize("variant", WITH_TIMM, ids=lambda v: v.name)
def test_squash_is_timms_crop_mode(variant, images):
    config = timm.data.resolve_data_config(timm.get_pretrained_cfg(variant.alias).to_dict())
    for crop_pct, view in (
        (1.0, variant.preprocessing.named("squash")),
        (0.5, variant.preprocessing.named("squash").sized(None, 2 * variant.preprocessing.crop)),
    ):
        reference = timm.data.create_transform(
            **config | {"crop_pct": crop_pct, "crop_mode": "squash"}
        )
        assert all(equal(view(p), reference(p)) for p in images)


def test_early_checkpoints_do_not_tell_of_squash():
    stored_values = get_variant("resnest50").preprocessing.as_dict()
    del stored_values["squash"]
    assert Preprocessing.from_dict(stored_values) == get_variant("resnest50").preprocessing


@settings(max_examples=60, deadline=None)
@given(
    short=st.integers(1, 60),
    aspect=st.floats(17, 80),
    tall=st.booleans(),
    bicubic=st.booleans(),
    seed=st.integers(0, 99),
)
def test_strips_are_exact_though_most_of_them_is_never_computed(
    short, aspect, tall, bicubic, seed, request
):
    size = (short, int(short * aspect))
    preprocessing = Preprocessing("x", 224, 256, "bicubic" if bicubic else "bilinear")
    size = size if tall else size[::-1]
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    resized = preprocessing.resized_size(*size)
    assert max(resized) > 4096  # so the shortcut is taken
    mode = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    left, top = (round((length - 224) / 2) for length in resized)
    whole = image.resize(resized, mode).crop((left, top, left + 224, top + 224))
    assert equal(preprocessing.pixels(image), whole)


def test_a_strip_whose_resize_would_take_gigabytes():
    strip = Image.fromarray(np.tile(np.arange(60000)[None, :, None] % 251, (2, 1, 3)).astype("u1"))
    pixels = Preprocessing("x").pixels(strip)
    assert pixels.shape == (224, 224, 3)
    assert 0 < pixels.std() < 128


def test_normalisation_in_the_engine_is_the_same_to_the_bit(images):
    engine = Classifier("demo", engine="torch", device="cpu").engine
    preprocessing, seen = engine.config.preprocessing, []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].clone())
    )
    try:
        for image in images:
            del seen[:]
            engine.run(preprocessing.pixels(image)[None].copy())
            assert torch.equal(seen[0], torch.from_numpy(preprocessing(image)[None]))
    finally:
        hook.remove()


def test_names():
    with pytest.raises(UsageError, match="default, hub, paper, squash"):
        get_variant("resnest50").preprocessing.named("center")


def test_hub_resizes_first_whatever_the_default_is():
    paper = get_variant("resnest101").preprocessing.named("paper")
    assert paper.named("hub") == get_variant("resnest101").preprocessing.named("hub")


@pytest.mark.parametrize("name", ["hub", "paper", "squash"])
def test_a_name_means_the_same_whatever_the_default_is_called(name):
    own = get_variant("resnest50").preprocessing
    resized = own.named(name).sized(None, 400)
    assert resized.named("default") == resized
    assert resized.named(name) == own.named(name)


def test_another_resolution():
    """As timm's validation has it with --img-size and --crop-pct."""
    own = get_variant("resnest50").preprocessing
    assert own.sized(None, None) == own
    assert own.sized(288, None) == replace(own, crop=288, resize=329)  # 256 / 224
    assert own.sized(None, 224) == replace(own, resize=224)
    assert own.named("paper").sized(320, 352) == replace(own, crop=320).named("paper")
    assert own.named("paper").sized(320, None) == replace(own, crop=320).named("paper")
    wide = replace(own, crop=32, resize=96)
    assert wide.sized(1400, None).resize == 4096  # in the same ratio it would be 4200
    for crop, resize in ((31, None), (2049, None), (None, 223), (224, 4097), (0, None)):
        with pytest.raises(UsageError, match="pixels, not"):
            own.sized(crop, resize)


def test_sizes_that_nobody_asks_for_are_taken_as_they_are():
    """Checkpoints may say of themselves what users may not ask for."""
    own = get_variant("resnest50").preprocessing
    for crop, resize in ((12, 12), (24, 6000)):
        odd = replace(own, crop=crop, resize=resize)
        assert odd.sized(None, None) == odd


def test_dict_and_back():
    for variant in VARIANTS:
        for name in PREPROCESSINGS:
            ours = variant.preprocessing.named(name)
            assert Preprocessing.from_dict(ours.as_dict()) == ours


@pytest.mark.parametrize(
    "change",
    [
        {"crop": 0},
        {"resize": 10**9},
        {"interpolation": "lanczos"},
        {"std": (0, 1, 1)},
        {"mean": (0.5,)},
        {"crop": 300, "resize": 256},
    ],
)
def test_absurd_values_are_refused(change):
    with pytest.raises(ValueError, match=r"."):
        Preprocessing.from_dict(Preprocessing("x").as_dict() | change)
