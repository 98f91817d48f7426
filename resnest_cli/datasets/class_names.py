"""Which of a network's classes a name means: by class name, WordNet id or index."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resnest_cli.catalog.labels import Labels, numbered
from resnest_cli.datasets.class_folders import LabelledImages
from resnest_cli.errors import DatasetError
from resnest_cli.inputs.names import Names
from resnest_cli.text import counted, listed, nfc

log = logging.getLogger(__name__)

_MOST_LISTED = 50  # classes left out


def match(names: Sequence[str], class_names: Labels) -> list[int | None]:
    """For each name the index of the class it means, or None.

    Tried in turn: the class's name, also in another Unicode form and without spaces around it; its
    WordNet id, alone or before a space, `_` or `-`; its index, unless class names are numbers
    themselves; and its name again, ignoring case and whether spaces, `_` or `-` separate the words.

    Raises:
        DatasetError: a name is that of several classes, each in another Unicode form.
    """
    names_are_numbers = any(name.isdigit() for name in class_names.names)
    exact = Names(_unique(class_names.names).items())
    wnids = {wnid: index for index, wnid in enumerate(class_names.wnids or ())}
    plain = _unique([_plain(name) for name in class_names.names])
    found: list[int | None] = []
    for raw in names:
        name = raw.strip()
        wnid = re.split("[ _-]", name, maxsplit=1)[0]
        index = exact.get(raw)
        index = exact.get(name) if index is None else index
        if index is not None:
            found.append(index)
        elif wnid in wnids:
            found.append(wnids[wnid])
        elif name.isascii() and name.isdigit() and not names_are_numbers:
            found.append(int(name) if int(name) < len(class_names) else None)
        else:
            found.append(plain.get(_plain(name)))
    return found


def match_images(
    images: LabelledImages, class_names: Labels, *, skip_unknown: bool = False
) -> tuple[LabelledImages, NDArray[np.int64]]:
    """The images whose class a network has, and the network's index of each one's class, (N).

    Raises:
        DatasetError: the network lacks some of the classes and `skip_unknown` is not set, or all.
    """
    indices = match(images.classes, class_names)
    known = [i for i, target in enumerate(images.targets) if indices[target] is not None]
    used = sorted(set(images.targets))
    unknown = [images.classes[target] for target in used if indices[target] is None]
    if (unknown and not skip_unknown) or not known:
        skip = ", or leave them out with `skip_unknown`" if known else ""
        hint = f"the network's class names, such as {listed(class_names.names, 3)}, WordNet ids"
        if class_names == numbered(len(class_names)):
            hint = "`labels=FILE` for class names, which the checkpoint does not have,"
        raise DatasetError(
            f"the data has {counted(len(unknown), 'class')} that the network lacks, of "
            f"{len(used):,}: {listed(unknown)}\nuse {hint} or indices{skip}"
        )
    if unknown:
        log.warning(
            "%s of %s that the network lacks left out: %s",
            counted(len(images) - len(known), "image"), counted(len(unknown), "class"),
            listed(unknown, _MOST_LISTED),
        )  # fmt: skip
    chosen = images.select(known)
    return chosen, np.array([indices[target] for target in chosen.targets], np.int64)


def _unique(names: Sequence[str]) -> dict[str, int | None]:
    """The index of each name; None for one that several classes have, and for an empty one."""
    indices: dict[str, int | None] = {}
    for index, name in enumerate(names):
        indices[name] = None if name in indices or not name else index
    return indices


def _plain(name: str) -> str:
    """A name without case, and with one space for spaces, `_` and `-` between words."""
    return " ".join(re.split(r"[\s_-]+", nfc(name).casefold())).strip()
