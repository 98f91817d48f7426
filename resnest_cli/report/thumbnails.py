"""Small WebP copies of images, made by several threads and given in order."""

from __future__ import annotations

import base64
import io
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from resnest_cli.errors import ImageError
from resnest_cli.imaging.decode_options import DecodeOptions

SIDE = 96  # pixels
_QUALITY = 50
_AHEAD = 64


def thumbnails(files: Iterable[Path | None], settings: Mapping[str, Any]) -> Iterator[str]:
    """The thumbnail of each file in base64; empty for None and for what cannot be read.

    `settings` are those of the run, by which images are read as they were then.
    """
    options = DecodeOptions(
        exif=settings.get("exif") is not False, draft_size=SIDE, offline=True,
        max_pixels=settings.get("max_pixels") or DecodeOptions().max_pixels,
        stretch=bool(settings.get("stretch")),
    )  # fmt: skip
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    begun: deque[Future[str]] = deque()
    try:
        for file in files:
            begun.append(pool.submit(_thumbnail, file, options))
            if len(begun) == _AHEAD:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _thumbnail(file: Path | None, options: DecodeOptions) -> str:
    from PIL import Image

    from resnest_cli.imaging.decode import decode

    if file is None:
        return ""
    stored = io.BytesIO()
    try:
        image = decode(file, options)
        image.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
        image.save(stored, "WEBP", quality=_QUALITY)
    except (ImageError, OSError, ValueError):
        return ""
    return base64.b64encode(stored.getvalue()).decode()
