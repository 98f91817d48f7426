"""Texts of a page that nothing parses until they are looked at, the later ones in side files."""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import IO

from resnest_cli.errors import OutputError
from resnest_cli.files import os_errors

CHUNK = 500  # thumbnails
MOST_INSIDE = 20_000  # images whose thumbnails are in the page itself, about 40 MB
_OWN = re.compile(r"(thumbs|maps)-[0-9a-f]{8}-\d+\.js")


def write_inert(page: IO[str], name: str, kind: str, text: str) -> None:
    """Text that a browser keeps, and neither shows nor parses."""
    page.write(f'<script type="{kind}" id="{name}">{text}</script>\n')


class Chunks:
    """Thumbnails of a page, in the page and in a folder beside it.

    Side files have names of their own in each run, so that an earlier page keeps its own until it
    is replaced.
    """

    def __init__(self, page: IO[str], target: Path) -> None:
        self.folder = target.with_name(f"{target.stem}.files")
        self.token = secrets.token_hex(4)
        self.first = MOST_INSIDE // CHUNK  # the number of the first one in a side file
        self.aside = False
        self._page = page

    def write(self, kind: str, number: int, thumbnails: list[str]) -> None:
        """Write the chunk of a number, 500 images; `kind` is thumbs or maps."""
        text = ",".join(thumbnails)
        if number < self.first:
            write_inert(self._page, f"{kind}-{number}", "text/plain", text)
            return
        self.aside = True
        with os_errors(f"'{self.folder}'"):
            self.folder.mkdir(exist_ok=True)
            file = self.folder / f"{kind}-{self.token}-{number}.js"
            file.write_text(f'thumbnails("{kind}-{number}","{text}")\n', encoding="ascii")


def check_side_folder(target: Path, *, overwrite: bool) -> None:
    """Raise `OutputError` if the folder beside a page holds what is not a report's."""
    folder = target.with_name(f"{target.stem}.files")
    if not folder.exists():
        return
    if not folder.is_dir() or not all(_OWN.fullmatch(f.name) for f in folder.iterdir()):
        raise OutputError(f"'{folder}' holds other files\nchoose another `output`")
    if not overwrite and any(folder.iterdir()):
        raise OutputError(f"'{folder}' exists already\nuse `overwrite`, or another `output`")


def remove_side_files(chunks: Chunks, *, own: bool) -> None:
    """Remove a page's own side files, or those of the page that it has replaced."""
    with suppress(OSError):
        for file in chunks.folder.iterdir():
            if _OWN.fullmatch(file.name) and (f"-{chunks.token}-" in file.name) is own:
                file.unlink()
        chunks.folder.rmdir()  # if it is empty
