"""Images of every kind, made here, read back."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from resnest_cli.errors import ImageError
from resnest_cli.imaging.decode import decode, from_array
from resnest_cli.imaging.decode_options import DecodeOptions
from tests.conftest import drawn


def stored(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


RGB = drawn(60, 40)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_modes_are_read_as_pillow_converts_them(mode, kind):
    image = RGB.convert(mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode(stored(image, kind))
    assert found.mode == "RGB"
    assert np.array_equal(found, image.convert("RGB"))


@pytest.mark.parametrize("mode", ["CMYK", "L", "RGB"])
def test_jpeg_modes(mode):
    content = stored(RGB.convert(mode), "JPEG")
    assert np.array_equal(decode(content), Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("scale", [257, 1])
def test_16_bits_become_8_and_not_white(scale):
    grey = np.asarray(RGB.convert("L")).astype(np.uint16) * scale
    found = np.asarray(decode(stored(Image.fromarray(grey))))[..., 0]
    assert np.array_equal(found, np.rint(grey / 257))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 255), (0, 65535), (-5, 5)])
def test_floats_become_8_bits(low, high):
    ramp = np.linspace(low, high, 256, dtype=np.float32).reshape(16, 16)
    found = np.asarray(decode(stored(Image.fromarray(ramp), "TIFF")))[..., 0]
    assert np.array_equal(found.ravel(), np.arange(256))


def test_floats_that_are_no_numbers():
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    ramp[0, 0], ramp[15, 15] = np.nan, np.inf
    assert np.asarray(decode(stored(Image.fromarray(ramp), "TIFF"))).max() == 254
    nothing = Image.fromarray(np.full((4, 4), np.inf, np.float32))
    with pytest.raises(ImageError, match="finite"):
        decode(stored(nothing, "TIFF"))


def test_exif_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise by a quarter
    content = stored(RGB, "PNG", exif=exif)
    turned = RGB.transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(decode(content), turned)
    assert np.array_equal(decode(content, DecodeOptions(exif=False)), RGB)


def test_transparency_is_dropped_unless_a_background_is_asked_for():
    rgba = RGB.convert("RGBA")
    rgba.putalpha(0)
    assert np.array_equal(decode(stored(rgba)), RGB)
    white = decode(stored(rgba), DecodeOptions(background=(255, 255, 255)))
    assert np.unique(white).tolist() == [255]


def test_palette_with_transparency():
    image = RGB.convert("P")
    content = stored(image, transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(decode(content), image.convert("RGB"))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_animated_images_give_their_first_frame(kind):
    frames = [drawn(40, 30, seed=s).convert("P") for s in range(3)]
    content = stored(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    first = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(decode(content), first)


def test_more_pixels_than_allowed_are_not_decoded():
    content = stored(drawn(300, 200))
    assert decode(content, DecodeOptions(max_pixels=60_000)).size == (300, 200)
    with pytest.raises(ImageError, match=r"300 x 200 are more than 59,999 \(option max-pixels\)"):
        decode(content, DecodeOptions(max_pixels=59_999))


def test_pillows_own_limit_can_be_raised(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    content = stored(drawn(300, 200))
    with pytest.raises(ImageError, match="too many pixels"):
        decode(content, DecodeOptions(max_pixels=40_000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, from half of its limit on
        assert decode(content, DecodeOptions(max_pixels=60_000)).size == (300, 200)


def test_large_jpegs_can_be_decoded_small():
    """Never to less than twice what is wanted of the short side; other formats are left alone."""
    image = drawn(1600, 1200)
    for wanted, size in (
        (256, (800, 600)),
        (300, (800, 600)),
        (301, (1600, 1200)),
        (64, (200, 150)),
    ):
        assert decode(stored(image, "JPEG"), DecodeOptions(draft_size=wanted)).size == size
    assert decode(stored(image), DecodeOptions(draft_size=64)).size == (1600, 1200)
    phone = stored(image, "MPO", save_all=True, append_images=[drawn(160, 120)])
    assert decode(phone, DecodeOptions(draft_size=64)).size == (200, 150)


def test_files_and_bytes_are_the_same(tmp_path):
    path = tmp_path / "no suffix"
    path.write_bytes(stored(RGB, "WEBP"))
    assert np.array_equal(decode(path), decode(path.read_bytes()))


BROKEN = {
    "empty": (b"", "empty"),
    "text": (b"this is no image\n", "not an image"),
    "web page": (b"<!DOCTYPE html><html></html>", "web page"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    "truncated": (stored(drawn(300, 200), "JPEG")[:5000], "truncated"),
    "truncated png": (stored(drawn(300, 200))[:5000], "truncated|damaged"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_images_give_one_line(kind):
    content, reason = BROKEN[kind]
    with pytest.raises(ImageError, match=reason) as caught:
        decode(content)
    assert "\n" not in str(caught.value)


def icon(content):
    """An icon of one image, that says it is of 16 x 16 pixels."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 24, len(content), 22) + content


