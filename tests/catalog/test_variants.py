"""The table of published variants against the networks, timm and the bundled checkpoint."""

import pytest
import torch
from torch import nn

from resnest_cli import load_model
from resnest_cli.catalog.variants import VARIANTS, get_variant, list_models
from resnest_cli.catalog.weights import model_infos, resolve
from resnest_cli.errors import UsageError
from resnest_cli.model.checkpoint import load_checkpoint
from resnest_cli.model.resnest import ResNeSt


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_networks_have_the_published_number_of_parameters(variant):
    with torch.device("meta"):
        network = ResNeSt(variant.architecture)
    assert sum(p.numel() for p in network.parameters()) == variant.params


def test_names_and_aliases_find_the_same_variant():
    assert get_variant("resnest50d") is get_variant("resnest50")


def test_patterns():
    assert len(list_models()) == 14
    assert list_models()[-1] == "demo"
    assert list_models("fast_1s") == [n for n in list_models() if "fast_1s" in n]
    assert list_models("*101e") == ["resnest101"]
    assert list_models("resnest?4") == ["resnest14"]
    assert list_models("nothing") == []


def test_a_wrong_name_offers_the_nearest():
    with pytest.raises(UsageError, match="did you mean resnest50"):
        get_variant("resnet50")


def test_file_names_are_those_of_the_published_files():
    assert get_variant("resnest50").file_name == "resnest50-528c19ca.pth"
    assert get_variant("resnest14").file_name == "gluon_resnest14-9c8fe254.pth"


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.alias], ids=lambda v: v.name)
def test_crops_are_timms(variant):
    import timm

    config = timm.create_model(variant.alias, pretrained=False).pretrained_cfg
    assert variant.preprocessing.crop == config["input_size"][1]
    assert variant.preprocessing.interpolation == config["interpolation"]
    assert variant.preprocessing.resize == int(config["input_size"][1] / config["crop_pct"])


def test_the_demo_is_listed_as_it_is():
    (info,) = model_infos("demo")
    checkpoint, network = load_checkpoint(resolve("demo")), load_model("demo")
    view = checkpoint.config.preprocessing
    assert (info.crop, info.resize, info.interpolation) == (
        view.crop, view.resize, view.interpolation,
    )  # fmt: skip
    assert info.params == sum(p.numel() for p in network.parameters())
    assert info.bytes == checkpoint.weights.path.stat().st_size
    assert info.cached
    counts = []

    def count(module, _, out):
        counts.append(out.numel() * module.weight[0].numel())

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    network(torch.zeros(1, 3, view.crop, view.crop))
    assert info.gmacs == round(sum(counts) / 1e9, 2)
