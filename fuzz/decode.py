"""Coverage-guided fuzzing of the way from a file's bytes to the network's view of an image.

    python fuzz/decode.py [-max_total_time=1800] [-timeout=10] [-rss_limit_mb=2048] [CORPUS]

CORPUS, fuzz/corpus without, is read only; give a folder of your own before it to keep what is
found. A crash is written to the current folder. Anything but an image or an `ImageError` in one
line is a finding, and so are ten seconds or two gigabytes for one input. Needs atheris
(pip install 'resnest-cli[fuzz]').
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "resnest_cli"]):
    from resnest_cli.errors import ImageError
    from resnest_cli.imaging.decode import decode
    from resnest_cli.imaging.decode_options import DecodeOptions
    from resnest_cli.imaging.preprocessing import Preprocessing

CORPUS = Path(__file__).parent / "corpus"
VIEWS = (
    Preprocessing("default", crop=32, resize=36),
    Preprocessing("paper", crop=32, resize=64, interpolation="bicubic", crop_first=True),
)
DECODINGS = (
    DecodeOptions(max_pixels=4_000_000),
    DecodeOptions(
        exif=False, background=(9, 9, 9), max_pixels=4_000_000, draft_size=36, stretch=True
    ),
)


def one(content: bytes) -> None:
    """One input: an image for the network, or a reason in one line."""
    for decoding, view in zip(DECODINGS, VIEWS, strict=True):
        try:
            image = decode(content, decoding)
        except ImageError as error:
            if "\n" in str(error) or not str(error):
                raise AssertionError(f"not one line: {error!r}") from error
            continue
        pixels = view.pixels(image)
        if pixels.shape != (view.crop, view.crop, 3):
            raise AssertionError(f"not what the network sees: {pixels.shape}")


def main() -> None:
    warnings.simplefilter("ignore")  # Pillow's advice
    options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
    folders = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    limits = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=65536"]
    given = {option.partition("=")[0] for option in options}
    limits = [limit for limit in limits if limit.partition("=")[0] not in given]
    with tempfile.TemporaryDirectory() as found:  # the first folder is written to
        read = folders if len(folders) > 1 else [found, *(folders or [str(CORPUS)])]
        arguments = [sys.argv[0], *limits, *options, *read]
        atheris.Setup(arguments, one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
