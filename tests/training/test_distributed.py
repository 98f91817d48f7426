"""Two processes train as one does."""

import csv
import os
import subprocess
import sys

import pytest
import torch

from resnest_cli.errors import UsageError
from resnest_cli.training.augment import mix
from resnest_cli.training.data import Order
from resnest_cli.training.distributed import Processes
from resnest_cli.training.recipe import Recipe
from tests.training.conftest import SHORT

import numpy as np  # isort: skip


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """The folders of the same run on one process and on two."""
    folder = tmp_path_factory.mktemp("runs")
    options = [*SHORT, "--cutmix", "1", "--dropout", "0.3", "-j", "0", "-q"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
                "--master-port", "29517", "-m", "resnest_cli"]  # fmt: skip
    for name, start in (("one", [sys.executable, "-m", "resnest_cli"]), ("two", torchrun)):
        done = subprocess.run(
            [*start, "train", data, *options, "-o", folder / name],
            capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return folder / "one", folder / "two"


def test_losses_agree(runs):
    one, two = (list(csv.DictReader((f / "history.csv").read_text().splitlines())) for f in runs)
    for a, b in zip(one, two, strict=True):
        for name in ("train_loss", "val_loss"):
            assert float(a[name]) == pytest.approx(float(b[name]), rel=0.01)


STEP = """
import os, sys, torch
from torch.nn import functional as F
from resnest_cli.errors import UsageError
from resnest_cli.model.resnest import ResNeSt, initialise
from resnest_cli.training.distributed import Processes, SharedDropout, share_batch_norms
from resnest_cli.variants import Architecture

torch.manual_seed(0)
network = ResNeSt(Architecture((1, 1, 1, 1), width=0.125), num_classes=4)
initialise(network)
processes = Processes.join("cpu")
network = network.double().train()
network.dropout = SharedDropout(0.3, 1, processes)
if processes.count > 1:
    share_batch_norms(network, "cpu")
pixels, targets = torch.randn(8, 3, 64, 64).double(), torch.arange(8) % 4
mine = slice(processes.rank * 8 // processes.count, (processes.rank + 1) * 8 // processes.count)

def wrong():
    raise UsageError("told to all")

with processes:
    try:
        processes.agree(wrong)
    except UsageError as error:
        assert str(error) == "told to all"
    else:
        raise SystemExit("not told")
    assert processes.agree(lambda: processes.rank) == 0
    shared = processes.share(network)
    F.cross_entropy(shared(pixels[mine]), targets[mine]).backward()
if processes.leads:
    gradients = {name: p.grad for name, p in network.named_parameters()}
    torch.save(gradients | dict(network.named_buffers()), sys.argv[1])
os._exit(0)  # as the command ends: a thread of gloo's may abort while Python takes itself apart
"""


def test_gradients_and_statistics_are_those_of_one_process(tmp_path):
    """In float64, where rounding leaves room to see any other difference."""
    (tmp_path / "step.py").write_text(STEP)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29519"]
    for name, start in (("one", []), ("two", torchrun)):
        done = subprocess.run(
            [sys.executable, *start, tmp_path / "step.py", tmp_path / name], check=False,
            capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-9, atol=1e-11, msg=key)


@pytest.mark.parametrize(("rank", "told"), [("0", True), ("1", False)])
def test_of_processes_with_the_same_error_one_tells_it(rank, told, run):
    torchrun = {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
    done = run("train", "nowhere", env=os.environ | torchrun)
    assert (done.returncode, "nowhere" in done.stderr) == (1, told)
    assert told or not done.stderr


def test_each_process_needs_its_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match=r"there are 1 here\nuse --nproc-per-node 1"):
        Processes(rank=1, count=2, local_rank=1).own_device("cuda")


def test_parts_of_a_batch_make_the_batch():
    whole = Order(50, 16, 7, part=0, parts=1)
    halves = [Order(50, 16, 7, part=part, parts=2) for part in (0, 1)]
    for batch, *shares in zip(whole, *halves, strict=True):
        assert batch == shares[0] + shares[1]
        assert len(batch) == 16
    seen = {index for batch in whole for _, index in batch}
    assert seen == set(range(50))


def test_an_order_goes_on_in_the_midst():
    order = Order(50, 16, 7, part=0, parts=1)
    everything = list(order)
    order.first = 2
    assert list(order) == everything[2:]
    order.epoch, order.first = 1, 0
    assert list(order) != everything


@pytest.mark.parametrize(
    "recipe", [Recipe(mixup=1.0), Recipe(mixup=0, cutmix=1.0)], ids=["mixup", "cutmix"]
)
def test_shares_are_mixed_as_the_whole(recipe):
    torch.manual_seed(0)
    pixels, targets = torch.rand(8, 3, 10, 12), torch.eye(8)
    rng = np.random.default_rng
    whole = pixels.clone()
    mixed = mix(whole, targets, recipe, rng(5))
    halves = [pixels[:4].clone(), pixels[4:].clone()]
    parts = [mix(h, t, recipe, rng(5)) for h, t in zip(halves, targets.split(4), strict=True)]
    assert torch.equal(torch.cat(halves), whole)
    assert torch.equal(torch.cat(parts), mixed)
    assert torch.allclose(mixed.sum(1), torch.ones(8))
    assert not torch.equal(whole, pixels)
    # a target's weight is the share of pixels, or of their values, that it stands for
    share = mixed[0, 0]
    if recipe.cutmix:
        kept = (whole[0] == pixels[0]).all(0).float().mean()
    else:
        kept = (whole[0] - pixels[1]).norm() / (pixels[0] - pixels[1]).norm()
    assert float(kept) == pytest.approx(float(share), abs=1e-5)
