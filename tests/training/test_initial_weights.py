"""The networks that training starts from."""

import timm
import torch

from resnest_cli.model.checkpoint import load_model
from resnest_cli.training.initial_weights import InitialWeights
from resnest_cli.training.recipe import Recipe

DEMO = Recipe(model="demo")


def test_residual_blocks_start_as_identity_mappings():
    """As in timm, so that deep networks learn from the first step on."""
    options = Recipe(model="resnest26", scratch=True, width=0.25)
    network, config = InitialWeights.load(options).network(("a", "b"), Recipe())
    assert (config.name, config.num_classes) == ("resnest26-w0.25", 2)
    theirs = timm.create_model("resnest26d").state_dict()
    for name, parameter in network.state_dict().items():
        if name.endswith("bn3.weight"):
            assert not parameter.any()
            assert not theirs[name].any()


def test_weights_are_those_of_the_model():
    initial = InitialWeights.load(DEMO)
    assert initial.origin == "demo"
    classes = initial.config.labels.names
    network, _ = initial.network(classes, Recipe())
    for name, value in load_model("demo").state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_other_classes_get_a_random_head_that_follows_from_the_seed():
    initial, before = InitialWeights.load(DEMO), torch.get_rng_state()
    first, again, other = (
        initial.network(("a", "b"), Recipe(seed=seed))[0].state_dict() for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert first["fc.weight"].shape[0] == 2
    for name, value in first.items():
        assert torch.equal(again[name], value)
        assert torch.equal(other[name], value) == (name != "fc.weight"), name


def test_a_network_trains_on_copies_of_the_weights():
    initial = InitialWeights.load(DEMO)
    first, _ = initial.network(("a", "b"), Recipe())
    first.conv1[0].weight.data.zero_()
    second, _ = initial.network(("a", "b"), Recipe())
    assert second.conv1[0].weight.any()


def test_the_input_resolution_can_be_chosen():
    config = InitialWeights.load(Recipe(model="demo", crop=64, resize=70)).config
    assert (config.preprocessing.crop, config.preprocessing.resize) == (64, 70)
