"""Finer maps and the split attention: what they add up to, and what they are made of."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from resnest_cli import Classifier, load_model
from resnest_cli.catalog.variants import VARIANTS
from resnest_cli.engines.api import LOGITS, MAPS
from resnest_cli.explain.inside import FINER, Inside, layer_cam, shared_out
from resnest_cli.explain.maps import LastLayer, explain_class
from resnest_cli.model.checkpoint import Checkpoint
from tests.conftest import drawn


def explained(classifier, image, *pairs):
    layer = LastLayer.of(classifier.engine.weights, classifier.config.num_classes)
    ((_, (logits, maps)),) = classifier.outputs([image], (LOGITS, MAPS))
    return [explain_class(maps, logits, layer, *pair) for pair in pairs]


@pytest.fixture(scope="module")
def demo():
    classifier = Classifier("demo", engine="torch")
    return classifier, Inside(classifier)


def cells(fine):
    rows, columns = (side // FINER for side in fine.shape)
    return fine.reshape(rows, FINER, columns, FINER).mean((1, 3))


def test_a_finer_map_keeps_the_value_and_sign_of_each_cell(demo):
    classifier, inside = demo
    each = explained(classifier, drawn(), (3,), (5,), (3, 5))
    details = inside.detail(classifier.preprocessing.pixels(drawn()), each)
    for one, fine in zip(each, details, strict=True):
        assert fine.shape == (12, 12)
        np.testing.assert_allclose(cells(fine), one.values, atol=1e-5)
        assert fine.mean() + one.bias == pytest.approx(one.logit, abs=1e-4)
        assert ((fine >= 0) == (one.values >= 0).repeat(FINER, 0).repeat(FINER, 1))[fine != 0].all()
        assert fine.std() > one.values.std()


def test_layer_cam_is_that_of_torchcam():
    methods = pytest.importorskip("torchcam.methods")
    network = load_model("demo")
    x = torch.from_numpy(Classifier("demo", engine="torch").preprocessing(drawn()))[None]
    stages = network.stage_features(x)[1:]
    gradients = torch.autograd.grad(network.fc(stages[-1].mean((2, 3)))[0, 4], stages)
    for number, layer in enumerate(("layer2", "layer3", "layer4")):
        one = layer_cam([stages[number]], [gradients[number]], stages[number].shape[2:])
        network = load_model("demo")
        with methods.LayerCAM(network, layer) as cam:
            (theirs,) = cam(class_idx=4, scores=network(x), normalized=False)
        theirs = theirs[0].clamp(min=0)
        np.testing.assert_allclose(one.detach(), theirs / theirs.max(), atol=1e-5)


def test_what_has_no_proportions_is_shared_out_evenly():
    values = np.array([[2.0, -1.0]], np.float32)
    positive, negative = np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32)
    negative[0, 3] = 5
    fine = shared_out(values, positive, negative)
    assert fine.tolist() == [[2, 2, 0, -4], [2, 2, 0, 0]]


def test_weights_and_effects_are_those_of_the_blocks(demo):
    classifier, inside = demo
    pixels = classifier.preprocessing.pixels(drawn())
    logits, blocks = inside.attention(pixels)
    np.testing.assert_allclose(logits, classifier.engine.run(pixels[None])[0][0], atol=1e-4)
    x = torch.from_numpy(classifier.preprocessing(drawn()))[None]
    network = load_model("demo").requires_grad_(False)
    attentions = {n: m for n, m in network.named_modules() if n.endswith("conv2")}
    assert [b.block for b in blocks] == [name.removesuffix(".conv2") for name in attentions]
    for found, (name, module) in zip(blocks, attentions.items(), strict=True):
        seen = {}
        hooks = [
            module.register_forward_hook(lambda _, __, out, seen=seen: seen.update(out=out)),
            module.bn0.register_forward_hook(
                lambda _, __, out, seen=seen: seen.update(splits=out.relu())
            ),
        ]
        network(x)
        for hook in hooks:
            hook.remove()
        splits = seen["splits"][0].reshape(len(found.weights), -1, *seen["splits"].shape[2:])
        made = (splits * torch.from_numpy(found.weights)[:, :, None, None]).sum(0)
        np.testing.assert_allclose(made, seen["out"][0], atol=1e-5, err_msg=name)
        attention = module.attention
        module.attention = lambda given: torch.full_like(given, 1 / 2)
        np.testing.assert_allclose(network(x)[0], found.neutral, atol=1e-4)
        module.attention = attention
    assert any(np.abs(b.neutral - logits).max() > 0.1 for b in blocks)
    assert all(0 < b.entropy < 1 for b in blocks)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_weights_of_all_variants_add_up_to_one(variant, monkeypatch, demo):
    from resnest_cli.catalog.config import ModelConfig
    from resnest_cli.explain import inside

    few = (1, 1, 1, 2)  # blocks of the stages, to save time
    architecture = variant.architecture.__class__(
        **{**vars(variant.architecture), "blocks": few, "width": 0.25}
    )
    from resnest_cli.model.resnest import ResNeSt, initialise

    network = ResNeSt(architecture, num_classes=10)
    initialise(network, generator=torch.Generator().manual_seed(0))
    config = ModelConfig.of_variant(variant, num_classes=10)
    config = type(config)(**{**vars(config), "architecture": architecture})
    classifier, _ = demo
    made = Checkpoint(network.state_dict(), config, classifier.engine.weights)
    monkeypatch.setattr(inside, "load_checkpoint", lambda _: made)
    _, blocks = Inside(classifier).attention(classifier.preprocessing.pixels(drawn()))
    assert len(blocks) == sum(few)
    for block in blocks:
        assert len(block.weights) == architecture.radix
        if architecture.radix > 1:
            np.testing.assert_allclose(block.weights.sum(0), 1, atol=1e-6)
            assert 0 <= block.entropy <= 1 + 1e-6
        else:
            assert block.entropy is None
            assert ((block.weights > 0) & (block.weights < 1)).all()


def test_the_command_writes_both(run, drawn_image, tmp_path):
    done = run(
        "explain", drawn_image, "-m", "demo", "-o", "why", "--detail", "--attention",
        "--class", "dog", "--why-not", "cat", "--check",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "why/explain.jsonl").read_text())
    assert [b["block"] for b in row["attention"]][:2] == ["layer1.0", "layer2.0"]
    for block in row["attention"]:
        assert sum(block["weights"]) == pytest.approx(1, abs=1e-6)
        assert len(block["effect"]) == len(block["probability"]) == 1
    with np.load(tmp_path / "why" / row["maps"]) as found:
        np.testing.assert_allclose(cells(found["detail"][0]), found["map"][0], atol=1e-5)
        for block in row["attention"]:
            weights = found[f"attention.{block['block']}"]
            np.testing.assert_allclose(weights.mean(1), block["weights"], atol=1e-6)
        largest = float(np.abs(found["detail"]).max())
    assert row["scale"] == pytest.approx(largest, rel=0.5)
    with Image.open(tmp_path / "why" / row["attention_image"]) as chart:
        assert chart.height > 18 * len(row["attention"])
    again = run("explain", drawn_image, "-m", "demo", "-o", "why", "--resume", "--detail")
    assert "attention was True, now False" in again.stderr


def test_another_engine_is_refused_and_torch_is_taken(run, drawn_image, tmp_path):
    arguments = ("explain", drawn_image, "-m", "demo", "-o", "why", "--no-images")
    for option in ("--detail", "--attention"):
        done = run(*arguments, option, "--engine", "openvino")
        assert done.returncode == 2
        assert f"{option} needs --engine torch, not openvino" in done.stderr
    assert not (tmp_path / "why").exists()
    done = run(*arguments, "--detail", env={"RESNEST_ENGINE": "openvino"})
    assert done.returncode == 0, done.stderr
    info = json.loads((tmp_path / "why/explain.jsonl.run.json").read_text())
    assert "torch" in json.dumps(info)
