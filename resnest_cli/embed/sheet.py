"""Contact sheets: images in groups, with a line of text each, as one HTML page or one PNG."""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from resnest_cli.errors import UsageError
from resnest_cli.files import atomic_write
from resnest_cli.inputs.source import Source
from resnest_cli.inputs.thumbnails import thumbnails

SUFFIXES = (".html", ".png")
MOST_IN_PNG = 2000  # images; a page may have any number
_SIDE = 128  # pixels of a thumbnail
_TEXT, _GAP = 14, 8  # pixels
_STYLE = """
:root{color-scheme:light dark}body{font:14px system-ui,sans-serif;margin:1.5em}
h2{font-size:1em;margin:1.5em 0 .4em;overflow-wrap:anywhere}ul{display:flex;flex-wrap:wrap;
gap:.8em;list-style:none;margin:0;padding:0}li{width:128px;overflow-wrap:anywhere;font-size:12px}
li>div{width:128px;height:128px;display:grid;place-items:center;background:#8883}
img{max-width:128px;max-height:128px}p{margin:.2em 0}
"""


class Tile(NamedTuple):
    """One image of a sheet."""

    path: str  # which is shown; a file, else it has no thumbnail
    text: str  # below it, such as its similarity


class Group(NamedTuple):
    """Images that belong together, under a heading."""

    heading: str
    tiles: Sequence[Tile]


def check_sheet(path: Path) -> None:
    """Raise `UsageError` unless a sheet's file ends in one of `SUFFIXES`."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"`sheet` must end in {' or '.join(SUFFIXES)}, not '{path}'")


def write_sheet(
    path: Path, title: str, groups: Sequence[Group], settings: Mapping[str, Any]
) -> None:
    """Write a contact sheet.

    Args:
        path: .html, one file that loads nothing from elsewhere, or .png.
        title: of the page.
        groups: in any number; of a PNG, with at most `MOST_IN_PNG` images.
        settings: those of the run, by which images are read as they were then.

    Raises:
        UsageError: the suffix is another one, or there are too many images for a PNG.
        WriteError: the system refuses.
    """
    check_sheet(path)
    sources = (_source(tile.path) for group in groups for tile in group.tiles)
    made = thumbnails(sources, settings, _SIDE)
    if path.suffix.lower() == ".png":
        _write_png(path, groups, made)
        return
    hashed = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{hashed}'"
    head = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><meta http-equiv="Content-Security-Policy" '
        f'content="{policy}"><title>{_escaped(title)}</title><style>{_STYLE}</style>'
        f"<main><h1>{_escaped(title)}</h1>\n"
    )
    lines = chain([head], (_section(group, made) for group in groups), ["</main></html>\n"])
    with atomic_write(path) as beside, beside.open("w", encoding="utf-8") as page:
        page.writelines(lines)


def _section(group: Group, made: Iterator[str]) -> str:
    tiles = []
    for (name, text), stored in zip(group.tiles, made, strict=False):
        source = f"data:image/webp;base64,{stored}"
        image = f'<img alt="" loading="lazy" src="{source}">' if stored else "no image"
        words = f"<p><b>{_escaped(text)}</b></p><p>{_escaped(name)}</p>"
        tiles.append(f"<li><div>{image}</div>{words}</li>\n")
    heading = f"<h2>{_escaped(group.heading)}</h2>"
    return f"<section>{heading}<ul>\n{''.join(tiles)}</ul></section>\n"


def _write_png(path: Path, groups: Sequence[Group], made: Iterator[str]) -> None:
    from PIL import Image, ImageDraw, ImageFont

    if (count := sum(len(group.tiles) for group in groups)) > MOST_IN_PNG:
        raise UsageError(
            f"a PNG has room for {MOST_IN_PNG:,} images, not {count:,}; let `sheet` end in .html"
        )
    font, cell = ImageFont.load_default(_TEXT - 3), _SIDE + _GAP
    columns = max(min(max((len(group.tiles) for group in groups), default=1), 12), 4)
    lines = [-(-len(group.tiles) // columns) for group in groups]
    step = cell + 2 * _TEXT
    height = sum(count * step + _TEXT + _GAP for count in lines) + _GAP
    sheet = Image.new("RGB", (columns * cell + _GAP, height), "white")
    draw, top = ImageDraw.Draw(sheet), _GAP
    for group, count in zip(groups, lines, strict=True):
        draw.text((_GAP, top), _drawable(group.heading, 22 * columns), "black", font)
        top += _TEXT + _GAP
        for place, (tile, stored) in enumerate(zip(group.tiles, made, strict=False)):
            row, column = divmod(place, columns)
            x, y = _GAP + column * cell, top + row * step
            if stored:
                with Image.open(io.BytesIO(base64.b64decode(stored))) as image:
                    sheet.paste(image, (x, y))
            else:
                draw.rectangle((x, y, x + _SIDE, y + _SIDE), "lightgrey")
            draw.text((x, y + _SIDE + 1), _drawable(tile.text, 21), "black", font)
            name = Path(tile.path).name
            draw.text((x, y + _SIDE + _TEXT), _drawable(name, 21), "dimgrey", font)
        top += count * step
    with atomic_write(path) as beside:
        sheet.save(beside, "PNG")


def _source(name: str) -> Source | None:
    path = Path(name)
    return Source(name, path) if "\0" not in name and path.is_file() else None


def _escaped(text: str) -> str:
    return html.escape(text.encode("utf-8", "backslashreplace").decode())


def _drawable(text: str, most: int) -> str:
    """Text in the letters of Pillow's own font; of a long one, its end."""
    shown = text.encode("latin-1", "replace").decode("latin-1")
    return shown if len(shown) <= most else f"...{shown[3 - most :]}"
