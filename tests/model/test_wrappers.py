"""Whatever scripts put around and beside a network's tensors, its own are found, or none."""

import argparse
import datetime
import pathlib
import re
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from resnest_cli.catalog.variants import Architecture
from resnest_cli.errors import CheckpointError
from resnest_cli.model.checkpoint import read_state
from resnest_cli.model.resnest import ResNeSt, initialise
from resnest_cli.model.wrappers import network_tensors

PATH = pathlib.Path("x.pth")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = ResNeSt(Architecture((1, 1, 1, 1), width=0.125), num_classes=3)
    initialise(network)
    return network.eval()


@pytest.fixture(scope="module")
def state(network):
    return network.state_dict()


def other(state):
    return {name: tensor + 1 for name, tensor in state.items()}


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def is_state(found, state):
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    "keys", ["model_state_dict", "net", "ema.module", "weights", "a.b.c", "2", "модель", ""]
)
@pytest.mark.parametrize("prefix", ["", "net.", "module.", "model.backbone.0.", "module.model."])
def test_any_key_and_any_prefix(keys, prefix, state, caplog):
    values = prefixed(prefix, state)
    for key in reversed(keys.split(".") if keys else ()):
        values = [None, "x", values] if key == "2" else {"epoch": 3, "optimizer": {}, key: values}
    is_state(network_tensors(values, PATH), state)
    assert not caplog.messages


@pytest.mark.parametrize(
    "inserted", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]
)
def test_names_that_torch_inserts(inserted, state, caplog):
    within = {name.replace("layer1.0.", f"layer1.0.{inserted}."): t for name, t in state.items()}
    is_state(network_tensors(prefixed(f"{inserted}.module.", within), PATH), state)
    assert not caplog.messages


def test_what_torch_itself_writes(network, state, caplog):
    is_state(network_tensors(AveragedModel(network).state_dict(), PATH), state)
    is_state(network_tensors(torch.compile(network).state_dict(), PATH), state)
    is_state(network_tensors(torch.nn.DataParallel(network).state_dict(), PATH), state)
    assert not caplog.messages


def test_deepspeed(state, caplog):
    shapes = [OrderedDict((name, tensor.shape) for name, tensor in state.items())]
    values = {"module": state, "buffer_names": [*state], "param_shapes": shapes, "dp_world_size": 2}
    is_state(network_tensors(values, PATH), state)
    assert not caplog.messages


def test_tensors_beside_the_network_are_left_out_by_name(state, caplog):
    beside = {"criterion.weight": torch.ones(3), "projector.0.weight": torch.ones(4, 256)}
    for prefix in ("", "model."):
        caplog.clear()
        is_state(network_tensors({"state_dict": prefixed(prefix, state) | beside}, PATH), state)
        assert caplog.messages == [
            "'x.pth': left out, as not part of the network: 'criterion.weight', "
            "'projector.0.weight'"
        ]


def test_an_unknown_tensor_inside_the_network_is_not_left_out(state):
    found = network_tensors(state | {"layer1.0.extra.weight": torch.ones(1)}, PATH)
    assert "layer1.0.extra.weight" in found


@pytest.mark.parametrize(
    ("averaged", "raw"),
    [
        ("model_ema", "model"),
        ("state_dict_ema", "state_dict"),
        ("ema", "net"),
        ("swa_model", "student"),
        ("ema_0.999", "teacher"),
        ("state_dict", "model"),
        ("model", "best"),
    ],
)
def test_of_several_networks_one_is_used_and_named(averaged, raw, state, caplog):
    together = prefixed(f"{raw}.", other(state)) | prefixed(f"{averaged}.", state)
    for values in ({raw: other(state), averaged: state}, {"checkpoint": together}):
        caplog.clear()
        is_state(network_tensors(values, PATH), state)
        assert re.search(f"several networks: '.*{averaged}' is used, not '.*{raw}'", caplog.text)


@pytest.mark.parametrize(("first", "second"), [("student", "teacher"), ("ema_0.9", "ema_0.99")])
def test_which_of_two_is_meant_is_not_guessed(first, second, state):
    with pytest.raises(CheckpointError, match=f"several networks: '{first}', '{second}'\nsave the"):
        network_tensors({first: state, second: other(state)}, PATH)


