"""Checkpoints from strangers: refused with a reason, in bounded time and memory."""

import json
import random
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from resnest_cli.catalog.config import METADATA_KEY, ModelConfig
from resnest_cli.catalog.variants import Architecture, get_variant
from resnest_cli.catalog.weights import resolve
from resnest_cli.errors import CheckpointError, ResNeStError
from resnest_cli.model.checkpoint import load_checkpoint, save_checkpoint
from resnest_cli.model.resnest import ResNeSt, initialise
from tests.conftest import ROOT

LONGEST, MEGABYTES = 10.0, 500  # seconds; memory in addition to twice the file


def load(path, model=None):
    return load_checkpoint(resolve(model, path))


def megabytes(*, reset=False):
    """The peak of this process's memory so far, or since it was reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


@pytest.fixture(scope="module")
def small():
    """A tiny network and its config."""
    config = ModelConfig.of_variant(get_variant("resnest14"), num_classes=3)
    architecture = Architecture((1, 1, 1, 1), width=0.125)
    config = ModelConfig.from_json(
        json.dumps(json.loads(config.to_json()) | {"architecture": vars(architecture)})
    )
    torch.manual_seed(0)
    network = ResNeSt(architecture, num_classes=3)
    initialise(network)
    return network.eval(), config


@pytest.fixture(scope="module")
def files(small, tmp_path_factory):
    """A valid checkpoint in each format."""
    folder = tmp_path_factory.mktemp("valid")
    network, config = small
    made = folder / "safe.safetensors"
    save_checkpoint(made, network, config)
    torch.save(network.state_dict(), folder / "zip.pth")
    torch.save(network.state_dict(), folder / "legacy.pth", _use_new_zipfile_serialization=False)
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["safe.safetensors", "zip.pth", "legacy.pth"])
@pytest.mark.parametrize("mutations", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutations_give_a_network_or_a_reason(name, mutations, files, tmp_path):
    whole, rng = files[name].read_bytes(), random.Random(name)
    path = tmp_path / name
    before = megabytes(reset=True)
    refused = 0
    for _ in range(mutations):
        content = bytearray(whole)
        edge = rng.choice((64, 4096, len(content) // 2))
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(edge)
            content[at if rng.random() < 0.5 else -1 - at] = rng.randrange(256)
        path.write_bytes(content)
        start = time.monotonic()
        try:
            load(path).network()
        except ResNeStError as error:
            assert str(error).count("\n") <= 1  # noqa: PT017
            refused += 1
        assert time.monotonic() - start < LONGEST
    assert refused  # or nothing that matters was hit
    assert megabytes() - before < 2 * len(whole) / 1e6 + MEGABYTES


def refused(path, words):
    """Loading ends with a reason, soon, and without much memory."""
    before, start = megabytes(reset=True), time.monotonic()
    with pytest.raises(CheckpointError, match=words) as caught:
        load(path, "resnest14")
    assert str(caught.value).count("\n") <= 1
    assert time.monotonic() - start < LONGEST
    assert megabytes() - before < 2 * path.stat().st_size / 1e6 + MEGABYTES


def test_a_zip_that_unpacks_to_more_than_memory_holds(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("archive/data.pkl", "w", force_zip64=True) as entry:
            for _ in range(1000):
                entry.write(bytes(2**20))
        archive.writestr("archive/version", "3")
    assert path.stat().st_size < 10e6
    refused(path, "compressed")


def test_entries_that_lie_over_one_another(tmp_path):
    """Many stored entries may share the same bytes of the file, too."""
    path = tmp_path / "overlap.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(2**20))
        first = archive.infolist()[0]
        for number in range(50):
            again = zipfile.ZipInfo(f"archive/data/{number}")
            for field in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
                setattr(again, field, getattr(first, field))
            archive.filelist.append(again)
            archive.NameToInfo[again.filename] = again
    refused(path, "compressed|damaged")


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
def test_shapes_that_ask_for_terabytes(small, tmp_path, legacy):
    """One stored number, spread over a million by a million."""
    path = tmp_path / "vast.pth"
    vast = torch.zeros(1, dtype=torch.half).expand(1_000_000, 1_000_000)
    state = small[0].state_dict() | {"layer1.0.conv1.weight": vast}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    refused(path, r"layer1\.0\.conv1\.weight claims to be \(1000000, 1000000\)")


def test_one_tensor_under_many_names(tmp_path):
    path = tmp_path / "many.pth"
    shared = torch.zeros(2**20, dtype=torch.half)
    names = {f"layer4.{number}.conv1.weight": shared for number in range(5000)}
    stem = {"conv1.0.weight": torch.zeros(32, 3, 3, 3), "layer1.0.conv1.weight": shared}
    torch.save(stem | names, path)
    refused(path, "far more than the file holds")


@pytest.mark.parametrize("harm", ["encrypted", "version"])
def test_odd_archives(harm, files, tmp_path):
    """Faults of a zip file that mutations seldom find."""
    content = bytearray(files["zip.pth"].read_bytes())
    offset, value = {"encrypted": (8, 1), "version": (6, 99)}[harm]
    at = content.index(b"PK\x01\x02")
    while at >= 0:
        content[at + offset] = value
        at = content.find(b"PK\x01\x02", at + 4)
    path = tmp_path / "odd.pth"
    path.write_bytes(content)
    refused(path, "damaged")


@pytest.mark.parametrize(
    "change", [{"radix": 1024, "cardinality": 1024, "width": 8}, {"blocks": [1024] * 4}]
)
def test_absurd_architectures(change, small, tmp_path):
    network, config = small
    values = json.loads(config.to_json())
    values["architecture"] |= change
    tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    save_file(tensors, tmp_path / "odd.safetensors", {METADATA_KEY: json.dumps(values)})
    refused(tmp_path / "odd.safetensors", "not a ResNeSt")


def test_a_config_of_many_megabytes(small, tmp_path):
    network, config = small
    values = json.loads(config.to_json()) | {"recipe": {"a": [{}] * 8_000_000}}
    tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    text = json.dumps(values)
    del values
    save_file(tensors, tmp_path / "odd.safetensors", {METADATA_KEY: text})
    refused(tmp_path / "odd.safetensors", "longer than 16,000,000 characters")


def test_a_header_of_a_gigabyte(tmp_path):
    path = tmp_path / "vast.safetensors"
    path.write_bytes(struct.pack("<Q", 2**30) + b"{" + bytes(1000))
    refused(path, "not a whole safetensors file")
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**30) + b"{")
        file.truncate(2**30 + 2**20)  # a hole: it takes no space on the disk
    refused(path, "not a whole safetensors file")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(value, small, tmp_path):
    network, config = small
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state["layer2.0.conv3.weight"][0, 0, 0, 0] = value
    save_file(state, tmp_path / "odd.safetensors", {METADATA_KEY: config.to_json()})
    with pytest.raises(
        CheckpointError, match=r"NaN or infinite weights in layer2\.0\.conv3\.weight"
    ):
        load(tmp_path / "odd.safetensors")


def test_a_link_is_read_and_nothing_is_written_beside_it(small, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    save_checkpoint(tmp_path / "real" / "x.safetensors", *small)
    (tmp_path / "links" / "x.safetensors").symlink_to(tmp_path / "real" / "x.safetensors")
    assert load(tmp_path / "links" / "x.safetensors").config.num_classes == 3
    assert len(list((tmp_path / "real").iterdir())) == 1
    (tmp_path / "links" / "loop.pth").symlink_to(tmp_path / "links" / "loop.pth")
    with pytest.raises(CheckpointError, match="cannot read"):
        load(tmp_path / "links" / "loop.pth")


def test_names_and_labels_that_write_to_a_terminal(small, tmp_path, run):
    """Control characters in a config are shown, not obeyed."""
    network, config = small
    values = json.loads(config.to_json())
    values["name"] = "evil\x1b]0;title\x07\x1b[31m"
    values["labels"] = {"names": ["a\x1b[2J", "b\rc", "d\ne"], "wnids": None}
    tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    save_file(tensors, tmp_path / "evil.safetensors", {METADATA_KEY: json.dumps(values)})
    image = ROOT / "examples" / "boat.jpg"
    for arguments in (("-f", "table"), ("-v", "-f", "csv")):
        done = run("predict", image, "--weights", tmp_path / "evil.safetensors", *arguments)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stderr
        if "table" in arguments:
            assert not {"\x1b", "\x07", "\r"} & set(done.stdout)
