"""TIFF of every kind: right, or an error that says what kind it is; never wrong pixels."""

import io
import itertools
import json
import random
import re
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from resnest_cli.errors import ImageError
from resnest_cli.imaging.decode import decode, to_rgb
from resnest_cli.imaging.decode_options import DecodeOptions
from tests.imaging.tiffs import (
    ALPHA,
    BLACK,
    COLOURS,
    GREY,
    HEIGHT,
    SCENE,
    WIDTH,
    matrix,
    packed,
    scaled,
    written,
)  # fmt: skip

RGB8 = scaled(SCENE, "uint8", 255)


def error_of(content, shown, *, levels=255, premultiplied=False):
    """By how much the pixels differ from what a TIFF shows, at most, in 8 bits."""
    wanted = np.rint(shown * levels) * (255 / levels)
    found = np.asarray(decode(content), np.float64)
    # the colours of premultiplied alpha are as exact as it is
    where = ALPHA[..., 0] > 0.5 if premultiplied else np.full(found.shape[:2], True)
    return np.abs(found - wanted)[where].max() - 2 * premultiplied


@pytest.mark.parametrize("name", COLOURS)
def test_every_combination_is_right(name):
    colours = COLOURS[name]
    tried = 0
    for label, content in matrix(name):
        tried += 1
        if colours.shown is None:
            with pytest.raises(ImageError, match=r"TIFF .*5 x .*a kind that cannot be read"):
                decode(content)
        else:
            error = error_of(content, colours.shown, premultiplied=colours.premultiplied)
            assert error < (2.5 if "int8" in label else 1.5), label  # of 7 bits
    assert tried >= 60  # so 15 kinds are 1,600 in all


@pytest.mark.parametrize("name", COLOURS)
def test_without_tifffile_none_is_wrong(name, monkeypatch):
    monkeypatch.setattr("resnest_cli.errors.find_spec", lambda _: None)
    colours = COLOURS[name]
    answered = 0
    for label, content in matrix(name):
        try:
            shown = BLACK if colours.shown is None else colours.shown
            error = error_of(content, shown, premultiplied=colours.premultiplied)
        except ImageError as reason:
            assert str(reason).startswith("TIFF ("), label  # noqa: PT017
            pip = str(reason).endswith("not installed: pip install 'resnest-cli[formats]'")
            assert pip or colours.shown is None, (label, reason)  # noqa: PT017
        else:
            answered += 1
            assert error < 1.5, label
    assert answered or name in ("5 bands", "white, alpha")


@pytest.mark.parametrize("name", [n for n in COLOURS if COLOURS[n].shown is not None])
def test_any_number_of_bits_is_right(name):
    colours = COLOURS[name]
    for label, bits, content in packed(name):
        if colours.premultiplied and bits < 8:  # which is hardly a colour
            continue
        levels = 255 if bits > 8 else 2**bits - 1
        if colours.photometric in ("miniswhite", "separated") and bits < 8:
            shown = 1 - np.rint((1 - colours.shown) * levels) / levels  # the other way at a half
        else:
            shown = colours.shown
        options = {"levels": levels, "premultiplied": colours.premultiplied}
        assert error_of(content, shown, **options) < 1.5, label


