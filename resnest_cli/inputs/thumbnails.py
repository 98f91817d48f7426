"""Small WebP copies of images, made by several threads and given in order."""

from __future__ import annotations

import base64
import io
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from resnest_cli.errors import ImageError
from resnest_cli.imaging.decode_options import DecodeOptions
from resnest_cli.inputs.source import Source

if TYPE_CHECKING:
    from PIL import Image

SIDE = 96  # pixels
_QUALITY = 50
_AHEAD = 64


@dataclass(frozen=True)
class Drawn(Source):
    """A drawing of which only the top is shown, without what is written below it."""

    shown: tuple[int, int] = (1, 1)  # width and height

    def load(self, options: DecodeOptions) -> Image.Image:
        """The image in mode RGB."""
        return super().load(replace(options, draft_size=None)).crop((0, 0, *self.shown))


def thumbnails(
    sources: Iterable[Source | None], settings: Mapping[str, Any], side: int = SIDE
) -> Iterator[str]:
    """The thumbnail of each image in base64; empty for None and for what cannot be read.

    Args:
        sources: in any number; they are read some ahead of what is taken.
        settings: those of the run, by which images are read as they were then.
        side: pixels of the longer one.
    """
    options = DecodeOptions(
        exif=settings.get("exif") is not False, draft_size=side, offline=True,
        max_pixels=settings.get("max_pixels") or DecodeOptions().max_pixels,
        stretch=bool(settings.get("stretch")),
    )  # fmt: skip
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    begun: deque[Future[str]] = deque()
    try:
        for source in sources:
            begun.append(pool.submit(_thumbnail, source, options, side))
            if len(begun) == _AHEAD:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _thumbnail(source: Source | None, options: DecodeOptions, side: int) -> str:
    from PIL import Image

    if source is None:
        return ""
    stored = io.BytesIO()
    try:
        image = source.load(options)
        image.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
        image.save(stored, "WEBP", quality=_QUALITY)
    except (ImageError, OSError, ValueError):
        return ""
    return base64.b64encode(stored.getvalue()).decode()
