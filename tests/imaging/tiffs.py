"""TIFFs of every kind, written by tifffile from one drawn scene, and the pixels that they show."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

HEIGHT, WIDTH = 48, 64
_Y, _X = np.mgrid[0:HEIGHT, 0:WIDTH]
SCENE = np.stack([_X / (WIDTH - 1), _Y / (HEIGHT - 1), (_X + _Y) / (WIDTH + HEIGHT - 2)], -1)
SCENE = SCENE * 0.8 + 0.1  # on the scale 0 to 1
SCENE[(_X - 40) ** 2 + (_Y - 14) ** 2 < 64] = 1
SCENE[:4, :4] = 0
GREY = SCENE[..., :1]
ALPHA = (_X[..., None] + 1) / WIDTH
FULL = {  # what white is in each type
    "uint8": 2**8 - 1, "uint16": 2**16 - 1, "uint32": 2**32 - 1, "uint64": 2**64 - 1,
    "int8": 2**7 - 1, "int16": 2**15 - 1, "int32": 2**31 - 1,
    "float16": 1, "float32": 1, "float64": 1,
}  # fmt: skip
LAYOUTS: tuple[dict[str, Any], ...] = (
    {}, {"tile": (16, 32)}, {"rowsperstrip": 7}, {"tile": (64, 64)},
)  # fmt: skip
COMPRESSIONS: tuple[dict[str, Any], ...] = (
    {}, {"compression": "deflate"}, {"compression": "lzw"}, {"compression": "packbits"},
    {"compression": "lzma"}, {"compression": "zstd"},
    {"compression": "deflate", "predictor": True}, {"compression": "lzw", "predictor": True},
)  # fmt: skip


@dataclass(frozen=True)
class Colours:
    """A photometric interpretation, with its samples on the scale 0 to 1 and what they show."""

    samples: NDArray[np.float64]
    shown: NDArray[np.float64] | None  # grey or RGB, 0 to 1; None: no colours
    photometric: str
    extra: list[str] = field(default_factory=list)
    premultiplied: bool = False


def _with(*bands: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate(bands, -1)


BLACK = np.zeros_like(GREY)
COLOURS = {
    "black is zero": Colours(GREY, GREY, "minisblack"),
    "white is zero": Colours(1 - GREY, GREY, "miniswhite"),
    "RGB": Colours(SCENE, SCENE, "rgb"),
    "RGB, 1 more": Colours(_with(SCENE, ALPHA), SCENE, "rgb", ["unspecified"]),
    "RGB, 2 more": Colours(_with(SCENE, ALPHA, ALPHA), SCENE, "rgb", ["unspecified"] * 2),
    "RGBA": Colours(_with(SCENE, ALPHA), SCENE, "rgb", ["unassalpha"]),
    "RGBA, 1 more": Colours(
        _with(SCENE, ALPHA, ALPHA), SCENE, "rgb", ["unassalpha", "unspecified"]
    ),
    "RGBa": Colours(_with(SCENE * ALPHA, ALPHA), SCENE, "rgb", ["assocalpha"], True),
    "grey, 1 more": Colours(_with(GREY, ALPHA), GREY, "minisblack", ["unspecified"]),
    "grey, alpha": Colours(_with(GREY, ALPHA), GREY, "minisblack", ["unassalpha"]),
    "white, alpha": Colours(_with(1 - GREY, ALPHA), GREY, "miniswhite", ["unassalpha"]),
    "grey, premultiplied": Colours(
        _with(GREY * ALPHA, ALPHA), GREY, "minisblack", ["assocalpha"], True
    ),
    "CMYK": Colours(_with(1 - SCENE, BLACK), SCENE, "separated"),
    "CMYK, 1 more": Colours(_with(1 - SCENE, BLACK, ALPHA), SCENE, "separated", ["unspecified"]),
    "5 bands": Colours(_with(SCENE, ALPHA, ALPHA), None, "minisblack", ["unspecified"] * 4),
}


def scaled(values: NDArray[np.float64], dtype: str, full: int) -> NDArray[Any]:
    """Values from 0 to 1 as samples of a type."""
    if full < 2**52:
        whole = values * full if dtype.startswith("float") else np.rint(values * full)
        return whole.astype(dtype)
    exact = [round(value * 2**40) * full >> 40 for value in values.ravel()]
    return np.array(exact, dtype).reshape(values.shape)


def written(samples: NDArray[Any], *, planar: bool = False, **options: Any) -> bytes:
    """Samples (height, width, bands) as a TIFF."""
    out = io.BytesIO()
    head = {name: options.pop(name) for name in ("byteorder", "bigtiff") if name in options}
    if samples.shape[-1] == 1:
        samples = samples[..., 0]
    elif planar:
        samples, options["planarconfig"] = np.moveaxis(samples, -1, 0), "separate"
    else:
        options["planarconfig"] = "contig"
    with tifffile.TiffWriter(out, **head) as file:
        file.write(samples, metadata=None, **options)
    return out.getvalue()


def matrix(name: str) -> Iterator[tuple[str, bytes]]:
    """Some combinations of type, byte order, layout and compression of one of `COLOURS`."""
    colours = COLOURS[name]
    options = {"photometric": colours.photometric, "extrasamples": colours.extra or None}
    number = 0
    for dtype in FULL:
        for byteorder in "<>":
            for planar in (False, True)[: colours.samples.shape[-1]]:
                for _ in range(3):
                    number += 1
                    more = COMPRESSIONS[number % 8] | LAYOUTS[number // 2 % 4]
                    if more.get("predictor"):
                        more["predictor"] = 3 if dtype.startswith("float") else 2
                    more |= {"byteorder": byteorder, "bigtiff": number % 3 == 0, "planar": planar}
                    samples = scaled(colours.samples, dtype, FULL[dtype])
                    yield f"{name} {dtype} {more}", written(samples, **options, **more)


def packed(name: str) -> Iterator[tuple[str, int, bytes]]:
    """The same of 1 to 15 bits. (tifffile does not read what it writes of them in big endian.)"""
    colours = COLOURS[name]
    options = {"photometric": colours.photometric, "extrasamples": colours.extra or None}
    for bits in (1, 2, 3, 4, 5, 6, 7, 9, 10, 12, 14, 15):
        samples = scaled(colours.samples, "uint8" if bits < 9 else "uint16", 2**bits - 1)
        for planar in (False, True)[: samples.shape[-1]]:
            content = written(samples, planar=planar, bitspersample=bits, **options)
            yield f"{name} {bits} bits, planar: {planar}", bits, content
