"""The graph that is built for OpenVINO gives torch's outputs, for every variant."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from resnest_cli.catalog.config import ModelConfig
from resnest_cli.catalog.variants import VARIANTS
from resnest_cli.engines.api import OUTPUTS
from resnest_cli.engines.openvino.build import build_graph
from resnest_cli.engines.openvino.runtime import core
from resnest_cli.model.resnest import ResNeSt, initialise
from tests.conftest import drawn, lively

pytest.importorskip("openvino", reason="openvino is not installed (extra fast)")


def small(variant, blocks, *, width, crop):
    """A network of a variant's kind with random weights, none of them without effect."""
    view = variant.preprocessing.sized(crop, None)
    architecture = replace(variant.architecture, blocks=blocks, width=width)
    config = ModelConfig.of_variant(variant, num_classes=7)
    config = replace(config, architecture=architecture, preprocessing=view)
    return ResNeSt(architecture, num_classes=7).eval(), config


def outputs_of(network, config, pixels):
    """Every output of a network's graph, and torch's: logits, features, maps."""
    view = config.preprocessing
    graph = build_graph(network.state_dict(), config, OUTPUTS)
    batch = np.ascontiguousarray(view.normalise(pixels).transpose(0, 3, 1, 2))
    compiled = core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(batch)
    with torch.inference_mode():
        maps = network.forward_features(torch.from_numpy(batch))
        logits = network(torch.from_numpy(batch))
    expected = [t.numpy() for t in (logits, maps.mean((2, 3)), maps)]
    assert [port.get_any_name() for port in graph.outputs] == list(OUTPUTS)
    return [found[index] for index in range(3)], expected


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_every_variants_graph_gives_torchs_outputs(variant):
    """At an eighth of the width, and at a resolution that cannot be halved evenly."""
    network, config = small(variant, (1, 1, 2, 1), width=0.125, crop=90)
    pixels = np.stack([np.asarray(drawn(90, 90, seed=seed)) for seed in range(3)])
    for a, b in zip(*outputs_of(lively(network), config, pixels), strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_every_variants_whole_depth(variant):
    network, config = small(variant, variant.architecture.blocks, width=0.5, crop=90)
    generator = torch.Generator().manual_seed(0)
    initialise(network, generator=generator)
    for module in network.modules():  # tame, as rounding is chaos in so deep a lively network
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
        if getattr(module, "bias", None) is not None:
            module.bias.data.uniform_(-0.3, 0.3, generator=generator)
    pixels = np.stack([np.asarray(drawn(90, 90, seed=seed)) for seed in range(3)])
    for a, b in zip(*outputs_of(network, config, pixels), strict=True):
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()