def plain_tiff(data, bits, *, order="<", colours=1, more=()):
    """A TIFF of one grey or palette strip, its tags as they are given."""
    tags = {256: WIDTH, 257: HEIGHT, 258: bits, 259: 1, 262: colours, 273: 0, 277: 1, 278: HEIGHT,
            279: len(data), **dict(more)}  # fmt: skip
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = (struct.pack(order + "HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    head = struct.pack(order + "2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags))
    return head + b"".join(entries) + bytes(4) + data


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 7, 9, 10, 12, 14, 15])
def test_packed_samples_in_either_byte_order(bits, compression, order, monkeypatch):
    """Samples follow each other bit by bit, whatever the order of bytes elsewhere."""
    if bits in (1, 2, 4) or (bits == 12 and order == "<"):  # Pillow suffices
        monkeypatch.setattr("resnest_cli.errors.find_spec", lambda _: None)
    samples = scaled(GREY, "uint16", 2**bits - 1)
    digits = "".join(f"{value:0{bits}b}" for value in samples.ravel())
    data = int(digits, 2).to_bytes(len(digits) // 8, "big")  # a row fills whole bytes
    data = data if compression == 1 else zlib.compress(data)
    content = plain_tiff(data, bits, order=order, more={259: compression})
    assert error_of(content, GREY, levels=min(255, 2**bits - 1)) < 1.5


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_bits_in_reversed_order(bits):
    samples = scaled(GREY, "uint16", 2**bits - 1)
    digits = "".join(f"{value:0{bits}b}" for value in samples.ravel())
    data = int(digits, 2).to_bytes(len(digits) // 8, "big")
    data = samples.astype("<u2").tobytes() if bits == 16 else data
    swapped = bytes(int(f"{byte:08b}"[::-1], 2) for byte in data)
    content = plain_tiff(swapped, bits, more={266: 2})
    assert error_of(content, GREY, levels=min(255, 2**bits - 1)) < 1.5


@pytest.mark.parametrize("factor", [1, 256, 257])
def test_palettes_of_8_and_16_bits(factor):
    indices = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1) % 256
    colours = np.random.default_rng(0).integers(0, 256, (3, 256))
    content = written(
        indices.astype(np.uint8), photometric="palette",
        colormap=(colours * factor).astype(np.uint16),
    )  # fmt: skip
    assert np.array_equal(decode(content), np.moveaxis(colours[:, indices[..., 0]], 0, -1))


def test_palettes_of_many_colours():
    indices = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH, 1) * 21
    colours = np.random.default_rng(0).integers(0, 65536, (3, 65536)).astype(np.uint16)
    content = written(indices, photometric="palette", colormap=colours)
    assert np.array_equal(decode(content), np.moveaxis(colours[:, indices[..., 0]] >> 8, 0, -1))


@pytest.mark.parametrize("compression", [None, "lzw"])
def test_luma_and_chroma(compression):
    samples = np.asarray(Image.fromarray(RGB8).convert("YCbCr"))
    content = written(samples, photometric="ycbcr", compression=compression, subsampling=(1, 1))
    assert error_of(content, SCENE) <= 3
    if compression is None:  # Pillow would take subsampled ones for whole ones
        halved = content.replace(
            struct.pack("<HHIHH", 530, 3, 2, 1, 1), struct.pack("<HHIHH", 530, 3, 2, 2, 2)
        )
        assert halved != content
        with pytest.raises(ImageError, match=r"TIFF \(YCbCr, 3 x 8 bits, uncompressed\)"):
            decode(halved)


@pytest.mark.parametrize("kind", ["webp", "jpegxl", "jpeg2000", "lerc"])
def test_other_compressions_are_named(kind):
    content = written(RGB8, photometric="rgb", compression=kind)
    names = {"webp": "WebP", "jpegxl": "JPEG XL", "jpeg2000": "JPEG 2000", "lerc": "LERC"}
    try:
        assert error_of(content, SCENE) < 30  # where libtiff knows it
    except ImageError as error:
        assert names[kind] in str(error)  # noqa: PT017
        assert "decoder error" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"photometric": "icclab"}, "ICCLab, 3 x 8 bits"),
        ({"photometric": "cielab", "planar": True}, "CIELab, 3 x 8 bits, planar"),
        ({"photometric": "minisblack", "extrasamples": [0, 0]}, "grey, 3 x 8 bits"),
    ],
)
def test_other_colours_are_named(options, words):
    with pytest.raises(ImageError, match=words):
        decode(written(RGB8, **options))


