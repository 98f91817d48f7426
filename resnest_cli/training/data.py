"""Labelled images as batches, the same for any number of decoding processes.

Every random choice is a function of the seed, the epoch and the image's place in it. So a run that
is resumed within an epoch draws what it would have drawn, and no generator's state is stored.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from resnest_cli.datasets.class_folders import LabelledImages
from resnest_cli.errors import DatasetError, ImageError
from resnest_cli.imaging.decode_options import DEFAULT
from resnest_cli.inputs.source import as_source
from resnest_cli.text import printable
from resnest_cli.training.transforms import ImageTransform, mix_seed, seeded

log = logging.getLogger(__name__)

_MOST_SUBSTITUTIONS = 10  # images in a row that may have become unreadable since the check


class Sample(NamedTuple):
    """One image."""

    pixels: NDArray[np.uint8]  # (crop, crop, 3)
    target: int  # class index
    substituted: str | None = None  # an unreadable image that this one stands in for, and why


class Batch(NamedTuple):
    """The images of one step in one process."""

    pixels: Tensor  # uint8 (N, 3, crop, crop), channels last in memory
    targets: Tensor  # class indices (N)
    substituted: list[str]


class ImageDataset(Dataset[Sample]):
    """Decoded and transformed images, by (place among all that the run draws, index)."""

    def __init__(self, images: LabelledImages, transform: ImageTransform, seed: int) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed

    def __getitem__(self, drawn: tuple[int, int]) -> Sample:
        place, index = drawn
        substituted = None
        for offset in range(_MOST_SUBSTITUTIONS):
            at = (index + offset) % len(self.images)
            path = self.images.paths[at]
            try:
                image = as_source(path).load(DEFAULT)
            except ImageError as error:
                substituted = substituted or f"'{printable(path)}': {error}"
                continue
            with seeded(mix_seed(self.seed, place)):
                pixels = np.asarray(self.transform(image))
            return Sample(pixels, self.images.targets[at], substituted)
        raise DatasetError(
            f"{_MOST_SUBSTITUTIONS} images in a row cannot be read, the first {substituted}"
        )


class EpochSampler:
    """Which of `length` images a process gets in an epoch, batch by batch, as (place, index)."""

    def __init__(
        self, length: int, batch_size: int, seed: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch, self.first = 0, 0  # where the next iteration starts: epoch, batch

    def __len__(self) -> int:
        return -(-self.length // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """This process's part of each batch; the last batch is filled from the epoch's start."""
        rng = np.random.default_rng([self.seed, self.epoch])
        order = np.resize(rng.permutation(self.length), len(self) * self.batch_size)
        size = self.batch_size // self.world_size
        for number in range(self.first, len(self)):
            start = number * self.batch_size + self.rank * size
            offset = self.epoch * len(order)
            yield [(offset + i, int(order[i])) for i in range(start, start + size)]


def batches_in_order(
    length: int, batch_size: int, *, rank: int = 0, world_size: int = 1
) -> list[list[tuple[int, int]]]:
    """Batches that hold every image once, distributed over the processes."""
    own = [(0, index) for index in range(rank, length, world_size)]
    return [own[i : i + batch_size] for i in range(0, len(own), batch_size)]


def loader(
    dataset: Dataset[Sample],
    batches: Iterable[list[tuple[int, int]]],
    *,
    workers: int,
    lasting: bool = False,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Batches that `workers` processes decode ahead; `lasting` ones stay between epochs."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collate,
        persistent_workers=lasting and workers > 0,
        worker_init_fn=init_worker,
        prefetch_factor=4 if workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # otherwise the global one is drawn from
    )


def with_warnings(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches, with a warning for each image that became unreadable since it was checked."""
    try:
        for batch in batches:
            for image in batch.substituted:
                log.warning("%s; the next image stands in for it", image)
            yield batch
    except DatasetError as error:  # from a worker it comes with that one's traceback
        _, _, reason = str(error).strip().splitlines()[-1].rpartition("DatasetError: ")
        raise DatasetError(reason) from error


def init_worker(_: int) -> None:
    """Leave signals to the whole group to the main process, which ends its workers in order."""
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _collate(samples: list[Sample]) -> Batch:
    pixels = torch.from_numpy(np.stack([sample.pixels for sample in samples]))
    targets = torch.tensor([sample.target for sample in samples])
    substituted = [sample.substituted for sample in samples if sample.substituted]
    return Batch(pixels.permute(0, 3, 1, 2), targets, substituted)
