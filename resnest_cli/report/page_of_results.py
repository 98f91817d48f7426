"""One self-contained page of a results file, which opens from disk and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain, islice
from pathlib import Path
from typing import IO

from resnest_cli.datasets.labelled_folder import LabelledFolder
from resnest_cli.files import atomic_write, check_new, check_no_input
from resnest_cli.inputs.thumbnails import thumbnails
from resnest_cli.progress import SILENT, Progress
from resnest_cli.report.chunks import (
    CHUNK,
    Chunks,
    check_side_folder,
    remove_side_files,
    write_inert,
)
from resnest_cli.report.columns import Columns, Truth
from resnest_cli.report.rows import Rows, explained, open_rows

_SIDE = " file:"  # scripts that a page with side files admits


@dataclass(frozen=True)
class ReportSummary:
    """What a page holds."""

    images: int
    failed: int
    without_thumbnail: int  # of the images that did not fail
    unfinished: bool  # whether the results are known to be those of an unfinished run
    side_files: Path | None = None  # the folder with the thumbnails after the first 20,000 images


def report(
    results: str | Path,
    output: str | Path,
    *,
    fmt: str | None = None,
    truth: LabelledFolder | None = None,
    explain: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> ReportSummary:
    """Write a page to look through results: a gallery, filters, a histogram, provenance.

    Args:
        results: what a prediction job wrote: .jsonl, .json, .csv, .tsv or .parquet, or a folder of
            partitions. Relative paths in it count from the current folder. Images are read for
            their thumbnails; URLs are not.
        output: the HTML file.
        fmt: the format of the results, where the suffix does not say.
        truth: the images with their true classes.
        explain: the folder that `ExplainJob` wrote for these images.
        overwrite: replace an output that exists.

    Raises:
        OutputError: the results cannot be read, or the page cannot be written.
        DatasetError: the true classes cannot be read, or none is of an image of the results.
        UsageError: the suffix of the results is unknown.
    """
    source, target = Path(results), Path(output)
    rows = open_rows(source, fmt)
    check_new(target, overwrite=overwrite)
    check_side_folder(target, overwrite=overwrite)
    check_no_input([target], rows.files)
    maps = explained(Path(explain)) if explain is not None else None
    table = Columns(target.absolute().parent, Truth(truth) if truth else None, maps)
    made: list[Chunks] = []
    try:
        with atomic_write(target) as beside, beside.open("w", encoding="utf-8", newline="") as page:
            made.append(Chunks(page, target))
            missing = _write(page, made[0], source.name, rows, table, progress)
    except BaseException:
        for chunks in made:
            remove_side_files(chunks, own=True)
        raise
    remove_side_files(made[0], own=False)
    failed = sum(number >= 0 for number in table.error)
    folder = made[0].folder if made[0].aside else None
    return ReportSummary(len(table.paths), failed, missing, bool(rows.state), folder)


def _write(
    page: IO[str], chunks: Chunks, name: str, rows: Rows, table: Columns, progress: Progress
) -> int:
    """Write the page; how many images have no thumbnail though they did not fail."""
    script = _part("report.js")
    head = _head(name, _part("report.css"), script)
    page.write(head)
    progress.start("making thumbnails")
    try:
        per_row = 1 if table.maps is None else 2
        sources = chain.from_iterable(table.add(row) for row in rows.results)
        bare = _write_thumbnails(
            chunks, thumbnails(sources, rows.settings), table, per_row, progress
        )
    finally:
        progress.finish()
    data = table.encoded(
        chunk=CHUNK, state=rows.state, run=rows.record, bare=bare,
        side={"first": chunks.first, "folder": chunks.folder.name, "token": chunks.token},
    )  # fmt: skip
    write_inert(page, "data", "application/json", data)
    page.write(f"<script>{script}</script>\n</body>\n</html>\n")
    if not chunks.aside:
        page.seek(len(head[: head.index(f"{_SIDE}; style-src")].encode()))
        page.write(" " * len(_SIDE))
    return len(bare)


def _write_thumbnails(
    chunks: Chunks, made: Iterator[str], table: Columns, per_row: int, progress: Progress
) -> list[int]:
    """Write the thumbnails; the numbers of the rows that have none and did not fail."""
    bare: list[int] = []
    number = 0
    while chunk := list(islice(made, CHUNK * per_row)):
        chunks.write("thumbs", number, chunk[::per_row])
        if per_row > 1:
            chunks.write("maps", number, chunk[1::per_row])
        for row, thumbnail in enumerate(chunk[::per_row], number * CHUNK):
            if not thumbnail and table.error[row] < 0:
                bare.append(row)
            progress.advance()
        number += 1
    return bare


def _head(name: str, style: str, script: str) -> str:
    policy = (
        f"default-src 'none'; img-src data: file:; script-src {_hash(script)}{_SIDE}; "
        f"style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    )
    title = html.escape(f"Report of {name}".encode("utf-8", "backslashreplace").decode())
    text = _part("template.html").replace("@POLICY@", policy)
    return text.replace("@STYLE@", style).replace("@TITLE@", title)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _part(name: str) -> str:
    return files("resnest_cli.report").joinpath(f"page/{name}").read_text(encoding="utf-8")
