"""The image formats that are opened, and the names that their files have: one table.

Formats that Pillow knows and this table does not are never opened: others have Ghostscript or
Windows execute what is in the file (EPS, WMF), open whatever they find in a container (IPTC, FPX,
MIC), are read wrong (FITS without its scaling) or have no mark by which they are recognised (IMT).
"""

from __future__ import annotations

USUAL = ("JPEG", "PNG", "GIF", "BMP", "PPM")  # whose readers Pillow loads first

# Pillow's name of each format -> the suffixes of its files; HEIF is opened only where a program has
# registered a reader for it
_FORMATS = {
    "JPEG": ".jpg .jpeg .jpe .jfif",
    "PNG": ".png .apng",
    "GIF": ".gif",
    "BMP": ".bmp",
    "PPM": ".ppm .pgm .pbm .pnm .pfm",
    "MPO": ".mpo",
    "WEBP": ".webp",
    "TIFF": ".tif .tiff",
    "AVIF": ".avif .avifs",
    "JPEG2000": ".jp2 .j2k .jpx .jpf .jpc .j2c",
    "DIB": ".dib",
    "TGA": ".tga .icb .vda .vst",
    "ICO": ".ico",
    "CUR": ".cur",
    "ICNS": ".icns",
    "PCX": ".pcx",
    "DCX": ".dcx",
    "SGI": ".sgi .rgb .rgba .bw",
    "PSD": ".psd",
    "QOI": ".qoi",
    "DDS": ".dds",
    "BLP": ".blp",
    "FTEX": ".ftc .ftu",
    "FLI": ".fli .flc",
    "GBR": ".gbr",
    "IM": ".im",
    "MSP": ".msp",
    "PCD": ".pcd",
    "PIXAR": ".pxr",
    "SPIDER": ".spi",
    "SUN": ".ras .sun",
    "XBM": ".xbm",
    "XPM": ".xpm",
    "HEIF": ".heic .heif .hif .heics .heifs",
}
RARE = tuple(name for name in _FORMATS if name not in USUAL)
SUFFIXES = tuple(" ".join(_FORMATS.values()).split())


def is_image_name(name: str) -> bool:
    """Whether a file, by its name, is one that a folder is searched for.

    A file that is named outright is opened whatever it is called.
    """
    return name.lower().endswith(SUFFIXES)