def test_what_an_optimizer_keeps_is_no_network(state, caplog):
    values = {"net": state, "optimizer": {"exp_avg": other(state), "ema": other(state)}}
    is_state(network_tensors(values, PATH), state)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("prefix", "head"),
    [
        ("", "classifier"),
        ("", "fc.1"),
        ("backbone.", "head.fc"),
        ("model.backbone.", "model.head"),
        ("0.model.", "1.2"),
        ("net.", "net.last_linear"),
    ],
)
def test_a_last_layer_of_another_name(prefix, head, state, caplog):
    values = {
        name.replace("fc.", f"{head}.") if name.startswith("fc.") else prefix + name: tensor
        for name, tensor in state.items()
    }
    values["criterion.weight"] = torch.ones(3)
    is_state(network_tensors(values, PATH), state)
    assert f"'{head}' is taken for the last layer" in caplog.text


@pytest.mark.parametrize(
    "layers",
    [
        {"head.0.weight": (64, 256), "head.3.weight": (3, 64)},
        {"head.norm.weight": (256,), "head.fc.weight": (3, 256)},
        {"colour.weight": (3, 256), "shape.weight": (4, 256)},
        {"head.weight": (3, 128)},
    ],
    ids=["two layers", "norm", "two heads", "other features"],
)
def test_a_last_layer_of_another_kind_is_left_out(layers, state, caplog):
    backbone = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    found = network_tensors(backbone | {n: torch.ones(s) for n, s in layers.items()}, PATH)
    is_state(found, backbone)
    assert all(name in caplog.text for name in layers)


def test_the_names_of_mmpretrain(state):
    theirs = {}
    for name, tensor in state.items():
        name = re.sub(r"^conv1\.", "stem.", name)
        name = re.sub(r"^bn1\.", "stem.7.", name)
        name = name.replace("layer1.0.downsample.1", "layer1.0.downsample.0")
        name = name.replace("layer1.0.downsample.2", "layer1.0.downsample.1")
        theirs[f"head.{name}" if name.startswith("fc.") else f"backbone.{name}"] = tensor
    is_state(network_tensors({"meta": {}, "state_dict": theirs}, PATH), state)


def test_containers_that_hold_themselves_or_are_deep(state):
    loop = {"state": state, "list": []}
    loop["loop"] = loop
    loop["list"].extend([loop["list"]] * 1000)
    is_state(network_tensors(loop, PATH), state)
    deep = state
    for _ in range(5000):
        deep = {"model": deep}
    with pytest.raises(CheckpointError, match="does not hold a ResNeSt, but no tensors"):
        network_tensors(deep, PATH)


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
def test_data_beside_the_weights(legacy, state, tmp_path, caplog):
    values = {
        "model": state,
        "acc": np.float64(91.2),
        "best": np.float32(1.5),
        "confusion": np.eye(3),
        "epoch": np.int64(3),
        "args": argparse.Namespace(lr=0.1, output=pathlib.PurePosixPath("a/b")),
        "output": pathlib.Path("a"),
        "when": datetime.datetime(2026, 1, 1),
        "history": defaultdict(list, loss=[0.5, np.float32(0.1)]),
        "last": deque([1, 2], maxlen=9),
        "counts": Counter("aab"),
        "random": np.random.RandomState(0).get_state(),
    }
    path = tmp_path / "x.pth"
    torch.save(values, path, _use_new_zipfile_serialization=not legacy)
    is_state(read_state(path)[0], state)
    assert not caplog.messages


def test_half_precision(state, tmp_path):
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        torch.save({n: t.to(kind) for n, t in state.items()}, tmp_path / "x.pth")
        found = read_state(tmp_path / "x.pth")[0]
        assert found["fc.weight"].dtype == torch.float32
        torch.testing.assert_close(found["fc.weight"], state["fc.weight"], rtol=0.01, atol=1e-3)


def test_integer_weights_are_refused(state, tmp_path):
    harmed = state | {"layer1.0.conv1.weight": state["layer1.0.conv1.weight"].to(torch.int8)}
    torch.save(harmed, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1\.weight is int8\nuse the check"):
        read_state(tmp_path / "x.pth")
