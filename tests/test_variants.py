import pytest
import torch

from resnest_cli.errors import UsageError
from resnest_cli.model.resnest import ResNeSt
from resnest_cli.variants import VARIANTS, get_variant, list_models


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_networks_have_the_published_number_of_parameters(variant):
    with torch.device("meta"):
        network = ResNeSt(variant.architecture)
    assert sum(p.numel() for p in network.parameters()) == variant.params


def test_names_and_aliases_find_the_same_variant():
    assert get_variant("resnest50d") is get_variant("resnest50")
    assert len(list_models()) == 13
    assert list_models("fast_1s") == [n for n in list_models() if "fast_1s" in n]
    assert list_models("*101e") == ["resnest101"]
    assert list_models("nothing") == []


def test_a_wrong_name_is_told_the_nearest():
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
