"""Which of a network's classes a truth means: by its name, its WordNet id or its index."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import DatasetError
from resnest_cli.folders import LabelledPictures
from resnest_cli.labels import Labels
from resnest_cli.writers import printable


def match(names: Sequence[str], labels: Labels) -> list[int | None]:
    """For each name the index of the class it means, or None.

    Tried in turn: the class's name; its WordNet id, alone or before a space, `_` or `-`; its index,
    unless names are numbers themselves; and its name once more, whatever the case of its letters
    and whether spaces, `_` or `-` stand between its words.
    """
    names_are_numbers = any(name.isdigit() for name in labels.names)
    exact = _unique(labels.names)
    wnids = {wnid: index for index, wnid in enumerate(labels.wnids or ())}
    plain = _unique([_plain(name) for name in labels.names])
    found: list[int | None] = []
    for name in names:
        wnid = re.split("[ _-]", name, maxsplit=1)[0]
        if name in exact:
            found.append(exact[name])
        elif wnid in wnids:
            found.append(wnids[wnid])
        elif name.isascii() and name.isdigit() and not names_are_numbers:
            found.append(int(name) if int(name) < len(labels) else None)
        else:
            found.append(plain.get(_plain(name)))
    return found


def _unique(names: Sequence[str]) -> dict[str, int | None]:
    """The index of each name; None for one that several classes have, and for an empty one."""
    indices: dict[str, int | None] = {}
    for index, name in enumerate(names):
        indices[name] = None if name in indices or not name else index
    return indices


def targets(
    pictures: LabelledPictures, labels: Labels, *, skip_unknown: bool = False
) -> tuple[LabelledPictures, NDArray[np.int64]]:
    """The pictures whose class the network has, and the index of it for each.

    Raises:
        DatasetError: classes mean none of the network's, and are not to be skipped; or all do.
    """
    indices = match(pictures.classes, labels)
    known = [i for i, target in enumerate(pictures.targets) if indices[target] is not None]
    used = [pictures.classes[t] for t in sorted(set(pictures.targets)) if indices[t] is None]
    if (used and not skip_unknown) or not known:
        shown = ", ".join(f"'{printable(name)}'" for name in used[:5])
        some = ", ".join(f"'{printable(name)}'" for name in labels.names[:3])
        raise DatasetError(
            f"{len(used):,} of {len(set(pictures.targets)):,} classes in the data are none of the "
            f"network's: {shown}{', ...' if used[5:] else ''}\n"
            f"name them as the network does ({some}, ...), by WordNet id or by index"
            + ("" if not known else ", or leave them out with --skip-unknown")
        )
    chosen = pictures.select(known)
    return chosen, np.array([indices[target] for target in chosen.targets], np.int64)


def _plain(name: str) -> str:
    """A name without case, and with one space for spaces, `_` and `-` between words."""
    return " ".join(re.split(r"[\s_-]+", name.casefold())).strip()
