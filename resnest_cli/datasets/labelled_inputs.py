"""Labelled images that are no folder: in archives and object stores, named as by `Inputs`."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from resnest_cli.datasets.class_folders import LabelledImages, check_no_splits, is_utf8
from resnest_cli.errors import DatasetError, ResNeStError
from resnest_cli.imaging.image_formats import is_image_name
from resnest_cli.inputs.archives import (
    inner_name,
    is_archive_file,
    parquet_labels,
    webdataset_classes,
)
from resnest_cli.inputs.discover import expand
from resnest_cli.inputs.members import OBJECT, PARQUET, TAR, TAR_STREAM, Member
from resnest_cli.inputs.source import Source
from resnest_cli.inputs.stores import is_store_url, split
from resnest_cli.inputs.walk import LeftOut
from resnest_cli.progress import SUMMARY
from resnest_cli.text import counted, printable

log = logging.getLogger(__name__)


def is_folder(data: str | Path) -> bool:
    """Whether labelled images lie in a folder, and not in archives or a store."""
    name = str(data)
    inputs = is_store_url(name) or is_archive_file(name) or glob.has_magic(name)
    return not inputs or os.path.isdir(name)  # noqa: PTH112


@dataclass
class FoundImages:
    """Images of archives or of a store, and what each is called below these."""

    data: str
    sources: dict[str, Source] = field(default_factory=dict)  # by name; of two the last, as in tar
    inner: dict[str, str] = field(default_factory=dict)  # names in the archive, or below the prefix

    @classmethod
    def read(cls, data: str) -> FoundImages:
        """List them; `DatasetError` if a part cannot be listed, or holds none."""
        found, left_out = cls(data), LeftOut()
        try:
            for source in expand([data], left_out=left_out):
                name = source.name
                if source.error and not (is_image_name(name) and inner_name(name) != name):
                    raise DatasetError(f"'{printable(name)}': {source.error}")
                found.sources[name] = source
                found.inner[name] = found._inner(source)
        except DatasetError:
            raise
        except ResNeStError as error:
            raise DatasetError(str(error)) from error
        if left_out:
            log.log(SUMMARY, "'%s': %s", printable(data), left_out)
        return found

    def _inner(self, source: Source) -> str:
        member = source.content
        if not isinstance(member, Member):
            return inner_name(source.name)
        if member.kind != OBJECT:
            return source.name[len(member.file) + 1 :]
        key = split(member.file)[1]
        return key[len(self._prefix) :].lstrip("/") if key.startswith(self._prefix) else key

    @property
    def _prefix(self) -> str:
        """What the keys of objects begin with, if the classes are the folders below it."""
        key = split(self.data)[1] if is_store_url(self.data) else ""
        return "" if glob.has_magic(key) or is_image_name(key) else key

    def labelled(self) -> LabelledImages:
        """With the classes that the archives state, else with the names of folders.

        Raises:
            DatasetError: there are no classes.
        """
        labels = self._stated()
        rest = {name: self.inner[name] for name in self.sources if name not in labels}
        in_store = any(source.is_object for source in self.sources.values())
        labels |= _folders(rest, in_store and bool(self._prefix))
        if beside := len(self.sources) - len(labels):
            if not labels:
                raise DatasetError(
                    f"'{self.data}' states no classes\n"
                    "images must lie in folders named after their classes; WebDataset's .cls "
                    "files and Parquet's column 'label' are read too"
                )
            log.warning("%s beside the class folders left out", counted(beside, "image"))
        classes = sorted(set(labels.values()))
        for name in classes:
            if not is_utf8(name):
                raise DatasetError(f"a class is not UTF-8 text: '{printable(name)}'")
        check_no_splits(self.data, classes)
        index = {name: number for number, name in enumerate(classes)}
        paths = sorted(labels, key=lambda path: index[labels[path]])  # else in the order listed
        return LabelledImages(
            tuple(classes), tuple(paths), tuple(index[labels[p]] for p in paths), self.sources
        )

    def _stated(self) -> dict[str, str]:
        """The classes in Parquet columns, and in the files of WebDataset beside the images."""
        files: dict[tuple[str, str], list[str]] = {}
        for name, source in self.sources.items():
            if isinstance(member := source.content, Member):
                files.setdefault((member.kind, member.file), []).append(name)
        labels: dict[str, str] = {}
        for (kind, file), names in files.items():
            if kind == PARQUET:
                rows = parquet_labels(file)
                given = {n: rows.get(self.sources[n].content.place) for n in names}
            elif kind in (TAR, TAR_STREAM) and all("/" not in self.inner[n] for n in names):
                classes = webdataset_classes(file)
                given = {n: classes.get(self.inner[n].partition(".")[0]) for n in names}
            else:
                continue
            labels |= {name: text for name, text in given.items() if text is not None}
        return labels


def _folders(inner: Mapping[str, str], below_prefix: bool) -> dict[str, str]:
    """The first folder of each name, without those that all share, if these are not a prefix."""
    parts = {name: text.split("/")[:-1] for name, text in inner.items()}
    levels = () if below_prefix else zip(*parts.values(), strict=False)
    at = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
    if at and all(len(folders) == at for folders in parts.values()):
        at -= 1  # one class alone
    return {name: folders[at] for name, folders in parts.items() if len(folders) > at}
