"""Checkpoints as they are found in the wild: read to the same network, or refused with a reason."""

import argparse
import datetime
import uuid
from decimal import Decimal
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from resnest_cli import load_model
from resnest_cli.catalog.config import ModelConfig
from resnest_cli.catalog.labels import Labels
from resnest_cli.catalog.variants import VARIANTS, get_variant
from resnest_cli.catalog.weights import resolve
from resnest_cli.errors import CheckpointError, UsageError
from resnest_cli.model.checkpoint import load_checkpoint, read_state, save_checkpoint
from resnest_cli.model.identify import fitting_variants, infer_architecture
from resnest_cli.model.resnest import ResNeSt


@pytest.fixture(scope="module")
def state(legacy_checkpoint):
    return torch.load(legacy_checkpoint, weights_only=True)


def logits(network):
    torch.manual_seed(1)
    with torch.inference_mode():
        return network(torch.randn(1, network.in_channels, 64, 64))


@pytest.fixture(scope="module")
def expected(state):
    network = timm.create_model("resnest14d").eval()
    network.load_state_dict(state)
    network.in_channels = 3
    return logits(network)


def load(path, model=None):
    return load_checkpoint(resolve(model, path))


def plain(state):
    return state


def lightning(state):
    return {"epoch": 3, "state_dict": {f"model.{k}": v for k, v in state.items()}}


def distributed(state):
    return {"model": {f"module.{k}": v for k, v in state.items()}, "args": argparse.Namespace(lr=1)}


def compiled_ema(state):
    old = {k: torch.zeros_like(v) for k, v in state.items()}
    return {"state_dict": old, "state_dict_ema": {f"_orig_mod.{k}": v for k, v in state.items()}}


def without_counters(state):
    return {k: v for k, v in state.items() if "num_batches_tracked" not in k}


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
@pytest.mark.parametrize("wrap", [plain, lightning, distributed, compiled_ema, without_counters])
def test_pth_files_of_both_formats_however_wrapped(state, expected, tmp_path, wrap, legacy):
    path = tmp_path / "resnest14.pth"
    torch.save(wrap(state), path, _use_new_zipfile_serialization=not legacy)
    assert torch.equal(logits(load_model(weights=path)), expected)


def test_safetensors(state, expected, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({k: v.clone() for k, v in state.items()}, path)
    assert torch.equal(logits(load_model("resnest14", weights=path)), expected)


def test_half_precision_weights_become_fp32(state, tmp_path):
    path = tmp_path / "half.pth"
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, path)
    assert load_model(weights=path).fc.weight.dtype == torch.float32


def test_our_own_checkpoint_describes_itself(legacy_checkpoint, state, expected, tmp_path):
    variant = get_variant("resnest14")
    labels = Labels(tuple(f"name {i}" for i in range(1000)))
    config = ModelConfig(
        "mine", variant.architecture, 1000, 3, variant.preprocessing.named("paper"), labels, "1.0"
    )
    path = tmp_path / "mine.safetensors"
    save_checkpoint(path, load(legacy_checkpoint).network(), config)
    loaded = load(path)
    assert loaded.config == config
    assert all(torch.equal(loaded.state[key], value) for key, value in state.items())
    # how tensors lie in memory decides in which order they are added up
    torch.testing.assert_close(logits(load_model(weights=path)), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(CheckpointError, match="holds mine, not resnest50; leave out `model`"):
        load(path, "resnest50")


@pytest.mark.parametrize("half", [False, True])
def test_weights_that_fp16_holds_exactly_are_stored_in_fp16(half, tmp_path):
    checkpoint = load_checkpoint(resolve("demo"))
    state = {k: v.half().float() if v.ndim > 1 else v for k, v in checkpoint.state.items()}
    state["fc.weight"] = state["fc.weight"] * 1.0001
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, checkpoint._replace(state=state).network(), checkpoint.config, half=half)
    stored = load_file(path)
    wide = {name for name, value in stored.items() if value.dtype == torch.float32}
    assert ("fc.weight" in wide) is not half
    assert "layer1.0.conv1.weight" not in wide
    assert {"fc.bias", "bn1.running_var"} <= wide
    again = load(path).state
    assert all(torch.equal(again[k], v) for k, v in state.items() if k != "fc.weight" or not half)
    torch.testing.assert_close(again["fc.weight"], state["fc.weight"], rtol=1e-3, atol=1e-6)


def test_loading_draws_no_random_number(legacy_checkpoint):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load_model("resnest14", weights=legacy_checkpoint)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_weights_the_network_is_random_and_alive():
    torch.manual_seed(0)
    first = logits(load_model("resnest14", pretrained=False, num_classes=4))
    second = logits(load_model("resnest14", pretrained=False, num_classes=4))
    assert first.shape == (1, 4)
    assert not torch.equal(first, second)
    assert first.isfinite().all()


def test_another_number_of_classes_and_channels(legacy_checkpoint, state):
    ten = load_model("resnest14", weights=legacy_checkpoint, num_classes=10)
    assert logits(ten).shape == (1, 10)
    assert torch.equal(ten.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])
    none = load_model("resnest14", weights=legacy_checkpoint, num_classes=0)
    assert logits(none).shape == (1, 2048)
    for channels in (1, 4):
        ours = load_model("resnest14", weights=legacy_checkpoint, in_channels=channels)
        theirs = timm.models.adapt_input_conv(channels, state["conv1.0.weight"])
        torch.testing.assert_close(ours.conv1[0].weight.data, theirs)


