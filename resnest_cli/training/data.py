"""Labelled pictures as batches, the same whatever the number of workers and processes.

Every random choice is a function of the seed, the epoch and the picture's place in it. So a run
that goes on in the midst of an epoch draws what it would have drawn, and nothing else has to be
stored for that.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from resnest_cli.decoding import Decoding
from resnest_cli.errors import DatasetError, ImageError
from resnest_cli.folders import LabelledPictures
from resnest_cli.sources import as_source
from resnest_cli.training.augment import View
from resnest_cli.writers import printable

_TRIES = 10  # pictures that may have gone bad in a row since they were checked
_SMALL = 64 * 64  # pixels of a picture that is kept once it is decoded ...
_KEPT = 2**28  # ... and bytes for all those, in each process that decodes


class Batch(NamedTuple):
    """Pixels uint8 (N, 3, crop, crop), class indices (N), and what could not be read."""

    pixels: Tensor
    targets: Tensor
    lost: list[str]  # pictures for which a neighbour stands in


Sample = tuple[NDArray[np.uint8], int, str | None]  # pixels, class, what could not be read


class Pictures(Dataset[Sample]):
    """Decoded and transformed pictures; asked for by (place in the epoch's order, index).

    Small ones may be kept once they are decoded, which takes longer than all that follows.
    """

    def __init__(
        self, pictures: LabelledPictures, view: View, seed: int, *, keep: bool = False
    ) -> None:
        self.pictures = pictures
        self.view = view
        self.seed = seed
        self._kept: dict[int, Image.Image] = {}
        self._room = _KEPT if keep else 0

    def __getitem__(self, drawn: tuple[int, int]) -> Sample:
        place, index = drawn
        torch.default_generator.manual_seed(_mixed(self.seed, place))  # the CPU only: it is quicker
        lost = None
        for following in range(_TRIES):
            at = (index + following) % len(self.pictures.paths)
            try:
                image = self._decoded(at)
            except ImageError as error:
                lost = lost or f"'{printable(self.pictures.paths[at])}': {error}"
                continue  # it went bad since it was checked: its neighbour stands in
            return self.view(image), self.pictures.targets[at], lost
        raise DatasetError(f"{_TRIES} pictures in a row cannot be read, the first {lost}")

    def _decoded(self, at: int) -> Image.Image:
        if at in self._kept:
            return self._kept[at]
        image = as_source(self.pictures.paths[at]).load(Decoding())
        pixels = image.width * image.height
        size = 4 * pixels + 1024
        if pixels <= _SMALL and size <= self._room:
            self._room -= size
            image.info = {}  # profiles and the like, which may be larger than the pixels
            self._kept[at] = image
        return image


class Order:
    """Which pictures one process sees in an epoch, batch by batch: a sampler of (place, index)."""

    def __init__(self, length: int, batch_size: int, seed: int, *, part: int, parts: int) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.part, self.parts = part, parts
        self.epoch, self.first = 0, 0  # where the next iteration begins: epoch, batch

    def __len__(self) -> int:
        return -(-self.length // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """This process's share of each batch; the last is filled up from the epoch's beginning."""
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self.length)
        order = np.resize(order, len(self) * self.batch_size)
        share = self.batch_size // self.parts
        for number in range(self.first, len(self)):
            start = number * self.batch_size + self.part * share
            offset = self.epoch * len(order)
            yield [(offset + i, int(order[i])) for i in range(start, start + share)]


def training_batches(dataset: Pictures, order: Order, *, workers: int) -> DataLoader[Any]:
    """Batches in an `Order`, decoded ahead by worker processes."""
    return DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_collate,
        persistent_workers=workers > 0,
        worker_init_fn=_stand_apart,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )


def validation_batches(
    dataset: Pictures, batch_size: int, *, workers: int, part: int, parts: int
) -> DataLoader[Any]:
    """Every picture once, shared out among `parts` processes."""
    mine = [(0, index) for index in range(part, len(dataset.pictures), parts)]
    return DataLoader(
        dataset,
        batch_sampler=[mine[i : i + batch_size] for i in range(0, len(mine), batch_size)],
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_stand_apart,
    )


def _collate(samples: list[Sample]) -> Batch:
    pixels, targets, lost = zip(*samples, strict=True)
    lasting = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)  # channels last in memory
    return Batch(lasting, torch.tensor(targets), [name for name in lost if name])


def _stand_apart(_: int) -> None:
    """Signals to the whole group are for the main process, which ends its workers in good order."""
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _mixed(seed: int, place: int) -> int:
    """Two numbers to one seed, so that neighbours have nothing in common (splitmix64)."""
    z = (seed * 0x9E3779B97F4A7C15 + place * 0xBF58476D1CE4E5B9 + 1) & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (z ^ (z >> 31)) >> 1
