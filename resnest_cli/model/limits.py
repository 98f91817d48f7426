"""Limits on what a checkpoint from a stranger may hold, checked before memory is spent on it."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from resnest_cli.catalog.foreign import check_members
from resnest_cli.errors import CheckpointError

_WIDENING = 8  # bytes in float32 per byte stored, at most: 8-bit weights, some named twice


def check_archive(path: Path) -> None:
    """Raise `CheckpointError` if a zip file would unpack to more than its own size.

    PyTorch stores its entries uncompressed; a compressed one may unpack to more than memory holds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise CheckpointError(f"'{path}' is damaged or not a checkpoint: {error}") from error
    check_members(path, (entry.filename for entry in entries))
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(
            f"'{path}' was not loaded: it is compressed, and might unpack to more than memory "
            "holds\nsave it with torch.save, or as safetensors"
        )


def check_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise `CheckpointError` unless all are dense, and no larger than what is stored of them."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise CheckpointError(f"'{path}' holds a sparse, quantized or empty tensor: {name}")
        if not tensor.is_floating_point() and not name.endswith("num_batches_tracked"):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"'{path}' holds weights that are not floating-point numbers: {name} is {kind}\n"
                "use the checkpoint from before it was quantized"
            )
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"'{path}' was not loaded: {name} claims to be {tuple(tensor.shape)}, but fewer "
                "bytes are stored"
            )
    wanted = sum(4 * tensor.numel() for tensor in tensors.values())
    if wanted > _WIDENING * path.stat().st_size + 2**20:
        raise CheckpointError(
            f"'{path}' was not loaded: its tensors would take {wanted / 1e6:,.0f} MB, far more "
            "than the file holds"
        )


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise `CheckpointError` if a weight is NaN or infinite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=torch.float64)):
            raise CheckpointError(
                f"'{path}' cannot be used: NaN or infinite weights in {name} (diverged training?)"
            )
