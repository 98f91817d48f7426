"""TIFF: which kinds Pillow reads right, and the others by way of tifffile.

TIFF allows far more combinations of samples, colours, layouts and compressions than Pillow knows,
and some that it does not know it reads as something else. Each file is judged by its tags before
anything is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, TiffImagePlugin
from PIL.Image import Transpose

from resnest_cli.errors import ImageError
from resnest_cli.imaging.decode_options import DecodeOptions
from resnest_cli.imaging.depth import Depth, alpha_to_8_bits, to_8_bits
from resnest_cli.imaging.libtiff import listening
from resnest_cli.imaging.unreadable import require_readers, unsupported

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_ORIENTATION = 274
_READERS = ("tifffile", "imagecodecs")
_RGB, _PALETTE, _MASK, _CMYK, _YCBCR, _LAB = 2, 3, 4, 5, 6, 8
_COLOURS = {
    0: "grey, white is zero", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK",
    6: "YCbCr", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "camera raw", 32844: "LogL",
    32845: "LogLuv", 34892: "camera raw", 51177: "depth map",
}  # fmt: skip
_COMPRESSIONS = {
    1: "uncompressed", 2: "CCITT", 3: "CCITT", 4: "CCITT", 5: "LZW", 6: "JPEG", 7: "JPEG",
    8: "Deflate", 32773: "PackBits", 32946: "Deflate", 33003: "JPEG 2000", 33005: "JPEG 2000",
    34712: "JPEG 2000", 34887: "LERC", 34892: "lossy JPEG", 34925: "LZMA", 34933: "PNG",
    50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
_FULL_RANGE = (0, 255, 128, 255, 128, 255)  # ReferenceBlackWhite as in JPEG
_BY_PILLOW = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000, 50001)
_BY_TIFFFILE = (1, 5, 8, 32773, 32946, 34925, 50000)  # whose output imagecodecs bounds
_PREDICTED = (5, 8, 32946, 34925, 50000)  # compressions that a predictor belongs to
_ALPHA = {1: "a", 2: "A"}  # of ExtraSamples, to Pillow's modes; a: premultiplied
_BACK = {  # of each orientation, what turns an upright image back
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_90, 7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}  # fmt: skip
_LARGEST_TILE = 2**24  # bytes, even if fewer pixels are allowed
_MOST_BYTES = 10  # for each pixel that is allowed


@dataclass(frozen=True)
class TiffKind:
    """What the tags of a TIFF say of its first image."""

    little: bool  # byte order
    width: int
    height: int
    colours: int  # PhotometricInterpretation
    format: int  # SampleFormat: 1 unsigned, 2 signed, 3 float; 0 if samples differ
    bits: int  # of each sample; 0 if samples differ
    samples: int
    extra: tuple[int, ...]  # ExtraSamples: 0 unspecified, 1 premultiplied alpha, 2 alpha
    planar: bool  # samples in planes of their own
    compression: int
    predictor: int
    orientation: int
    colour_map: tuple[int, ...]
    tile: int  # pixels; 0 if it has strips
    plain: bool  # no further tag changes what the samples mean
    lacks_parts: bool  # fewer strips than the image needs
    opens_in_pillow: bool = True

    @classmethod
    def of(cls, tags: Mapping[int, Any], *, little: bool) -> TiffKind:
        """The kind of the image that tags, by their numbers, describe."""

        def ints(number: int, *default: int) -> tuple[int, ...]:
            value = tags.get(number, default)
            return tuple(int(v) for v in (value if isinstance(value, tuple) else (value,)))

        compression, height = ints(259, 1)[0], ints(257, 0)[0]
        samples = ints(277, 3 if compression == 6 else 1)[0]
        colours = ints(262, 1 if samples < 3 else _RGB)[0]
        colours = _YCBCR if compression == 6 else colours  # old JPEG, whatever the tag says
        planar = ints(284, 1)[0] == 2 and samples > 1
        strips = -(-height // max(ints(278, height)[0], 1)) * (samples if planar else 1)
        # a part at 0 is one that was never written, and is black
        parts = ints(324 if 322 in tags else 273)
        bits, formats = ints(258, 1)[:samples], ints(339, 1)[:samples]
        if colours == _CMYK:
            plain = ints(332, 1) == (1,)  # InkSet
        elif colours == _YCBCR:  # subsampling, coefficients (in thousandths), black and white
            luma = tuple(
                round(1000 * float(value)) for value in tags.get(529, (0.299, 0.587, 0.114))
            )
            whole = ints(532, *_FULL_RANGE) == _FULL_RANGE
            plain = ints(530, 2, 2) == (1, 1) and luma == (299, 587, 114) and whole
        else:
            plain = True
        return cls(
            little=little,
            width=ints(256, 0)[0],
            height=height,
            colours=colours,
            format=formats[0] if len(set(formats)) == 1 else 0,
            bits=bits[0] if len(set(bits)) == 1 and len(bits) in (1, samples) else 0,
            samples=samples,
            extra=ints(338),
            planar=planar,
            compression=compression,
            predictor=ints(317, 1)[0],
            orientation=ints(_ORIENTATION, 1)[0],
            colour_map=ints(320),
            tile=ints(322, 0)[0] * ints(323, 0)[0],
            plain=plain,
            lacks_parts=compression != 6 and 322 not in tags and len(parts) < strips,
            opens_in_pillow=262 in tags and 0 not in parts,
        )

    def __str__(self) -> str:
        """A phrase for messages."""
        kind = {1: "", 2: "signed ", 3: "float ", 5: "complex ", 6: "complex "}.get(self.format, "")
        words = [
            _COLOURS.get(self.colours, f"photometric interpretation {self.colours}"),
            f"{self.samples} x {self.bits} bits {kind}".rstrip() if self.bits else "mixed bits",
            *(["planar"] if self.planar else []),
            _COMPRESSIONS.get(self.compression, f"compression {self.compression}"),
        ]
        return f"TIFF ({', '.join(words)})"

    @property
    def depth(self) -> Depth:
        """What its samples mean, alpha apart."""
        kind = {2: "i", 3: "f"}.get(self.format, "u")
        return Depth.of(kind, self.bits, inverted=self.colours == 0)

    @property
    def right_in_pillow(self) -> bool:
        """Whether Pillow, if it opens such a file at all, gives what is in it."""
        known = self.bits and self.format and self.compression in _BY_PILLOW
        if not known or not self.opens_in_pillow or not self._planes_right_in_pillow:
            return False
        if self.colours in (0, 1):
            return self.samples <= 2 and self._grey_right_in_pillow
        if self.colours == _PALETTE:  # of 8 bits, as some write them, all colours would be black
            return self.bits <= 8 and self._has_whole_map and max(self.colour_map) > 255
        if self.colours == _YCBCR:
            return self.bits == 8 and (self.plain or self.compression != 1)
        right = self.colours in (_RGB, _CMYK, _LAB) and self.format == 1
        return right and self.bits in (8, 16) and self.plain

    @property
    def _has_whole_map(self) -> bool:
        return len(self.colour_map) == 3 << self.bits

    @property
    def _planes_right_in_pillow(self) -> bool:
        if not self.planar or self.colours in (_YCBCR, _LAB):
            return not self.planar
        if self.compression == 1:  # of 16 bits Pillow takes the wrong bytes
            alpha = (self.colours, self.extra) == (_RGB, (2,))
            return self.bits == 8 and (alpha or not self.extra)
        spare = max(self.extra, default=0) == 0
        return spare or self.extra == (2,) or (self.colours, self.extra) == (_RGB, (1,))

    @property
    def _grey_right_in_pillow(self) -> bool:
        if self.bits in (1, 2, 4, 8, 12):
            return self.format == 1
        # libtiff gives samples in the machine's byte order, which Pillow forgets
        return self.compression == 1 or self.little or (self.format, self.bits) == (1, 16)

    @property
    def right_in_tifffile(self) -> bool:
        """Whether tifffile reads it in bounded memory, and this module knows its colours."""
        k = self
        colours = {0: 1, 1: 1, _RGB: 3, _PALETTE: 1, _MASK: 1, _CMYK: 4}.get(k.colours)
        return (
            colours is not None
            and k.plain
            and (0 < k.bits <= 16 or k.bits in (32, 64))
            and k.format in (1, 2, 3)
            and (k.colours != _PALETTE or (k.format == 1 and k._has_whole_map))
            and k.compression in _BY_TIFFFILE
            and (k.predictor == 1 or k.compression in _PREDICTED)
            and k.samples == colours + len(k.extra)
            # further bands without a meaning: which of many would be the grey one?
            and (k.colours == _RGB or len(k.extra) <= 1)
        )

    def load(self, image: Image.Image, name: str) -> None:
        """Have Pillow decode it; `ImageError`, with libtiff's reason, if it cannot."""
        with listening(name) as words:
            try:
                image.load()
            except OSError as error:
                reason = words[-1] if words else str(error)
                damage = "" if "not configured" in reason else "damaged image: "
                raise ImageError(f"{self}: {damage}{reason}") from error

    def as_stored(self, image: Image.Image) -> Image.Image:
        """An image that Pillow has turned upright while it loaded it, turned back."""
        back = _BACK.get(self.orientation)
        return image if back is None else image.transpose(back)


