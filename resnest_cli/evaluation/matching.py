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

    Tried in turn: the class's name; its WordNet id, alone or before a `_` or `-`; its index; and
    its name once more, with case and the signs between words left out of account.
    """
    exact = {name: index for index, name in enumerate(labels.names)}
    wnids = {wnid: index for index, wnid in enumerate(labels.wnids or ())}
    plain: dict[str, int | None] = {}
    for index, name in enumerate(labels.names):
        plain[_plain(name)] = None if _plain(name) in plain else index  # None: not one class only
    found: list[int | None] = []
    for name in names:
        wnid = re.split("[_-]", name, maxsplit=1)[0]
        if name in exact:
            found.append(exact[name])
        elif wnid in wnids:
            found.append(wnids[wnid])
        elif name.isascii() and name.isdigit() and int(name) < len(labels):
            found.append(int(name))
        else:
            found.append(plain.get(_plain(name)))
    return found


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
    return " ".join(re.split(r"[\W_]+", name.casefold())).strip()
