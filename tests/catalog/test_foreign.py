"""Files that are saved as checkpoints and are none: each is named, and what to do with it."""

import bz2
import gzip
import io
import lzma
import pickle
import re
import tarfile
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from resnest_cli.catalog.weights import resolve
from resnest_cli.errors import CheckpointError
from resnest_cli.model.checkpoint import load_checkpoint

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


class StateDict(OrderedDict):
    """As some frameworks return it."""


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def archive(suffix):
    made = io.BytesIO()
    if suffix == "zip":
        with zipfile.ZipFile(made, "w") as file:
            file.writestr("run/best.pth", b"weights")
    else:
        with tarfile.open(fileobj=made, mode="w") as file:
            file.addfile(tarfile.TarInfo("best.pth"))
    return made.getvalue()


def saved(save, *arguments, **options):
    made = io.BytesIO()
    save(*arguments, made, **options)
    return made.getvalue()


def numpy_file():
    made = io.BytesIO()
    np.save(made, np.ones(99))
    return made.getvalue()


KINDS = {
    "git-lfs": (lambda: POINTER, r"a Git LFS pointer, .*\nrun 'git lfs pull'"),
    "web page": (lambda: b"\n<!DOCTYPE html>\n<html>", r"a web page .*\ndownload the file"),
    "page": (lambda: b"<html><body>Sign in", "a web page"),
    "json": (lambda: b'{"message": "Not Found"}', 'a text, which begins \'{"message": "Not Fo'),
    "gzip": (lambda: gzip.compress(b"x"), r"compressed with gzip\nunpack it"),
    "bzip2": (lambda: bz2.compress(b"x"), "compressed with bzip2"),
    "xz": (lambda: lzma.compress(b"x"), "compressed with xz"),
    "tar": (lambda: archive("tar"), r"a tar archive\nunpack it, and use the file inside"),
    "zip": (lambda: archive("zip"), "a zip archive that holds 'run/best.pth'\nunpack it"),
    "numpy": (numpy_file, r"a NumPy array\nuse a checkpoint that PyTorch wrote"),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
    "pickle": (lambda: pickle.dumps({"fc.weight": np.ones(3)}), "a pickle that torch.save did not"),
    "pickle 2": (lambda: pickle.dumps({"a": 1}, protocol=2), "a pickle that torch.save did not"),
    "empty": (lambda: b"", "is empty"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".ckpt", ".onnx"])
@pytest.mark.parametrize("kind", KINDS)
def test_files_of_other_kinds_are_named(kind, suffix, tmp_path):
    make, words = KINDS[kind]
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(make())
    if kind == "zip" and suffix == ".onnx":
        return  # which is for OpenVINO to say
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(resolve(weights=path))
    assert str(caught.value).count("\n") <= 1


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_program_can_be_converted_as_the_message_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.jit.save(torch.jit.script(small()), "x.pt")
    with pytest.raises(CheckpointError, match="a TorchScript program, which is never run") as error:
        load_checkpoint(resolve(weights="x.pt"))
    exec(str(error.value).partition("in Python: ")[2], {"torch": torch})
    assert torch.load("weights.pth", weights_only=True).keys() == small().state_dict().keys()


def test_an_exported_program_is_named_whatever_its_suffix(tmp_path):
    program = torch.export.export(small().eval(), (torch.ones(1, 3, 8, 8),))
    torch.export.save(program, tmp_path / "x.pt2")
    (tmp_path / "x.pt2").rename(tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"a program \(torch\.export\), which is never run"):
        load_checkpoint(resolve(weights=tmp_path / "x.pth"))


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
def test_a_pickled_network_can_be_converted_as_the_message_says(legacy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(small(), "whole.pth", _use_new_zipfile_serialization=not legacy)
    words = r"a whole pickled network \(torch\.nn\.modules\.container\.Sequential\), .* run code\n"
    with pytest.raises(CheckpointError, match=words) as error:
        load_checkpoint(resolve(weights="whole.pth"))
    remedy = re.search(r"torch\.save.*", str(error.value))[0]
    exec(remedy, {"torch": torch})
    assert torch.load("weights.pth", weights_only=True).keys() == small().state_dict().keys()


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
def test_objects_are_named(legacy, tmp_path):
    path = tmp_path / "x.pth"
    weights = StateDict(small().state_dict())
    torch.save({"model": weights}, path, _use_new_zipfile_serialization=not legacy)
    words = r"Python objects \(.*StateDict\), .*\nif you trust it, .*torch\.save\(model\.state_dict"
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(resolve(weights=path))


def test_a_pickle_protocol_that_torch_does_not_read_safely(tmp_path):
    torch.save(small().state_dict(), tmp_path / "x.pth", pickle_protocol=4)
    with pytest.raises(CheckpointError, match="saved with a pickle_protocol above 2"):
        load_checkpoint(resolve(weights=tmp_path / "x.pth"))


def test_a_graph_or_its_weights_may_be_a_pointer_too(tmp_path):
    (tmp_path / "x.xml").write_bytes(b"<?xml version='1.0'?><net/>")
    (tmp_path / "x.bin").write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=r"x\.bin' is not a checkpoint but a Git LFS pointer"):
        resolve(weights=tmp_path / "x.xml")
