"""Which labelled images to use: class folders, or a folder of images and a list of classes."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from resnest_cli.datasets.class_folders import LabelledImages, read_class_folders
from resnest_cli.datasets.ground_truth import read_ground_truth
from resnest_cli.errors import DatasetError, check_number
from resnest_cli.inputs.patterns import Selection
from resnest_cli.text import listed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledFolder:
    """A folder of labelled images, and which of them to use."""

    path: Path
    ground_truth: Path | None = None  # name and class in each line; default: class folders
    include: tuple[str, ...] = ()  # globs: use only images that match one, as in `Inputs`
    exclude: tuple[str, ...] = ()  # globs: leave out images that match one
    limit: int | None = None  # use N images only, spread evenly over all

    def read(self) -> LabelledImages:
        """The images and their classes.

        Raises:
            DatasetError: the folder or the list is unusable, or no image is selected.
            UsageError: `limit` is not a positive number.
        """
        if self.limit is not None:
            check_number("limit", self.limit, 1)
        if self.ground_truth:
            images = read_ground_truth(self.ground_truth, self.path)
        else:
            images = read_class_folders(self.path)
            used = set(images.used_classes)
            if empty := [name for name in images.classes if name not in used]:
                log.warning("class folders without images: %s", listed(empty))
        wanted = Selection(self.include, self.exclude).within(str(self.path))
        chosen = [
            index
            for index, path in enumerate(images.paths)
            if wanted(os.path.relpath(path, self.path))
        ]
        if not chosen:
            raise DatasetError("no image is selected by `include` and `exclude`")
        count = min(self.limit or len(chosen), len(chosen))
        return images.select(chosen[index * len(chosen) // count] for index in range(count))