def read_kind(file: IO[bytes]) -> TiffKind | None:
    """The kind of the first image of a TIFF; None if a file is not one."""
    head = file.read(16)
    if head[:4] not in TiffImagePlugin.PREFIXES:
        return None
    if head[:4] == b"MM\0\x2b":
        return _big_endian_kind(file)
    tags = TiffImagePlugin.ImageFileDirectory_v2(head if head[2] == 43 else head[:8])
    file.seek(tags.next)
    tags.load(file)
    return TiffKind.of(tags, little=tags.prefix == b"II")


def check_layout(kind: TiffKind, most: int) -> None:
    """Raise `ImageError` for missing strips, and for tiles larger than `most` pixels allow.

    Tiles are decoded whole, whatever the size of the image.
    """
    if kind.lacks_parts:
        raise ImageError(f"{kind}: damaged image: it has fewer strips than it needs")
    if kind.tile * kind.samples * max(kind.bits, 8) // 8 > max(_MOST_BYTES * most, _LARGEST_TILE):
        raise ImageError(f"{kind}: too large tiles (option max-pixels)")


def _big_endian_kind(file: IO[bytes]) -> TiffKind:
    """The kind of a BigTIFF in big-endian order, which Pillow cannot read."""
    require_readers("TIFF (BigTIFF, big-endian)", *_READERS)
    with _tifffile(file) as opened:
        values = {tag.code: tag.value for tag in opened.pages[0].tags}
    arrays = {code: tuple(v.tolist()) for code, v in values.items() if isinstance(v, np.ndarray)}
    return replace(TiffKind.of(values | arrays, little=False), opens_in_pillow=False)