def in_an_icon(image):
    """A BMP without the file's header, and with room for a mask in the height."""
    content = stored(image, "BMP")
    return content[14:22] + struct.pack("<i", 2 * image.height) + content[26:]


LARGE = Image.new("RGB", (2000, 1000))
TEXT = b"tEXt" + struct.pack(">II", 1, 1)  # where a size is expected: 1 x 1
TEXT = struct.pack(">I", 8) + TEXT + struct.pack(">I", zlib.crc32(TEXT))
LARGE_ICONS = {
    "png": stored(LARGE),
    "png that begins with something else": stored(LARGE)[:8] + TEXT + stored(LARGE)[8:],
    "bmp": in_an_icon(LARGE),
}


@pytest.mark.parametrize("inside", LARGE_ICONS.values(), ids=LARGE_ICONS)
def test_an_icon_is_as_large_as_what_is_in_it(inside, monkeypatch):
    """Its directory's sizes are a byte each, and may be anything."""
    monkeypatch.setattr(Image.Image, "load", None)  # nothing is decoded
    with pytest.raises(ImageError, match="2,000 x 1,000 are more than 100,000"):
        decode(icon(inside), DecodeOptions(max_pixels=100_000))


def test_an_icon_of_macos_is_as_large_as_what_is_in_it(monkeypatch):
    inside = stored(LARGE)
    content = b"icns" + struct.pack(">I4sI", 16 + len(inside), b"ic07", 8 + len(inside)) + inside
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(ImageError, match="2,000 x 1,000 are more than 100,000"):
        decode(content, DecodeOptions(max_pixels=100_000))


def test_a_image_that_an_icon_names_often_is_looked_at_once(monkeypatch):
    opened = []
    normal = PngImagePlugin.PngImageFile.__init__
    monkeypatch.setattr(
        PngImagePlugin.PngImageFile, "__init__",
        lambda self, *given: opened.append(1) or normal(self, *given),
    )  # fmt: skip
    small = RGB.resize((16, 16))
    content = stored(small)
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 24, len(content), 6 + 16 * 200)
    found = decode(b"\0\0\1\0\xc8\0" + entry * 200 + content, DecodeOptions(max_pixels=256))
    assert np.array_equal(found, small)
    assert len(opened) <= 2  # here, and by Pillow


def test_icons_are_read():
    small = RGB.resize((16, 16))
    masked = in_an_icon(small) + bytes(16 * 4)
    core = struct.pack("<IHHHH", 12, 16, 32, 1, 24) + masked[40:]  # as OS/2 has it
    for content in (stored(small, "ICO"), icon(stored(small)), icon(masked), icon(core)):
        assert np.array_equal(decode(content, DecodeOptions(max_pixels=256)), small)
    with pytest.raises(ImageError, match="an icon with 65,535 images"):
        decode(b"\0\0\1\0\xff\xff" + bytes(16 * 65_535))


def test_any_cut_of_a_image_is_a_image_or_an_image_error():
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "ICO", "TGA"):
        whole = stored(RGB, kind)
        for tenth in range(10):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    decode(whole[: len(whole) * tenth // 10])
                except ImageError as error:
                    assert "\n" not in str(error)  # noqa: PT017


def test_arrays():
    array = np.asarray(RGB)
    assert np.array_equal(from_array(array[:, ::-1]), array[:, ::-1])
    assert np.array_equal(from_array(array[..., 0]), array[..., [0, 0, 0]])
    for wrong in (array[..., :2], array.astype(float), array[:0], np.zeros((2, 2, 4), np.uint8)):
        with pytest.raises(ImageError, match="uint8"):
            from_array(wrong)
