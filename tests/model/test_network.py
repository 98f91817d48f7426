"""The network against timm's and the authors' code, and against the paper's formulas."""

import dataclasses
import re

import pytest
import timm
import torch
from PIL import Image
from resnest import torch as authors
from torch import nn
from torch.nn import functional as F

from resnest_cli.catalog.variants import VARIANTS, Variant, get_variant
from resnest_cli.model.identify import infer_architecture
from resnest_cli.model.resnest import ResNeSt, shapes_only
from resnest_cli.model.split_attention import SplitAttention
from resnest_cli.model.surgery import fold_batch_norm
from tests.conftest import DATA, ROOT, drawn, lively

ids = [v.name for v in VARIANTS]


def peers(variant: Variant) -> dict[str, nn.Module]:
    """timm's network and the authors', where they have the variant."""
    found = {}
    if variant.alias:
        found["timm"] = timm.create_model(variant.alias)
    if hasattr(authors, variant.name):
        found["authors"] = getattr(authors, variant.name)(pretrained=False)
    return found


def image() -> Image.Image:
    path = DATA / "photos" / "dog.jpg"
    return Image.open(path if path.is_file() else ROOT / "examples" / "boat.jpg").convert("RGB")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", VARIANTS, ids=ids)
def test_logits_equal_the_peers(variant):
    torch.manual_seed(0)
    found = peers(variant)
    state = lively(next(iter(found.values()))).state_dict()
    ours = ResNeSt(variant.architecture).eval()
    ours.load_state_dict(state)
    x = torch.from_numpy(variant.preprocessing(image()))[None]
    with torch.inference_mode():
        logits = ours(x)
        assert logits.std() > 0.5  # the network is not degenerate
        for name, peer in found.items():
            peer.load_state_dict(state)
            reference = peer.eval()(x)
            drift = (logits - reference).abs().max() / reference.abs().max()
            assert drift <= 1e-5, f"{name}: {drift}"


def test_peers_cover_all_variants():
    assert sum(v.alias is not None for v in VARIANTS) == 8
    assert sum(hasattr(authors, v.name) for v in VARIANTS) == 11


@pytest.mark.parametrize("name", ["resnest14", "resnest50_fast_4s2x40d", "resnest50_fast_1s4x24d"])
def test_folding_batch_norm_changes_logits_by_rounding_only(name):
    torch.manual_seed(0)
    network = lively(ResNeSt(get_variant(name).architecture))
    x = torch.from_numpy(get_variant(name).preprocessing(drawn()))[None]
    with torch.inference_mode():
        before = network(x)
        fold_batch_norm(network)
        after = network(x)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert (before - after).abs().max() / before.abs().max() <= 1e-5


def naive_split_attention(block: SplitAttention, x: torch.Tensor) -> torch.Tensor:
    """Split attention group by group (cardinal-major), as the paper's figure draws it."""
    radix, groups = block.radix, block.cardinality
    width = x.shape[1] // groups  # channels of one cardinal group
    filters = block.conv.weight.unflatten(0, (radix, groups, width))
    bn0 = block.bn0.weight.unflatten(0, (radix, groups, width))
    fc1 = block.fc1.weight.unflatten(0, (groups, -1))
    fc2 = block.fc2.weight.unflatten(0, (groups, radix, width))
    bias1 = block.fc1.bias.unflatten(0, (groups, -1))
    bias2 = block.fc2.bias.unflatten(0, (groups, radix, width))
    out = []
    each = width // radix  # input channels of one filter
    for k in range(groups):
        splits = []
        for r in range(radix):
            # the grouped convolution deals its inputs out by (split, group), like its outputs
            start = (r * groups + k) * each
            u = F.conv2d(x[:, start : start + each], filters[r, k], padding=1)
            splits.append(F.relu(u / (1 + block.bn0.eps) ** 0.5 * bn0[r, k].view(-1, 1, 1)))
        pooled = sum(splits).mean((2, 3))
        hidden = pooled @ fc1[k][..., 0, 0].T + bias1[k]
        hidden = F.relu(hidden / (1 + block.bn1.eps) ** 0.5)
        logits = torch.stack([hidden @ fc2[k, r][..., 0, 0].T + bias2[k, r] for r in range(radix)])
        weights = logits.sigmoid() if radix == 1 else logits.softmax(0)
        out.append(sum(w[..., None, None] * s for w, s in zip(weights, splits, strict=True)))
    return torch.cat(out, 1)