@pytest.mark.parametrize("samples", [RGB8, SCENE.astype(np.float32)], ids=["Pillow", "tifffile"])
@pytest.mark.parametrize("compression", [None, "lzw"])
def test_the_orientation_is_applied_or_not(samples, compression):
    turned = {
        1: RGB8, 2: RGB8[:, ::-1], 3: RGB8[::-1, ::-1], 4: RGB8[::-1],
        5: RGB8.transpose(1, 0, 2), 6: RGB8[::-1].transpose(1, 0, 2),
        7: RGB8[::-1, ::-1].transpose(1, 0, 2), 8: RGB8[:, ::-1].transpose(1, 0, 2),
    }  # fmt: skip
    for orientation, upright in turned.items():
        tags = [(274, 3, 1, orientation, True)]
        content = written(samples, photometric="rgb", compression=compression, extratags=tags)
        assert np.abs(np.asarray(decode(content), int) - upright).max() <= 1, orientation
        stored = np.asarray(decode(content, DecodeOptions(exif=False)), int)
        assert np.abs(stored - RGB8).max() <= 1, orientation


def test_images_that_pillow_would_read_wrong_are_refused_when_pillow_has_them():
    right = written(scaled(1 - GREY, "uint16", 65535), photometric="miniswhite")
    assert np.array_equal(to_rgb(Image.open(io.BytesIO(right))), decode(right))
    wrong = written(scaled(SCENE, "uint16", 65535), photometric="rgb", planar=True)
    with pytest.raises(ImageError, match="Pillow reads this kind wrong"):
        to_rgb(Image.open(io.BytesIO(wrong)))


def floats(**options):
    return written(SCENE.astype(np.float32), photometric="rgb", **options)


def test_nothing_is_decoded_that_is_too_large():
    content = floats(compression="zlib", tile=(16, 16))
    known = written(RGB8, photometric="rgb", compression="lzw", tile=(16, 16))  # to Pillow
    pixels = WIDTH * HEIGHT
    assert decode(content, DecodeOptions(max_pixels=2 * pixels)).size == (WIDTH, HEIGHT)
    for most, words in ((pixels - 1, "64 x 48 are more than"), (pixels, "too large for")):
        with pytest.raises(ImageError, match=words):
            decode(content, DecodeOptions(max_pixels=most))
    for tag, tiled in itertools.product((322, 323), (content, known)):
        at = re.search(struct.pack("<H", tag) + b"[\3\4]\0\1\0\0\0", tiled).start()
        bomb = tiled[:at] + struct.pack("<HHII", tag, 4, 1, 2**30) + tiled[at + 12 :]
        with pytest.raises(ImageError, match="tiles"):
            decode(bomb)


def test_a_strip_that_unpacks_to_more_than_it_should_is_not_unpacked():
    bomb = zlib.compress(bytes(2**26))
    content = plain_tiff(bomb, 32, colours=0, order=">", more={259: 8, 339: 3})
    with pytest.raises(ImageError, match="damaged"):
        decode(content)


def test_damaged_files_are_errors_of_one_line():
    numbers = random.Random(0)
    whole = [
        floats(), floats(compression="lzw", tile=(16, 16)), floats(planar=True, byteorder=">"),
        written(scaled(GREY, "uint16", 4095), photometric="minisblack", bitspersample=12),
        written(RGB8, photometric="rgb", compression="jpeg"),
    ]  # fmt: skip
    for number in range(300):
        content = bytearray(whole[number % len(whole)])
        for _ in range(3):  # mostly in the tags
            at = numbers.randrange(min(len(content), 400 if number % 2 else len(content)))
            content[at] = numbers.randrange(256)
        try:
            decode(bytes(content[: len(content) - number % 50]), DecodeOptions(max_pixels=10**6))
        except ImageError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_libtiff_is_quiet_and_what_it_says_is_the_reason(run_process, tmp_path):
    """It would write to standard error, past `-q` and without a name."""
    content = bytearray(written(RGB8, photometric="rgb", compression="lzw"))
    content[-400:-100] = bytes([255]) * 300
    (tmp_path / "damaged.tif").write_bytes(content)
    arguments = "predict", "damaged.tif", "-m", "demo", "-f", "jsonl"
    done = run_process(*arguments, "-q")
    error = json.loads(done.stdout)["error"]
    assert re.match(r"TIFF \(RGB, 3 x 8 bits, LZW\): damaged image: (?!decoder error)", error)
    assert (done.returncode, done.stderr) == (3, "")
    reason = error.split("image: ")[1]
    assert f"'damaged.tif': {reason}" in run_process(*arguments, "-v").stderr


