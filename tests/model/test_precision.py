"""fp32 without TF32, whichever of PyTorch's settings a program uses, and from several threads."""

from threading import Barrier, Thread

import pytest
import torch

from resnest_cli.model.precision import disable_tf32

CUDNN, MATMUL = torch.backends.cudnn, torch.backends.cuda.matmul


def current():
    values = []
    for read in (lambda: CUDNN.allow_tf32, torch.get_float32_matmul_precision):
        try:
            values.append(read())
        except RuntimeError:  # newer settings are in use
            values.append(None)
    newer = [CUDNN.conv, CUDNN.rnn, MATMUL] if hasattr(MATMUL, "fp32_precision") else []
    return values + [part.fp32_precision for part in newer]


@pytest.fixture(autouse=True)
def restored():
    before = torch.get_float32_matmul_precision(), CUDNN.allow_tf32
    yield
    if hasattr(torch.backends, "fp32_precision"):
        torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision(before[0])
    CUDNN.allow_tf32 = before[1]


@pytest.mark.parametrize("setting", ["unchanged", "matmul high", "newer tf32"])
def test_tf32_is_off_and_the_programs_settings_come_back(setting):
    if setting == "matmul high":
        torch.set_float32_matmul_precision("high")
    if setting == "newer tf32":
        if not hasattr(torch.backends, "fp32_precision"):
            pytest.skip("PyTorch 2.9 or newer")
        torch.backends.fp32_precision = "tf32"
    before = current()
    with disable_tf32(), disable_tf32():
        assert CUDNN.allow_tf32 is False
        assert torch.get_float32_matmul_precision() == "highest"
    assert current() == before


def test_one_thread_does_not_end_it_for_another():
    CUDNN.allow_tf32 = True
    meeting, seen = Barrier(2), []

    def first():
        with disable_tf32():
            meeting.wait(5)
        meeting.wait(5)

    thread = Thread(target=first)
    thread.start()
    with disable_tf32():
        meeting.wait(5)
        meeting.wait(5)  # the other one has left by now
        seen.append(CUDNN.allow_tf32)
    thread.join(5)
    assert seen == [False]
    assert CUDNN.allow_tf32 is True
