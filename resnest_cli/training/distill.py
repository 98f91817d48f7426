"""Knowledge distillation: the predictions of trained networks replace the labels.

Hinton et al., 2015: Distilling the Knowledge in a Neural Network (arXiv 1503.02531). A teacher
classifies the same pixels as the student: cropped, augmented and mixed (Beyer et al., 2021,
arXiv 2106.05237).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from resnest_cli.catalog.weights import resolve
from resnest_cli.datasets.class_names import match
from resnest_cli.engines.torch_engine import compiled_by_torch
from resnest_cli.errors import UsageError
from resnest_cli.imaging.preprocessing import Preprocessing
from resnest_cli.model.checkpoint import Checkpoint, load_checkpoint
from resnest_cli.model.surgery import fold_batch_norm
from resnest_cli.text import listed, printable

Predict = Callable[[Tensor], Tensor]  # normalised images (N, 3, H, W) to probabilities (N, classes)


def load_teachers(files: Sequence[Path], classes: Sequence[str]) -> list[Checkpoint]:
    """Checkpoints of networks; raises `UsageError` unless each has these classes, by name."""
    teachers = [load_checkpoint(resolve(weights=file)) for file in files]
    for teacher in teachers:
        _columns(teacher, classes)
    return teachers


def mean_prediction(
    teachers: Sequence[Checkpoint],
    classes: Sequence[str],
    student: Preprocessing,
    device: str,
    *,
    torch_compile: bool = False,
) -> Predict | None:
    """The teachers' mean probabilities of the student's classes, for the student's images."""
    predictions = [
        _teacher(teacher, classes, student, device, torch_compile=torch_compile)
        for teacher in teachers
    ]

    @torch.no_grad()
    def predict(pixels: Tensor) -> Tensor:
        return torch.stack([teacher(pixels) for teacher in predictions]).mean(0)

    return predict if teachers else None


def _teacher(
    checkpoint: Checkpoint,
    classes: Sequence[str],
    student: Preprocessing,
    device: str,
    *,
    torch_compile: bool,
) -> Predict:
    network = checkpoint.network()
    fold_batch_norm(network)
    network = network.to(device).to(memory_format=torch.channels_last)
    forward: Predict = compiled_by_torch(network) if torch_compile else network
    columns = torch.tensor(_columns(checkpoint, classes), device=device)
    own = checkpoint.config.preprocessing
    means, stds = (
        torch.tensor(values, device=device).view(2, 3, 1, 1)
        for values in ((student.mean, own.mean), (student.std, own.std))
    )
    renormalise = (student.mean, student.std) != (own.mean, own.std)

    def predict(pixels: Tensor) -> Tensor:
        if renormalise:
            pixels = (pixels * stds[0] + means[0] - means[1]) / stds[1]
        if pixels.shape[-1] != own.crop:
            pixels = F.interpolate(pixels, (own.crop, own.crop), mode="bilinear", antialias=True)
        return forward(pixels)[:, columns].float().softmax(1)

    return predict


def _columns(teacher: Checkpoint, classes: Sequence[str]) -> list[int]:
    """Which of a teacher's outputs are the student's classes."""
    config, name = teacher.config, f"the teacher '{printable(str(teacher.weights.path))}'"
    if config.in_channels != 3:
        raise UsageError(f"{name} is for images of {config.in_channels} channels")
    if config.labels is None:
        raise UsageError(f"{name} has no class names; checkpoints that train writes have them")
    columns = match(classes, config.labels)
    if unknown := [name for name, column in zip(classes, columns, strict=True) if column is None]:
        raise UsageError(
            f"{name} lacks the class{'es' if unknown[1:] else ''} {listed(unknown)}\n"
            "a teacher must have every class of the training set"
        )
    known = [column for column in columns if column is not None]
    if len(set(known)) < len(known):
        raise UsageError(f"{name} has one class for several of the training set's")
    return known