def test_libtiff_speaks_to_others_as_ever(capfd):
    decode(written(RGB8, photometric="rgb", compression="lzw"))
    content = bytearray(written(RGB8, photometric="rgb", compression="lzw"))
    content[-400:-100] = bytes([255]) * 300
    with pytest.raises(OSError, match="decoder error"):
        Image.open(io.BytesIO(content)).load()
    assert capfd.readouterr().err


def test_tifffile_is_quiet_too(run, tmp_path):
    tags = [(274, 3, 1, 99, True)]  # no orientation
    (tmp_path / "a.tif").write_bytes(floats(extratags=tags))
    done = run("predict", "a.tif", "-m", "demo", "-q")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_of_several_pages_the_first_counts(dtype):
    out = io.BytesIO()
    pages = [scaled(values, dtype, 255 if dtype == "uint8" else 1) for values in (SCENE, 1 - SCENE)]
    with tifffile.TiffWriter(out) as file:
        for page in pages:
            file.write(page, photometric="rgb", metadata=None)
    assert error_of(out.getvalue(), SCENE) < 1.5


def tiff(values, tags, *, parts):
    """A grey TIFF of 8 bits, built by hand: `tags` override, None leaves one out."""
    height, width = values.shape
    offset = 8
    found = {
        256: (3, [width]), 257: (3, [height]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1]),
        273: (4, [offset, *[0] * (parts - 1)]), 277: (3, [1]), 278: (3, [-(-height // parts)]),
        279: (4, [values.size // parts] * parts),
    } | tags  # fmt: skip
    entries = {k: v for k, v in sorted(found.items()) if v is not None}
    data = values.tobytes()
    start = offset + len(data)
    beyond, head, tail = start + 2 + 12 * len(entries) + 4, b"", b""
    for tag, (kind, numbers) in entries.items():
        raw = struct.pack("<" + {3: "H", 4: "I"}[kind] * len(numbers), *numbers)
        if len(raw) > 4:
            raw, tail = struct.pack("<I", beyond + len(tail)), tail + raw
        head += struct.pack("<HHI", tag, kind, len(numbers)) + raw.ljust(4, b"\0")
    directory = struct.pack("<H", len(entries)) + head + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", start) + data + directory + tail


def test_parts_that_were_never_written_are_black():
    content = tiff(np.full((16, 16), 200, np.uint8), {}, parts=2)
    found = np.asarray(decode(content))[..., 0]
    assert (found[:8] == 200).all()
    assert (found[8:] == 0).all()


def test_fewer_strips_than_the_image_needs_are_damage():
    one = {273: (4, [8]), 279: (4, [128])}
    with pytest.raises(ImageError, match="fewer strips than it needs"):
        decode(tiff(np.full((16, 16), 200, np.uint8), one, parts=2))


def test_without_a_photometric_interpretation_black_is_zero():
    content = tiff(np.full((16, 16), 200, np.uint8), {262: None}, parts=1)
    assert (np.asarray(decode(content)) == 200).all()


def test_a_palette_of_the_wrong_length_is_refused():
    short = {262: (3, [3]), 320: (3, [65535] * 300)}
    with pytest.raises(ImageError, match="palette"):
        decode(tiff(np.full((16, 16), 200, np.uint8), short, parts=1))


def test_floats_that_overshoot_a_little_are_clipped():
    grey = np.linspace(-0.01, 1.02, 256, dtype=np.float32).reshape(16, 16)
    file = io.BytesIO()
    tifffile.imwrite(file, grey, photometric="minisblack")
    wanted = np.rint(np.clip(grey.astype(np.float64), 0, 1) * 255)
    assert (np.asarray(decode(file.getvalue()))[..., 0] == wanted).all()
