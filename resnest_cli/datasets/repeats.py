"""Images that occur more than once, found by their pixels while they are decoded anyway."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from resnest_cli.inputs.source import Source, as_source

if TYPE_CHECKING:
    from PIL import Image

    from resnest_cli.imaging.decode_options import DecodeOptions

Fingerprints = dict[str, bytes]  # by path

FINGERPRINTS = "fingerprints.bin"  # of a run's training images, beside its checkpoints

_GRID = 512  # of larger images so many pixels a side are compared, evenly spaced
_BYTES = 8  # of a fingerprint: two of a million images share one with a chance of 1 in 40 million


@dataclass(frozen=True)
class NotedSource(Source):
    """An image whose fingerprint is noted when it is loaded."""

    found: Fingerprints = field(default_factory=dict)

    def load(self, options: DecodeOptions) -> Image.Image:
        """As of any source."""
        image = super().load(options)
        self.found[self.name] = _fingerprint(image)
        return image


def noted(images: Iterable[str | Source], found: Fingerprints) -> list[NotedSource]:
    """Images, or their paths, whose fingerprints are added to `found` as they are loaded."""
    sources = map(as_source, images)
    return [NotedSource(s.name, s.content, s.error, found=found) for s in sources]


def repeats(paths: Sequence[str], of: Sequence[str], found: Fingerprints) -> list[tuple[str, str]]:
    """Those of `paths` whose pixels are those of one in `of`, each with that one."""
    first = {found[path]: path for path in reversed(of) if path in found}
    return [(path, first[found[path]]) for path in paths if found.get(path) in first]


def write_fingerprints(file: Path, paths: Iterable[str], found: Fingerprints) -> None:
    """Store the fingerprints of some images, sorted: they don't show which image is whose."""
    file.write_bytes(b"".join(sorted(found[path] for path in paths if path in found)))


def read_fingerprints(file: Path) -> set[bytes]:
    """The fingerprints in a file; none if it is missing or cannot be read."""
    try:
        content = file.read_bytes()
    except OSError:
        return set()
    return {content[i : i + _BYTES] for i in range(0, len(content), _BYTES)}


def _fingerprint(image: Image.Image) -> bytes:
    """Bytes that follow from an image's size and pixels."""
    width, height = image.size
    if max(image.size) > _GRID:
        image = image.resize((min(width, _GRID), min(height, _GRID)), 0)  # 0: nearest pixels
    content = f"{image.mode} {width} {height} ".encode() + image.tobytes()
    return hashlib.sha256(content).digest()[:_BYTES]
