"""Learning from networks that have learned: their answers take the place of the labels.

Hinton et al., 2015: Distilling the Knowledge in a Neural Network (arXiv 1503.02531). A teacher is
asked about the very pixels that the network in training sees, cut out, changed and mixed as they
are (Beyer et al., 2021, arXiv 2106.05237).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from resnest_cli.engines.torch_engine import compiled_by_torch
from resnest_cli.errors import UsageError
from resnest_cli.matching import match
from resnest_cli.model.fold import fold_batch_norm
from resnest_cli.model.load import Loaded, build, load_state
from resnest_cli.preprocess import Preprocessing
from resnest_cli.writers import printable

Answer = Callable[[Tensor], Tensor]


def read_teachers(files: Sequence[Path], classes: Sequence[str]) -> list[Loaded]:
    """Checkpoints of networks that know these classes, by names as `matching.match` takes them.

    Raises:
        CheckpointError: one is missing or damaged.
        UsageError: one is for other pictures, or doesn't tell the classes apart.
    """
    teachers = [load_state(weights=file) for file in files]
    for teacher in teachers:
        _columns(teacher, classes)
    return teachers


class Teachers:
    """The mean answer of networks that have learned.

    Args:
        teachers: as `read_teachers` gives them.
        classes: what they are asked to tell apart.
        preprocessing: of the pictures that they will be shown.
        device: where those are.
        compiled: let torch compile the networks.
    """

    def __init__(
        self,
        teachers: Sequence[Loaded],
        classes: Sequence[str],
        preprocessing: Preprocessing,
        device: str,
        *,
        compiled: bool = False,
    ) -> None:
        self._answers = [
            _answer(teacher, classes, preprocessing, device, compiled=compiled)
            for teacher in teachers
        ]

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalised pictures (N, 3, H, W) to probabilities (N, classes)."""
        return torch.stack([answer(pixels) for answer in self._answers]).mean(0)


def _answer(
    teacher: Loaded,
    classes: Sequence[str],
    shown: Preprocessing,
    device: str,
    *,
    compiled: bool,
) -> Answer:
    """A teacher's probabilities for pictures as they are shown to another network."""
    network = build(teacher.state, teacher.card)
    fold_batch_norm(network)
    network = network.to(device).to(memory_format=torch.channels_last)
    forward = compiled_by_torch(network) if compiled else network
    columns = torch.tensor(_columns(teacher, classes), device=device)
    own = teacher.card.preprocessing
    means, stds = (
        torch.tensor(values, device=device).view(2, 3, 1, 1)
        for values in ((shown.mean, own.mean), (shown.std, own.std))
    )
    renormalise = (shown.mean, shown.std) != (own.mean, own.std)

    def answer(pixels: Tensor) -> Tensor:
        if renormalise:
            pixels = (pixels * stds[0] + means[0] - means[1]) / stds[1]
        if pixels.shape[-1] != own.crop:
            pixels = F.interpolate(pixels, (own.crop, own.crop), mode="bilinear", antialias=True)
        return forward(pixels)[:, columns].float().softmax(1)

    return answer


def _columns(teacher: Loaded, classes: Sequence[str]) -> list[int]:
    """Which of a teacher's outputs stand for the classes."""
    card, file = teacher.card, printable(str(teacher.path))
    if card.in_channels != 3:
        raise UsageError(f"the teacher '{file}' is for pictures of {card.in_channels} channels")
    if card.labels is None:
        raise UsageError(
            f"the teacher '{file}' has no class names; train gives checkpoints that have them"
        )
    columns = dict(zip(classes, match(classes, card.labels), strict=True))
    unknown = [name for name, column in columns.items() if column is None]
    if unknown:
        some = ", ".join(f"'{printable(name)}'" for name in unknown[:5])
        raise UsageError(
            f"the teacher '{file}' doesn't know {some}{', ...' if unknown[5:] else ''}\n"
            "a teacher must know every class that is to be learned"
        )
    known = [column for column in columns.values() if column is not None]
    if len(set(known)) < len(known):
        raise UsageError(f"the teacher '{file}' doesn't tell all the classes apart")
    return known
