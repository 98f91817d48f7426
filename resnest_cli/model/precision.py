"""Numeric precision: dtypes by name, 16-bit networks, and fp32 without TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Lock
from typing import Any

import torch

from resnest_cli.model.resnest import ResNeSt
from resnest_cli.model.split_attention import SplitAttention

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_lock = Lock()
_users = 0  # of `disable_tf32`, in all threads
_settings = ExitStack()  # what brings the program's own settings back


def cast_except_attention(network: ResNeSt, dtype: torch.dtype) -> None:
    """Cast a network to a dtype, in place, except the layers that work on pooled maps.

    Those are a thousandth of the work, and rounding matters there: attention follows from small
    differences between pooled maps, and logits that are rounded to 8 bits tie.
    """
    network.to(dtype)
    network.fc.float()
    for module in network.modules():
        if isinstance(module, SplitAttention):
            module.fc1.float()
            module.fc2.float()


@contextmanager
def disable_tf32() -> Iterator[None]:
    """Compute fp32 in fp32: no TF32, neither in convolutions nor in matrix products.

    The setting belongs to the whole process. So it holds from the first user to the last one:
    otherwise threads would end it for each other.
    """
    global _users
    with _lock:
        if not _users:
            _switch_off()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _settings.close()


def _switch_off() -> None:
    """Set PyTorch's older and, from 2.9, its newer settings, and note how to restore them.

    Reading an older one raises `RuntimeError` if the program has used the newer ones.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    newer: list[Any] = [getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None), matmul]
    newer = [part for part in newer if hasattr(part, "fp32_precision")]
    for part in newer:  # restored after the older ones, which change them
        _settings.callback(setattr, part, "fp32_precision", part.fp32_precision)
    with suppress(RuntimeError):
        _settings.callback(setattr, cudnn, "allow_tf32", cudnn.allow_tf32)
    with suppress(RuntimeError):
        _settings.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    for part in newer:
        part.fp32_precision = "ieee"
