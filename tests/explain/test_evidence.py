"""What maps are worth: exact for each variant and engine, in the right place, and learned."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from resnest_cli import Classifier, load_model
from resnest_cli.catalog.config import ModelConfig
from resnest_cli.catalog.demo import bundled
from resnest_cli.catalog.variants import VARIANTS
from resnest_cli.engines.api import LOGITS, MAPS
from resnest_cli.explain.check import check
from resnest_cli.explain.maps import LastLayer, explain_class
from resnest_cli.model.checkpoint import save_checkpoint
from resnest_cli.model.resnest import ResNeSt, initialise
from tests.conftest import drawn, lively

BUNDLED = {"aeroplane": 0, "car": 1, "boat": 8}  # images of the package, and their classes


def each_class(classifier, image):
    layer = LastLayer.of(classifier.engine.weights, classifier.config.num_classes)
    ((_, (logits, maps)),) = classifier.outputs([image], (LOGITS, MAPS))
    return [explain_class(maps, logits, layer, index) for index in range(len(logits))]


@pytest.mark.parametrize("engine", ["torch", "openvino"])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_maps_of_each_variant_add_up(variant, engine, tmp_path):
    """Narrower and with fewer blocks than published, to save time: `benchmarks/explain.py`."""
    if engine == "openvino":
        pytest.importorskip("openvino")
    small = replace(variant.architecture, blocks=(1, 1, 1, 1), width=0.25)
    config = replace(ModelConfig.of_variant(variant), architecture=small)
    view = variant.preprocessing.sized(64, None)
    config = replace(config, preprocessing=view)
    torch.manual_seed(0)
    network = lively(ResNeSt(small))
    save_checkpoint(tmp_path / "w.safetensors", network, config)
    each = each_class(Classifier(weights=tmp_path / "w.safetensors", engine=engine), drawn())
    assert len(each) == 1000
    assert max(abs(e.evidence + e.bias - e.logit) for e in each) < 1e-4
    assert max(abs(e.logit) for e in each) > 1


@pytest.fixture(scope="module")
def photographs():
    found = []
    for name, index in BUNDLED.items():
        with Image.open(bundled(f"examples/{name}.jpg")) as image:
            found.append((index, image.convert("RGB").resize((96, 96))))
    return found


def collages(photographs):
    """Each object in each quarter, the other two in the rest: its class, the image, the place."""
    for place in range(4):
        for number, (index, image) in enumerate(photographs):
            others = [other for i, (_, other) in enumerate(photographs) if i != number]
            parts = [*others, others[place % 2].transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
            parts.insert(place, image)
            whole = Image.new("RGB", (192, 192))
            for at, part in enumerate(parts):
                whole.paste(part, (at % 2 * 96, at // 2 * 96))
            yield index, whole, place


def test_evidence_is_in_the_right_quarter_and_hiding_it_harms_more_than_chance(photographs):
    classifier = Classifier("demo", engine="torch", preprocess="squash", crop=192)
    shares, harms = [], []
    for index, whole, place in collages(photographs):
        e = each_class(classifier, whole)[index]
        positive = np.maximum(e.values, 0)
        top, left = place // 2 * 3, place % 2 * 3
        shares.append(positive[top : top + 3, left : left + 3].sum() / positive.sum())
        found = check(classifier.engine, classifier.preprocessing.pixels(whole), e)
        harms.append(found["marked_hidden"] < found["random_hidden_mean"])
    assert np.mean(shares) > 0.5, "chance: 0.25"
    assert sum(share > 0.25 for share in shares) >= 11, "of 12"
    assert sum(harms) >= 10, "of 12: by chance in 2 % of cases"


def test_maps_depend_on_what_was_learned(photographs):
    """Adebayo et al., arXiv 1810.03292: with weights drawn again, maps are others."""
    view = Classifier("demo", engine="torch", crop=192).preprocessing
    x = torch.from_numpy(np.stack([view(image) for _, image in photographs]))

    @torch.no_grad()
    def maps(network):
        weight = network.fc.weight[[index for index, _ in photographs]]
        return torch.einsum("nc,nchw->nhw", weight, network.forward_features(x)).numpy()

    def correlation(one, other):
        ranks = [values.argsort(axis=None).argsort() for values in (one, other)]
        return np.corrcoef(*ranks)[0, 1]

    trained, found = maps(load_model("demo")), []
    for seed in range(4):
        network = load_model("demo")
        fresh = ResNeSt(network.architecture, num_classes=10)
        initialise(fresh, generator=torch.Generator().manual_seed(seed))
        for part in ("fc", "layer4", "layer3"):
            network.get_submodule(part).load_state_dict(fresh.get_submodule(part).state_dict())
        found += map(correlation, trained, maps(network.eval()))
    assert abs(np.mean(found)) < 0.3
