"""What a file is, by its first bytes, that stands where an image or a checkpoint was expected."""

from __future__ import annotations

_UNPACK = "unpack it, and use the file inside"
_KINDS = (  # where, by which bytes, what it is, and what to do
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run 'git lfs pull'"),
    (0, b"\x1f\x8b\x08", "compressed with gzip", _UNPACK),
    (0, b"BZh", "compressed with bzip2", _UNPACK),
    (0, b"\xfd7zXZ", "compressed with xz", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (0, b"PK\3\4", "a ZIP archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    *((at, first, what, "") for at, first, what in (
        (0, b"\x93NUMPY", "a NumPy array"), (0, b"\x89HDF", "an HDF5 file"),
        (0, b"%PDF", "a PDF"), (0, b"%!PS", "PostScript"), (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
        (0, b"\xff\x0a", "JPEG XL"), (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
        (0, b"II\xbc\1", "JPEG XR"), (0, b"SIMPLE  =", "FITS"), (128, b"DICM", "DICOM"),
        (0, b"v/1\1", "OpenEXR"), (0, b"P7\n", "a PAM"), (0, b"PF\n", "a colour PFM"),
        (0, b"#?RADIANCE", "Radiance HDR"), (0, b"#?RGBE", "Radiance HDR"),
        (0, b"8BPS\0\2", "a large Photoshop document (PSB)"),
        (0, b"FUJIFILM", "a camera's raw data"), (0, b"\x1aE\xdf\xa3", "a video"),
        (4, b"ftypisom", "a video"), (4, b"ftypmp42", "a video"), (4, b"ftypqt", "a video"),
    )),
)  # fmt: skip


def file_kind(head: bytes) -> tuple[str, str] | None:
    """What a file is that begins like this, and what to do, if that is known; None: neither."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page (to log in?)", "download the file itself"
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        return "an SVG drawing", ""
    fitting = ((what, remedy) for at, first, what, remedy in _KINDS if head.startswith(first, at))
    return next(fitting, None)
