"""Which labelled images to use: class folders, or a folder of images and a list of classes."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from resnest_cli.datasets.class_folders import LabelledImages, read_class_folders
from resnest_cli.datasets.ground_truth import read_ground_truth
from resnest_cli.datasets.labelled_inputs import FoundImages, is_folder
from resnest_cli.errors import DatasetError, check_number
from resnest_cli.inputs.patterns import Selection
from resnest_cli.text import listed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledFolder:
    """A folder of labelled images, and which of them to use.

    It may also be an archive, a glob of archives, or a URL of an object store, as in `Inputs`.
    """

    path: Path | str
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
        found = None if is_folder(self.path) else FoundImages.read(str(self.path))
        folder = Path(self.path)
        if self.ground_truth:
            images = read_ground_truth(self.ground_truth, folder, found)
        elif found:
            images = found.labelled()
        else:
            images = read_class_folders(folder)
            used = set(images.used_classes)
            if empty := [name for name in images.classes if name not in used]:
                log.warning("class folders without images: %s", listed(empty))
        wanted = Selection(self.include, self.exclude).within(str(self.path))
        chosen = [
            index
            for index, path in enumerate(images.paths)
            if wanted(found.inner[path] if found else os.path.relpath(path, folder))
        ]
        if not chosen:
            raise DatasetError("no image is selected by `include` and `exclude`")
        count = min(self.limit or len(chosen), len(chosen))
        return images.select(chosen[index * len(chosen) // count] for index in range(count))
