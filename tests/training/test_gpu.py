"""Training on a CUDA device: run with `-m gpu` on a machine that has one."""

import pytest
import torch

from resnest_cli import train
from resnest_cli.errors import ResNeStError
from resnest_cli.training.summary import TrainingProgress
from tests.training.conftest import RECIPE, history

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


class InterruptSecondEpoch(TrainingProgress):
    def step(self, step):
        if step.epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("precision", "within"), [("fp32", 2e-3), ("bf16", 0.1), ("fp16", 0.05)])
def test_losses_are_those_of_the_cpu(trained, data, tmp_path, precision, within):
    out = tmp_path / "out"
    train(data, recipe=RECIPE, workers=2, device="cuda", precision=precision, output=out)
    for ours, cpus in zip(history(out), history(trained[0]), strict=True):
        assert float(ours["train_loss"]) == pytest.approx(float(cpus["train_loss"]), rel=within)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_run_is_resumed_on_either_device(trained, data, tmp_path, device):
    options = {"recipe": RECIPE, "workers": 0, "output": tmp_path / "out"}
    with pytest.raises(KeyboardInterrupt):
        train(data, device="cuda", progress=InterruptSecondEpoch(), **options)
    train(data, device=device, resume=True, **options)
    for ours, cpus in zip(history(tmp_path / "out"), history(trained[0]), strict=True):
        assert float(ours["train_loss"]) == pytest.approx(float(cpus["train_loss"]), rel=2e-3)


def test_memory_too_small_for_a_step(data, tmp_path):
    torch.cuda.set_per_process_memory_fraction(0.002)
    try:
        with pytest.raises(ResNeStError, match="not enough memory"):
            train(data, scratch=True, crop=512, workers=0, device="cuda", output=tmp_path / "out")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
