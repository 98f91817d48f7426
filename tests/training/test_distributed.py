"""Two processes train as one does."""

import os
import subprocess
import sys
from itertools import chain

import pytest
import torch

from resnest_cli import train
from resnest_cli.errors import UsageError
from resnest_cli.training.data import EpochSampler, batches_in_order
from resnest_cli.training.distributed import DistContext
from tests.training import two_processes
from tests.training.conftest import history


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """The folders of what one process computes and of what two do, by the same functions."""
    folder = tmp_path_factory.mktemp("runs")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = [*torchrun, "-m", "tests.training.two_processes", data, folder / "two"]
    with subprocess.Popen(
        [sys.executable, *script], stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        threads = torch.get_num_threads()
        two_processes.compute(data, folder / "one")
        torch.set_num_threads(threads)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return folder / "one", folder / "two"


def test_losses_are_those_of_one_process(runs):
    """Within rounding, which training amplifies."""
    one, two = (history(folder / "run") for folder in runs)
    assert len(one) == 2
    for a, b in zip(one, two, strict=True):
        for name in ("train_loss", "val_loss"):
            assert float(a[name]) == pytest.approx(float(b[name]), rel=2e-5)
        assert a["val_top1"] == b["val_top1"]


def test_one_process_resumes_a_run_of_two(data, runs):
    one, two = runs
    train(data, output=two / "interrupted", workers=0, resume=True)
    for a, b in zip(history(one / "run"), history(two / "interrupted"), strict=True):
        assert float(a["train_loss"]) == pytest.approx(float(b["train_loss"]), rel=2e-5)


def test_gradients_and_statistics_are_those_of_one_process(runs):
    """In float64, where rounding leaves room to see any other difference."""
    one, two = (torch.load(folder / "step.pt", weights_only=True) for folder in runs)
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-9, atol=1e-11, msg=key)


def test_each_process_needs_its_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="this machine has 1\nstart fewer"):
        DistContext(rank=1, world_size=2, local_rank=1).own_device("cuda")


def test_a_batch_is_distributed_evenly():
    DistContext(world_size=3).check_batch_size(9)
    with pytest.raises(UsageError, match=r"`batch_size` .* multiple of 3, not 8"):
        DistContext(world_size=3).check_batch_size(8)


def test_the_processes_parts_of_a_batch_make_the_batch():
    whole = EpochSampler(50, 16, 7)
    halves = [EpochSampler(50, 16, 7, rank=rank, world_size=2) for rank in (0, 1)]
    for batch, *parts in zip(whole, *halves, strict=True):
        assert batch == parts[0] + parts[1]
        assert len(batch) == 16
    seen = {index for batch in whole for _, index in batch}
    assert seen == set(range(50))


def test_the_validation_set_is_distributed_without_repetition():
    found = [batches_in_order(5, 2, rank=rank, world_size=2) for rank in (0, 1)]
    assert found == [[[(0, 0), (0, 2)], [(0, 4)]], [[(0, 1), (0, 3)]]]


def test_an_epoch_continues_where_it_stopped():
    sampler = EpochSampler(50, 16, 7)
    everything = list(sampler)
    sampler.first = 2
    assert list(sampler) == everything[2:]
    places, order = zip(*chain.from_iterable(everything), strict=True)
    sampler.epoch, sampler.first = 1, 0
    next_places, next_order = zip(*chain.from_iterable(sampler), strict=True)
    assert next_order != order
    assert not set(next_places) & set(places)  # so images are augmented otherwise
