"""The networks that a training begins with."""

import pytest
import timm
import torch

from resnest_cli.errors import UsageError
from resnest_cli.model.load import load_state
from resnest_cli.training.network import NetworkOptions
from resnest_cli.training.recipe import Recipe


def test_blocks_begin_as_their_shortcuts():
    """Which is as in timm, and so that deep networks learn from the first step on."""
    recipe = Recipe()
    wanted = NetworkOptions("resnest26", scratch=True, width=0.25)
    network, _ = wanted.begin().network(("a", "b"), recipe)
    theirs = timm.create_model("resnest26d").state_dict()
    for name, parameter in network.state_dict().items():
        if name.endswith("bn3.weight"):
            assert not parameter.any()
            assert not theirs[name].any()


def test_blocks_that_would_learn_nothing_are_refused():
    with pytest.raises(UsageError, match="leave out one"):
        NetworkOptions("demo", blocks="2,2,3,2").begin(freeze=True)


def test_the_blocks_that_are_there_change_no_name():
    _, card = NetworkOptions("demo", blocks="1,2,3,1").begin().network(("a", "b"), Recipe())
    assert card.name == "demo"


@pytest.mark.parametrize("classes", [None, ("a", "b")])
def test_further_blocks_change_no_answer_at_first(classes):
    """Nor do they stay as they are: all of them get a gradient in the first step."""
    demo = load_state("demo")
    classes = classes or demo.card.labels.names
    pixels = torch.rand(4, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    before, _ = NetworkOptions("demo").begin().network(classes, Recipe())
    after, card = NetworkOptions("demo", blocks="2,3,5,2").begin().network(classes, Recipe())
    assert (card.name, card.architecture.blocks) == ("demo-b2.3.5.2", (2, 3, 5, 2))
    with torch.inference_mode():
        assert torch.equal(before.float()(pixels), after.float()(pixels))
    after.train()(pixels).square().sum().backward()
    new = after.state_dict().keys() - before.state_dict().keys()
    gammas = [after.get_parameter(name) for name in new if name.endswith("bn3.weight")]
    assert gammas
    assert all(gamma.grad.any() for gamma in gammas)
