"""Shows the pictures of a held-out part smaller than they are, in two ways.

    python docs/demo/smaller.py TRAIN VAL.csv FOLDER

Photographs often show a thing small, or in front of something; CIFAR-10 shows it large. So how well
a network does on these copies says more of photographs than the pictures themselves do:

    FOLDER/mirrored   three fifths as large, with the picture continued around it as in a mirror
    FOLDER/scene      five eighths as large, anywhere in front of a blurred other picture

`resnest evaluate FOLDER/scene --labels-file VAL.csv --weights CHECKPOINT` then counts. VAL.csv is
what `resnest train TRAIN` writes. The copies are PNG files of 96 x 96 pixels, the same each time.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

from PIL import Image, ImageFilter

from resnest_cli.training.augment import MirrorBorder

SIDE = 96  # pixels
_SHOWN = 60  # pixels of them, in a scene
_BORDER = 11 / 32  # of a picture's side, on each
_BLUR = 6  # pixels, so that what the other picture shows is not to be seen


def mirrored(picture: Image.Image) -> Image.Image:
    """A picture continued beyond its edges as in a mirror."""
    return MirrorBorder(_BORDER)(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def scene(picture: Image.Image, other: Image.Image, rng: random.Random) -> Image.Image:
    """A picture in front of a blurred other one."""
    behind = other.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    behind = behind.filter(ImageFilter.GaussianBlur(_BLUR))
    corner = rng.randint(0, SIDE - _SHOWN), rng.randint(0, SIDE - _SHOWN)
    behind.paste(picture.resize((_SHOWN, _SHOWN), Image.Resampling.BICUBIC), corner)
    return behind


def main() -> None:
    """Write the copies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("held_out", type=Path, metavar="VAL.csv")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    with given.held_out.open(newline="") as listed:
        names = [row["file"] for row in csv.DictReader(listed)]
    rng = random.Random(7)
    for name in names:
        picture, other = (
            Image.open(given.train / each).convert("RGB") for each in (name, rng.choice(names))
        )
        for kind, copy in (("mirrored", mirrored(picture)), ("scene", scene(picture, other, rng))):
            target = given.folder / kind / name
            target.parent.mkdir(parents=True, exist_ok=True)
            copy.save(target, "PNG", compress_level=1)


if __name__ == "__main__":
    main()
