"""Checkpoints from strangers: refused with a reason, in bounded time and memory."""

import json
import os
import random
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from resnest_cli.card import METADATA_KEY, ModelCard
from resnest_cli.errors import CheckpointError, ResNeStError
from resnest_cli.export import export
from resnest_cli.model.load import build, load_state, save_checkpoint
from resnest_cli.model.resnest import ResNeSt, initialise
from resnest_cli.variants import Architecture, get_variant
from tests.conftest import ROOT

MUTATIONS = int(os.environ.get("RESNEST_TEST_MUTATIONS", "150"))  # of each format
LONGEST, MEGABYTES = 10.0, 500  # seconds, memory besides twice the file


def megabytes(*, anew=False):
    """The peak of this process's memory so far; `anew` begins it again from what is held now."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


@pytest.fixture(scope="module")
def small():
    """A tiny network and its card."""
    card = ModelCard.of_variant(get_variant("resnest14"), num_classes=3)
    architecture = Architecture((1, 1, 1, 1), width=0.125)
    card = ModelCard.from_json(
        json.dumps(json.loads(card.to_json()) | {"architecture": vars(architecture)})
    )
    torch.manual_seed(0)
    network = ResNeSt(architecture, num_classes=3)
    initialise(network)
    return network.eval(), card


@pytest.fixture(scope="module")
def files(small, tmp_path_factory):
    """A valid checkpoint in each format."""
    folder = tmp_path_factory.mktemp("valid")
    network, card = small
    made = folder / "safe.safetensors"
    save_checkpoint(made, network, card)
    torch.save(network.state_dict(), folder / "zip.pth")
    torch.save(network.state_dict(), folder / "legacy.pth", _use_new_zipfile_serialization=False)
    export(load_state(weights=made), folder / "program.pt2")
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["safe.safetensors", "zip.pth", "legacy.pth", "program.pt2"])
def test_mutations_give_a_network_or_a_reason(name, files, tmp_path):
    whole, rng = files[name].read_bytes(), random.Random(name)
    path = tmp_path / name
    before = megabytes(anew=True)
    refused = 0
    for _ in range(MUTATIONS):
        content = bytearray(whole)
        edge = rng.choice((64, 4096, len(content) // 2))
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(edge)
            content[at if rng.random() < 0.5 else -1 - at] = rng.randrange(256)
        path.write_bytes(content)
        start = time.monotonic()
        try:
            loaded = load_state(weights=path)
            build(loaded.state, loaded.card)
        except ResNeStError as error:
            assert str(error).count("\n") <= 1  # noqa: PT017
            refused += 1
        assert time.monotonic() - start < LONGEST
    assert refused  # or nothing that matters was hit
    assert megabytes() - before < 2 * len(whole) / 1e6 + MEGABYTES


def refused(path, words):
    """Loading ends with a reason, soon, and without memory of any size."""
    before, start = megabytes(anew=True), time.monotonic()
    with pytest.raises(CheckpointError, match=words) as caught:
        load_state("resnest14", weights=path)
    assert str(caught.value).count("\n") <= 1
    assert time.monotonic() - start < LONGEST
    assert megabytes() - before < 2 * path.stat().st_size / 1e6 + MEGABYTES


def test_a_zip_that_unpacks_to_more_than_memory_holds(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("archive/data.pkl", "w", force_zip64=True) as entry:
            for _ in range(2000):
                entry.write(bytes(2**20))
        archive.writestr("archive/version", "3")
    assert path.stat().st_size < 10e6
    refused(path, "compressed")


def test_entries_that_lie_over_one_another(tmp_path):
    """Of stored entries, too, many may share the same bytes of the file."""
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
    names = {f"more.{number}": shared for number in range(5000)}
    torch.save({"conv1.0.weight": torch.zeros(32, 3, 3, 3), **names}, path)
    refused(path, "far more than the file holds")


@pytest.mark.parametrize("harm", ["encrypted", "version", "nested", "negative", "again"])
def test_odd_programs(harm, files, tmp_path):
    """Faults of a `.pt2` that mutations seldom find; `again` names one entry thousands of times."""
    path = tmp_path / "odd.pt2"
    with zipfile.ZipFile(files["program.pt2"]) as good, zipfile.ZipFile(path, "w") as odd:
        for name in good.namelist():
            content = good.read(name)
            if name.endswith("model_weights_config.json"):
                table = json.loads(content)
                first = next(iter(table["config"].values()))
                if harm == "negative":
                    first["tensor_meta"]["sizes"] = [{"as_int": -2}, {"as_int": -2}]
                if harm == "again":
                    table["config"] |= {f"x{number}": first for number in range(100_000)}
                content = b"[" * 100_000 if harm == "nested" else json.dumps(table).encode()
            odd.writestr(name, content)
    if harm in ("encrypted", "version"):
        content = bytearray(path.read_bytes())
        at = content.index(b"PK\x01\x02")
        while at >= 0:
            content[at + (8 if harm == "encrypted" else 6)] = 1 if harm == "encrypted" else 99
            at = content.find(b"PK\x01\x02", at + 4)
        path.write_bytes(content)
    refused(path, "damaged|far more")


@pytest.mark.parametrize(
    "change", [{"radix": 1024, "cardinality": 1024, "width": 8}, {"blocks": [1024] * 4}]
)
def test_absurd_architectures(change, small, tmp_path):
    network, card = small
    values = json.loads(card.to_json())
    values["architecture"] |= change
    tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    save_file(tensors, tmp_path / "odd.safetensors", {METADATA_KEY: json.dumps(values)})
    refused(tmp_path / "odd.safetensors", "not a ResNeSt")


def test_a_card_of_many_megabytes(small, tmp_path):
    network, card = small
    values = json.loads(card.to_json()) | {"recipe": {"a": [{}] * 8_000_000}}
    tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    text = json.dumps(values)
    del values
    save_file(tensors, tmp_path / "odd.safetensors", {METADATA_KEY: text})
    refused(tmp_path / "odd.safetensors", "at most 16,000,000 characters")


def test_a_header_of_a_gigabyte(tmp_path):
    path = tmp_path / "vast.safetensors"
    path.write_bytes(struct.pack("<Q", 2**30) + b"{" + bytes(1000))
    refused(path, "no whole safetensors file")
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**30) + b"{")
        file.truncate(2**30 + 2**20)  # a hole: it takes no room on the disk
    refused(path, "no whole safetensors file")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(value, small, tmp_path):
    network, card = small
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state["layer2.0.conv3.weight"][0, 0, 0, 0] = value
    save_file(state, tmp_path / "odd.safetensors", {METADATA_KEY: card.to_json()})
    with pytest.raises(CheckpointError, match=r"layer2\.0\.conv3\.weight holds values"):
        load_state(weights=tmp_path / "odd.safetensors")


def test_a_link_is_read_and_nothing_is_written_beside_it(small, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    save_checkpoint(tmp_path / "real" / "x.safetensors", *small)
    (tmp_path / "links" / "x.safetensors").symlink_to(tmp_path / "real" / "x.safetensors")
    assert load_state(weights=tmp_path / "links" / "x.safetensors").card.num_classes == 3
    assert len(list((tmp_path / "real").iterdir())) == 1
    (tmp_path / "links" / "loop.pth").symlink_to(tmp_path / "links" / "loop.pth")
    with pytest.raises(CheckpointError, match="cannot read"):
        load_state(weights=tmp_path / "links" / "loop.pth")


def test_names_and_labels_that_write_to_a_terminal(small, tmp_path, run):
    """Control characters in a card are shown, not obeyed."""
    network, card = small
    values = json.loads(card.to_json())
    values["name"] = "evil\x1b]0;title\x07\x1b[31m"
    values["labels"] = {"names": ["a\x1b[2J", "b\rc", "d\ne"], "wnids": None}
    tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    save_file(tensors, tmp_path / "evil.safetensors", {METADATA_KEY: json.dumps(values)})
    picture = ROOT / "examples" / "boat.jpg"
    for arguments in (("-f", "table"), ("-v", "-f", "csv")):
        done = run("predict", picture, "--weights", tmp_path / "evil.safetensors", *arguments)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stderr
        if "table" in arguments:
            assert not {"\x1b", "\x07", "\r"} & set(done.stdout)