def _tifffile(file: IO[bytes]) -> Any:
    from tifffile import TiffFile

    file.seek(0)
    # flags of microscopes' files that would have it read more than the first image
    return TiffFile(file, is_lsm=False, is_ndpi=False, is_scanimage=False)


def kind_of(image: Image.Image) -> TiffKind | None:
    """The kind of a TIFF that Pillow has opened; None if it does not hold the tags any more."""
    tags = getattr(image, "tag_v2", None)
    return None if tags is None else TiffKind.of(tags, little=tags.prefix == b"II")


def read(file: IO[bytes], kind: TiffKind, options: DecodeOptions, name: str) -> Image.Image:
    """The image by way of tifffile, in 8 bits, not turned; `ImageError` if that cannot read it."""
    if not kind.right_in_tifffile:
        raise unsupported(kind)
    require_readers(kind, *_READERS)
    values = _values(file, kind, options)
    own = kind.samples - len(kind.extra)
    if kind.colours == _PALETTE:
        shift = 8 if max(kind.colour_map, default=0) > 255 else 0
        colours = np.reshape(kind.colour_map, (3, -1)) >> shift
        bands = [band.astype(np.uint8)[values[..., 0]] for band in colours]
    else:
        bands = list(np.moveaxis(to_8_bits(values[..., :own], kind.depth, options, name), -1, 0))
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[len(bands)]
    alpha = _ALPHA.get(kind.extra[0]) if kind.extra and mode != "CMYK" else None
    if alpha is not None:
        mode += alpha
        bands.append(alpha_to_8_bits(values[..., own], kind.depth))
    image = Image.merge(mode, [Image.fromarray(np.ascontiguousarray(band)) for band in bands])
    image.getexif()[_ORIENTATION] = kind.orientation
    return image


def _values(file: IO[bytes], kind: TiffKind, options: DecodeOptions) -> NDArray[Any]:
    """The samples of the first image, (height, width, samples)."""
    bytes_each = kind.samples * -(-kind.bits // 8)
    if kind.width * kind.height * bytes_each > _MOST_BYTES * options.max_pixels:
        raise ImageError(f"{kind}: too large for {options.max_pixels:,} pixels (option max-pixels)")
    with _tifffile(file) as opened:
        page = opened.pages[0]
        shape = (kind.height, kind.width, kind.samples)
        # what was checked is what is decoded, whatever a file that says two things does
        read = (page.imagelength, page.imagewidth, page.samplesperpixel)
        tile = page.tilewidth * page.tilelength * page.tiledepth if page.is_tiled else 0
        if (
            read != shape
            or tile != kind.tile
            or page.bitspersample != kind.bits
            or page.imagedepth != 1
        ):
            raise ImageError(f"{kind}: damaged, or of a kind that cannot be read")
        values: NDArray[Any] = page.asarray(squeeze=False, maxworkers=1)
    # (planes, 1, height, width, samples of each plane)
    return np.moveaxis(values[:, 0, :, :, 0], 0, -1) if kind.planar else values[0, 0]
