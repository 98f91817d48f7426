"""The training loop."""

import os
import shutil

import pytest
import torch

from resnest_cli import train
from resnest_cli.catalog.variants import Architecture
from resnest_cli.datasets.class_folders import read_class_folders, split
from resnest_cli.errors import ResNeStError
from resnest_cli.imaging.preprocessing import Preprocessing
from resnest_cli.model.resnest import ResNeSt, initialise
from resnest_cli.training.components import class_weights, ema_model, optimizer, ranks
from resnest_cli.training.recipe import Recipe
from resnest_cli.training.trainer import Trainer
from tests.training.conftest import RECIPE, SHORT, history


def tiny(kind: type[ResNeSt] = ResNeSt) -> ResNeSt:
    network = kind(Architecture((1, 1, 1, 1), width=0.125), num_classes=4)
    initialise(network, generator=torch.Generator().manual_seed(0))
    return network


class TooLarge(ResNeSt):
    """A network for which memory is too small."""

    def forward(self, x):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_memory_too_small_for_a_step(data):
    train, val = split(read_class_folders(data), 0.1, 0)
    view = Preprocessing("default", crop=32, resize=32)
    trainer = Trainer(tiny(TooLarge), train, val, recipe=Recipe(batch_size=64), preprocessing=view)
    with pytest.raises(ResNeStError, match=r"64 images at once\n.*`batch_size`"):
        next(trainer.run())


def test_memory_too_small_for_the_network(data, tmp_path, monkeypatch):
    def no_memory(*_, **__):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(ResNeSt, "to", no_memory)
    with pytest.raises(ResNeStError, match=r"on cpu for resnest14-w0.125\n.*another `device`"):
        train(data, recipe=RECIPE, workers=0, output=tmp_path / "out")


def test_averaged_weights_start_as_copies_and_follow_slowly():
    network = tiny()
    averaged = ema_model(network, 0.75)
    for value in (1.0, 2.0, 3.0):
        for parameter in network.parameters():
            parameter.data.fill_(value)
        network.bn1.num_batches_tracked.fill_(int(value))
        averaged.update_parameters(network)
    # the first update copies; the decays that follow are (1 + 1) / (10 + 1) and (1 + 2) / (10 + 2)
    expected = (1 * 2 / 11 + 2 * 9 / 11) * 3 / 12 + 3 * 9 / 12
    for parameter in averaged.module.parameters():
        assert torch.allclose(parameter, torch.tensor(expected))
        assert not parameter.requires_grad
    assert averaged.module.bn1.num_batches_tracked == 3
    assert averaged.module.bn1.running_mean.dtype == torch.float32


def test_weight_decay_spares_biases_and_batch_norms():
    decayed, spared = optimizer(tiny(), Recipe(weight_decay=0.01)).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0)
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in spared["params"]} == {1}


def test_class_weights_are_inverse_to_the_number_of_images(data):
    images = read_class_folders(data)
    few = images.select([0, 1, 2, 3, 10, 20, 30])
    assert torch.allclose(class_weights(few), torch.tensor([7 / 16, 7 / 4, 7 / 4, 7 / 4]))
    assert torch.equal(class_weights(images), torch.ones(4))


def test_ranks_of_true_classes():
    logits = torch.tensor([[0.1, 0.9, 0.5], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])
    assert ranks(logits, torch.tensor([2, 0, 2])).tolist() == [1, 0, 2]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler (g++)")
def test_a_compiled_run_learns_the_same(trained, data, run_process, tmp_path):
    """Within rounding; in two epochs nothing is compiled again for each step."""
    logs = os.environ | {"TORCH_LOGS": "recompiles"}
    done = run_process("train", data, *SHORT, "--compile", "-o", "out", env=logs, timeout=900)
    assert (done.returncode, "Recompiling" in done.stderr) == (0, False), done.stderr
    for a, b in zip(history(trained[0]), history(tmp_path / "out"), strict=True):
        assert float(a["train_loss"]) == pytest.approx(float(b["train_loss"]), rel=1e-4)