@pytest.mark.parametrize("radix", [1, 2, 4])
@pytest.mark.parametrize("cardinality", [1, 2, 4])
def test_the_grouped_form_equals_a_loop_over_cardinal_groups(radix, cardinality):
    torch.manual_seed(0)
    block = SplitAttention(64, radix=radix, cardinality=cardinality).double().eval()
    nn.init.uniform_(block.bn0.weight, 0.5, 1.5)
    x = torch.randn(2, 64, 7, 9, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(block(x), naive_split_attention(block, x))


def test_attention_weights_of_the_splits_sum_to_one():
    block = SplitAttention(32, radix=4, cardinality=2)
    weights = block.attention(torch.randn(3, 128, 1, 1))
    torch.testing.assert_close(weights.unflatten(1, (4, 32)).sum(1), torch.ones(3, 32, 1, 1))


def test_features_classes_and_channels():
    architecture = get_variant("resnest14").architecture
    network = ResNeSt(architecture, num_classes=7, in_channels=5).eval()
    x = torch.randn(2, 5, 96, 64)
    with torch.inference_mode():
        assert [tuple(m.shape) for m in network.stage_features(x)] == [
            (2, 256, 24, 16),
            (2, 512, 12, 8),
            (2, 1024, 6, 4),
            (2, 2048, 3, 2),
        ]
        features = network.forward_features(x)
        pooled = network.pooled_features(x)
        torch.testing.assert_close(pooled, features.mean((2, 3)))
        torch.testing.assert_close(network(x), network.fc(pooled))
        assert network(x).shape == (2, 7)
        assert ResNeSt(architecture, num_classes=0).eval()(x[:, :3]).shape == (2, 2048)


def scaled(variant, width):
    """A variant of another width, and of two blocks a stage: the others are like the second."""
    architecture = dataclasses.replace(variant.architecture, width=width, blocks=(2, 2, 2, 2))
    return shapes_only(architecture, num_classes=10, in_channels=3)


@pytest.mark.parametrize("variant", VARIANTS, ids=ids)
def test_any_width_gives_a_network(variant):
    for width in (0.05, 0.1, 0.3, 0.4, 0.7, 0.95, 1.1, 2.95):
        assert scaled(variant, width).num_features >= 2048 * width * 0.9


@pytest.mark.parametrize("variant", VARIANTS, ids=ids)
@pytest.mark.parametrize("width", [0.25, 0.5, 1.5])
def test_a_width_scales_every_channel_count(variant, width):
    network, grouped = scaled(variant, width), variant.architecture.cardinality > 1
    if not grouped:  # with groups, channels are rounded to whole ones
        expected = dataclasses.replace(network.architecture, avd_first=False)
        assert infer_architecture(dict(network.state_dict())) == expected
    assert network.num_features == 2048 * width
    whole = dict(scaled(variant, 1.0).named_parameters())
    for name, parameter in network.named_parameters():
        if not name.startswith("fc.") and not re.search(r"conv2\.(fc1|bn1)", name):
            factor = parameter.shape[0] / whole[name].shape[0]  # attention keeps a minimum width
            assert abs(factor - width) <= (0.35 * width if grouped else 0), name


def test_gradients_reach_every_parameter():
    network = ResNeSt(get_variant("resnest50_fast_2s2x40d").architecture, num_classes=3)
    network(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