def test_a_checkpoint_of_other_classes_is_taken_unchanged(tmp_path):
    path = tmp_path / "five.pth"
    torch.save(timm.create_model("resnest14d", num_classes=5).state_dict(), path)
    loaded = load(path)
    assert (loaded.config.name, loaded.config.num_classes, loaded.config.labels) == (
        "resnest14",
        5,
        None,
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_variants_are_identified_by_their_shapes(variant):
    with torch.device("meta"):
        state = ResNeSt(variant.architecture).state_dict()
    assert variant in fitting_variants(state)
    found = infer_architecture(state)
    assert {v.name for v in fitting_variants(state)} <= {
        variant.name, "resnest50", "resnest50_fast_2s1x64d"
    }  # fmt: skip
    assert found.blocks == variant.architecture.blocks


def test_a_file_name_decides_between_variants_of_the_same_shapes(tmp_path, caplog):
    state = timm.create_model("resnest50d").state_dict()
    for name, expected in (
        ("resnest50_fast_2s1x64d-mine.pth", "resnest50_fast_2s1x64d"),
        ("resnest50-mine.pth", "resnest50"),
    ):
        torch.save(state, tmp_path / name)
        assert load(tmp_path / name).config.name == expected
    assert not caplog.messages
    torch.save(state, tmp_path / "mine.pth")
    assert load(tmp_path / "mine.pth").config.name == "resnest50"
    assert "resnest50_fast_2s1x64d has the same shapes" in caplog.text


def test_a_mismatch_says_what_differs_and_what_the_file_looks_like(legacy_checkpoint):
    with pytest.raises(CheckpointError) as caught:
        load_model("resnest101", weights=legacy_checkpoint)
    message = str(caught.value)
    assert "is missing" in message
    assert "looks like resnest14: use `model=resnest14`" in message
    assert message.count("\n") == 1


def test_a_different_shape_is_named(state, tmp_path):
    path = tmp_path / "odd.pth"
    torch.save(state | {"layer1.0.bn3.weight": torch.ones(3)}, path)
    with pytest.raises(CheckpointError, match=r"layer1\.0\.bn3\.weight is \(3,\), not \(256,\)"):
        load_model("resnest14", weights=path)


class RunsCode:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
def test_code_in_a_checkpoint_is_never_run(tmp_path, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": RunsCode()}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="could run code"):
        load_model("resnest14", weights=path)
    assert not Path("executed").exists()
    torch.load(path, weights_only=False)  # would have run it
    assert Path("executed").exists()


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut", "cut-safetensors", "other"])
def test_files_that_are_not_checkpoints_are_refused(kind, legacy_checkpoint, state, tmp_path):
    path = tmp_path / ("x.safetensors" if "safetensors" in kind else "x.pth")
    match = {
        "missing": "No such file",
        "empty": "is empty",
        "other": "does not hold a ResNeSt",
    }.get(kind)
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("I am not a checkpoint\n" * 9)
    elif kind == "cut":
        path.write_bytes(legacy_checkpoint.read_bytes()[:-100_000])
    elif kind == "cut-safetensors":
        save_file({k: v.clone() for k, v in state.items()}, path)
        path.write_bytes(path.read_bytes()[:-100_000])
    elif kind == "other":
        torch.save({"weight": torch.ones(3)}, path)
    with pytest.raises(CheckpointError, match=match):
        read_state(path)


@pytest.mark.parametrize(
    "config", ["[]", "{}", "not json", '{"format": 2}', '{"format": 1, "name": "x"}']
)
def test_an_absurd_config_is_refused(config, state, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({k: v.clone() for k, v in state.items()}, path, {"resnest": config})
    with pytest.raises(CheckpointError, match="config"):
        read_state(path)


@pytest.mark.parametrize(
    "odd",
    [
        torch.ones(()),
        torch.ones(32, 3, 3, 3).to_sparse(),
        torch.ones(32, 3, 3, 3, device="meta"),
    ],
    ids=["0-d", "sparse", "meta"],
)
@pytest.mark.filterwarnings("ignore")
def test_sparse_and_empty_tensors_are_refused(odd, state, tmp_path):
    path = tmp_path / "odd.pth"
    torch.save(state | {"conv1.0.weight": odd}, path)
    with pytest.raises(CheckpointError, match=r"odd\.pth"):
        load_model(weights=path)


def test_a_wrong_name_is_a_usage_error():
    with pytest.raises(UsageError):
        load_model("resnet50")


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_graphs_and_programs_are_not_checkpoints(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"\0anything")
    with pytest.raises(
        CheckpointError, match=r"holds a (graph|program), which .*\nuse the checkpoint"
    ):
        read_state(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_torch_file_named_safetensors(state, legacy, tmp_path):
    path = tmp_path / "x.safetensors"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    assert load_model(weights=path).fc.out_features == 1000


def test_plain_values_beside_the_weights(state, tmp_path):
    now = datetime.datetime.now(datetime.timezone.utc)
    beside = {"when": now, "kept": frozenset({1}), "cut": slice(1, 2), "rate": Decimal("0.1"),
              "run": uuid.uuid4(), "factor": 1j}  # fmt: skip
    torch.save({"state_dict": state, **beside}, tmp_path / "x.pth")
    assert load_model(weights=tmp_path / "x.pth").fc.out_features == 1000


def test_a_file_of_zeros_is_called_damaged(tmp_path):
    (tmp_path / "x.pth").write_bytes(bytes(10_000))
    with pytest.raises(CheckpointError, match=r"begins with zeros.*\ndownload it again"):
        load_model(weights=tmp_path / "x.pth")
