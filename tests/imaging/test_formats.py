"""Every format that Pillow writes is read as Pillow reads it, but for the rules of depth."""

import io
import logging
import re
import struct
import warnings
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from resnest_cli.errors import ImageError
from resnest_cli.imaging.decode import decode
from resnest_cli.imaging.decode_options import DecodeOptions
from resnest_cli.imaging.image_formats import RARE, SUFFIXES, USUAL, is_image_name
from tests.conftest import ROOT, drawn
from tests.imaging.tiffs import ALPHA, GREY, SCENE, scaled, written

RGB = drawn(64, 64)  # an icon's size
MODES = (
    "1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16",
)  # fmt: skip
# what Pillow writes and this package does not open: programs, and what only other programs read
NOT_OPENED = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "FITS"}
Image.init()


def stored(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def in_mode(mode):
    if mode in ("I", "F", "I;16"):
        grey = np.asarray(RGB.convert("L")).astype(np.float64)
        made = {"I": (grey * 257).astype(np.int32), "F": (grey / 255).astype(np.float32),
                "I;16": (grey * 257).astype(np.uint16)}  # fmt: skip
        return Image.fromarray(made[mode])
    if mode == "LAB":
        return Image.frombytes("LAB", RGB.size, RGB.tobytes())
    return RGB.convert("LA").convert("PA") if mode == "PA" else RGB.convert(mode)


def as_pillow(content):
    """What Pillow's open and convert give, of 16 bits and floats by the rules of depth."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        if image.mode.startswith(("I", "F")):
            values = np.asarray(image, np.float64)
            scale = next((s for s in (1, 255) if image.mode == "F" and values.max() <= s), 65535)
            image = Image.fromarray(np.rint(values * (255 / scale)).astype(np.uint8))
        return image.convert("RGBA" if image.has_transparency_data else "RGB").convert("RGB")


@pytest.mark.parametrize("kind", sorted((Image.SAVE.keys() & Image.OPEN.keys()) - NOT_OPENED))
def test_what_pillow_writes_is_read_as_pillow_reads_it(kind):
    assert kind in (*USUAL, *RARE)
    read = 0
    for mode in MODES:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = stored(in_mode(mode), kind)
                expected = as_pillow(content)
        except (
            OSError,
            ValueError,
            KeyError,
            AssertionError,
            struct.error,
        ):  # not a mode of this format
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of IM
            assert np.array_equal(decode(content), expected), mode
        read += 1
    assert read


@pytest.mark.parametrize("kind", sorted(NOT_OPENED & Image.OPEN.keys()))
def test_other_formats_are_neither_opened_nor_searched_for(kind):
    assert kind not in (*USUAL, *RARE)
    theirs = [suffix for suffix, name in Image.EXTENSION.items() if name == kind]
    assert not [suffix for suffix in theirs if is_image_name(f"a{suffix}")]


def test_folders_are_searched_for_all_that_is_opened():
    opened = {s for s, name in Image.EXTENSION.items() if name in (*USUAL, *RARE)}
    # suffixes that mean something else far more often
    assert opened - {".mpg"} <= set(SUFFIXES)
    for suffix in ".mpo .apng .psd .qoi .jpf .avifs .pfm .rgb .bw .HEIC .Tif".split():
        assert is_image_name(f"folder.d/photo{suffix}")
    for name in ("photo.jpg.txt", "photo", "jpg", "photo.dcm", "photo.eps"):
        assert not is_image_name(name)


def differs(content, shown, **options):
    """By how much the pixels differ from those wanted, 0 to 1, at most, in 8 bits."""
    found = np.asarray(decode(content, DecodeOptions(**options)), np.float64)
    return np.abs(found - shown * 255).max()


BANDS = {
    "grey": (GREY[..., 0], GREY),
    "grey and alpha": (np.concatenate([GREY, ALPHA], -1), GREY),
    "RGB": (SCENE, SCENE),
    "RGBA": (np.concatenate([SCENE, ALPHA], -1), SCENE),
}


@pytest.mark.parametrize("bands", BANDS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 10, 12, 16, -8, -16])
def test_jpeg_2000_of_any_depth(bits, bands):
    """Negative bits stand for signed samples."""
    samples, shown = BANDS[bands]
    signed, full = bits < 0, 2 ** (abs(bits) - (bits < 0)) - 1
    dtype = ("int" if signed else "uint") + ("8" if abs(bits) <= 8 else "16")
    content = imagecodecs.jpeg2k_encode(
        scaled(samples, dtype, full), bitspersample=None if signed else bits,
        codecformat="jp2", reversible=True, level=0,
    )  # fmt: skip
    levels = min(full, 255)
    assert differs(content, np.rint(shown * levels) / levels) < 1.5


def test_jpeg_2000_without_imagecodecs_is_right_or_an_error(monkeypatch):
    deep = imagecodecs.jpeg2k_encode(scaled(SCENE, "uint16", 65535), reversible=True, level=0)
    grey = imagecodecs.jpeg2k_encode(
        scaled(GREY[..., 0], "uint16", 65535), reversible=True, level=0
    )
    monkeypatch.setattr("resnest_cli.errors.find_spec", lambda _: None)
    with pytest.raises(ImageError, match=r"JPEG 2000 \(3 x 16 bits\): imagecodecs is not .*pip"):
        decode(deep)
    assert differs(grey, GREY) < 1.5
    with pytest.raises(ImageError, match="too many pixels"):
        decode(grey, DecodeOptions(max_pixels=99))


@pytest.mark.parametrize("most", [1, 3, 100, 255, 256, 1023, 4095, 65535])
@pytest.mark.parametrize("magic", [b"P2", b"P3", b"P5", b"P6"])
def test_portable_maps_of_any_depth(magic, most):
    shown = GREY if magic in (b"P2", b"P5") else SCENE
    samples = np.rint(shown * most).astype(int)
    if magic in (b"P2", b"P3"):
        data = " ".join(map(str, samples.ravel())).encode()
    else:
        data = samples.astype(">u2" if most > 255 else np.uint8).tobytes()
    content = b"%s\n64 48\n%d\n%s" % (magic, most, data)
    assert differs(content, samples / most) < 1.5


@pytest.mark.parametrize("bands", BANDS)
@pytest.mark.parametrize("bits", [8, 16])
def test_png_of_8_and_16_bits(bits, bands):
    samples, shown = BANDS[bands]
    content = imagecodecs.png_encode(scaled(samples, f"uint{bits}", 2**bits - 1))
    assert differs(content, shown) < 1.5


@pytest.mark.parametrize("bands", ["grey", "RGB", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "planar TIFF"])
def test_a_small_range_is_reported_once_and_stretched(kind, bands, caplog):
    samples, shown = BANDS[bands]
    small = np.rint(samples * 1000 + 7000).astype(np.uint16)  # as of a thermal camera
    if bands == "RGBA":
        small[..., 3] = 65535
    if kind == "PNG":
        content = imagecodecs.png_encode(small)
    else:
        content = written(
            small[..., None] if bands == "grey" else small, planar="planar" in kind,
            photometric="minisblack" if bands == "grey" else "rgb",
            extrasamples=["unassalpha"] if bands == "RGBA" else None,
        )  # fmt: skip
    options = DecodeOptions()
    for name in ("first", "second"):
        assert np.asarray(decode(content, options, name=name)).max() < 32
    (record,) = caplog.records
    assert re.match(r"'first' uses only (7000|6939) to .* of 0 to 65535.*`stretch`", record.message)
    assert differs(content, shown, stretch=True) < 1.5
    assert len(caplog.records) == 1


def test_the_command_reports_it_once_and_names_the_option(run, tmp_path):
    small = np.rint(GREY[..., 0] * 1000 + 7000).astype(np.uint16)
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(imagecodecs.png_encode(small))
    plain = run("predict", ".", "-m", "demo", "-f", "csv")
    warning = r"warning: '.*[abc]\.png' uses only 7000 to 8000 of 0 to 65535.*; --stretch scales"
    assert len(re.findall(warning, plain.stderr)) == 1
    stretched = run("predict", ".", "-m", "demo", "-f", "csv", "--stretch")
    assert "warning" not in stretched.stderr
    assert (plain.returncode, stretched.returncode) == (0, 0)
    assert stretched.stdout != plain.stdout


def test_images_of_8_bits_are_not_stretched(caplog):
    dark = RGB.point([v // 20 for v in range(256)] * 3)
    for kind in ("PNG", "TIFF"):
        with caplog.at_level(logging.WARNING):
            assert np.array_equal(decode(stored(dark, kind), DecodeOptions(stretch=True)), dark)
    assert not caplog.records


JPEGS = [
    {}, {"progressive": True}, {"optimize": True}, {"subsampling": 0}, {"subsampling": 2},
    {"restart_marker_blocks": 3},
]  # fmt: skip


@pytest.mark.parametrize("options", JPEGS, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_that_lacks_only_its_end_marker_is_answered(options, mode):
    image = drawn(150, 100).convert(mode)
    whole = stored(image, "JPEG", **options)
    assert whole.endswith(b"\xff\xd9")
    for cut in (1, 2):
        assert np.array_equal(decode(whole[:-cut]), decode(whole))
    small = DecodeOptions(draft_size=20)
    assert np.array_equal(decode(whole[:-2], small), decode(whole, small))
    ends = [found.start() for found in re.finditer(b"\xff\xda", whole)][1:]  # of scans
    for length in (
        *range(len(whole) - 40, len(whole) - 3),
        *range(300, len(whole) - 40, 97),
        *ends,
    ):
        try:
            found = decode(whole[:length])
        except ImageError as error:
            assert "truncated" in str(error) or "damaged" in str(error)  # noqa: PT017
        else:  # the last byte may be padding
            assert length > len(whole) - 5
            assert np.array_equal(found, decode(whole))


def avif(width, height):
    """An AVIF whose header claims a size."""
    content = bytearray(stored(RGB, "AVIF"))
    at = content.index(b"ispe") + 8
    content[at : at + 8] = struct.pack(">II", width, height)
    return bytes(content)


def twelve_bits():
    content = bytearray(stored(RGB, "JPEG"))
    content[content.index(b"\xff\xc0") + 4] = 12
    return bytes(content)


UNREADABLE = {
    "12-bit JPEG": (twelve_bits(), "JPEG that cannot be read: .*12"),
    "PDF": (b"%PDF-1.7\n", "a PDF, not an image"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS .*git lfs pull"),
    "SVG": (b"<?xml version='1.0'?>\n<svg/>", "an SVG"),
    "JPEG XL": (imagecodecs.jpegxl_encode(np.asarray(RGB)), "JPEG XL, not an image"),
    "DICOM": (bytes(128) + b"DICM" + bytes(99), "DICOM"),
    "FITS": (b"SIMPLE  =                    T".ljust(2880), "FITS"),
    "video": (b"\0\0\0\x20ftypisom" + bytes(99), "a video"),
    "PSD of 16 bits": (
        b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 8, 8, 16, 3) + bytes(999),
        "Photoshop document of 16 bits",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_named(name):
    content, words = UNREADABLE[name]
    with pytest.raises(ImageError, match=words):
        decode(content)


@pytest.mark.skipif("AVIF" not in Image.SAVE, reason="this Pillow has no AVIF")
def test_an_avif_over_the_limit_says_so():
    for size, most, words in (
        ((40_000, 40_000), 178_956_970, r"too many pixels.*40,000 x 40,000 are more than"),
        ((15_000, 15_000), 178_956_970, r"too many pixels.*\(option max-pixels\)"),
        ((40_000, 40_000), 10**10, "40,000 x 40,000 pixels are more than its decoder takes"),
    ):
        with pytest.raises(ImageError, match=words):
            decode(avif(*size), DecodeOptions(max_pixels=most))


def test_the_documentation_lists_the_suffixes():
    page = (ROOT / "docs" / "reference" / "image-formats.md").read_text(encoding="utf-8")
    rows = [line for line in page.split("## Depth")[0].splitlines() if line.startswith("|")]
    assert sorted(re.findall(r"`(\.\w+)`", "".join(rows))) == sorted(SUFFIXES)


def test_jpeg_2000_of_9_bits_in_a_jp2():
    values = scaled(GREY[..., 0], "uint16", 511)
    content = imagecodecs.jpeg2k_encode(
        values, level=0, reversible=True, bitspersample=9, codecformat="jp2"
    )
    assert differs(content, GREY) < 1.5


def test_sun_rasters_of_32_bits_are_refused():
    head = struct.pack(">8I", 0x59A66A95, 2, 2, 32, 16, 1, 0, 0)
    with pytest.raises(ImageError, match="Sun raster of 32 bits"):
        decode(head + bytes(range(16)))


def test_a_bit_of_a_psd_is_ink():
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 1, 2, 8, 1, 0)
    content = head + bytes(12) + struct.pack(">H", 0) + b"\xff\x00"
    assert np.asarray(decode(content))[..., 0].tolist() == [[0] * 8, [255] * 8]


@pytest.mark.parametrize("bits", [2, 4])
def test_a_transparent_grey_of_few_bits_is_painted_over(bits):
    painted = np.asarray(decode(png_of_grey(bits), DecodeOptions(background=(9, 8, 7))))
    assert (painted == [9, 8, 7]).all()


def png_of_grey(bits):
    """A PNG of one transparent shade of grey."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    row = b"\0" + int("0b" + f"{2**bits - 2:0{bits}b}" * 8, 2).to_bytes(bits, "big")
    return b"\x89PNG\r\n\x1a\n" + b"".join([
        chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, 0)),
        chunk(b"tRNS", struct.pack(">H", 2**bits - 2)),
        chunk(b"IDAT", zlib.compress(row * 8)),
        chunk(b"IEND", b""),
    ])  # fmt: skip


def test_portable_maps_of_a_small_range_are_reported(caplog):
    content = b"P6 8 8 65535\n" + bytes([1, 0, 2, 0, 3, 0] * 64)
    decode(content, DecodeOptions(), name="x.ppm")
    assert "'x.ppm' uses only" in caplog.text
