"""One self-contained page of a results file, which opens from disk and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from resnest_cli.errors import OutputError
from resnest_cli.files import atomic_write, check_new, check_no_input, lock
from resnest_cli.outputs.formats import format_of, read_results
from resnest_cli.outputs.run_info import RunInfo, record_path
from resnest_cli.progress import SILENT, Progress
from resnest_cli.report.thumbnails import thumbnails
from resnest_cli.results import Result

MOST_THUMBNAILS = 20_000  # images that a page holds a thumbnail of, about 40 MB
_CHUNK = 500  # thumbnails
_RANKS = 5
_CUT = "The run is unfinished: its last row is cut, or others may follow."
_RUNNING = "The run is unfinished: it was still writing when this page was made."


@dataclass(frozen=True)
class ReportSummary:
    """What a page holds."""

    images: int
    failed: int
    without_thumbnail: int  # of the images that did not fail
    unfinished: bool  # whether the results are known to be those of an unfinished run


def report(
    results: str | Path,
    output: str | Path,
    *,
    fmt: str | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> ReportSummary:
    """Write a page to look through results: a gallery, filters, a histogram, provenance.

    Args:
        results: what a prediction job wrote: .jsonl, .json, .csv, .tsv or .parquet. Relative paths
            in it count from the current folder. Images are read for their thumbnails; URLs are not.
        output: the HTML file.
        fmt: the format of the results, where the suffix does not say.
        overwrite: replace an output that exists.

    Raises:
        OutputError: the results cannot be read, or the page cannot be written.
        UsageError: the suffix of the results is unknown.
    """
    source, target = Path(results), Path(output)
    fmt = fmt or format_of(source)
    check_new(target, overwrite=overwrite)
    check_no_input([target], [source, record_path(source)])
    rows, state = _opened(source, fmt)
    table = _Columns(target.absolute().parent)
    with atomic_write(target) as beside, beside.open("w", encoding="utf-8", newline="") as page:
        style, script = _part("report.css"), _part("report.js")
        page.write(_head(source.name, style, script))
        settings: Any = {}
        with suppress(OutputError):
            settings = RunInfo.read(source).settings
        progress.start("making thumbnails")
        try:
            made = thumbnails((table.add(row) for row in rows), settings)
            missing = _write_thumbnails(page, made, progress)
        finally:
            progress.finish()
        _write_inert(page, "data", "application/json", table.encoded(state, _record(source)))
        page.write(f"<script>{script}</script>\n</body>\n</html>\n")
    failed = sum(number >= 0 for number in table.error)
    return ReportSummary(len(table.paths), failed, missing - failed, bool(state))


@dataclass
class _Columns:
    """The rows as columns, whose repeated texts are numbers of a list."""

    folder: Path  # from which the page's links start
    paths: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    error: list[int] = field(default_factory=list)
    ranks: list[dict[str, list[Any]]] = field(default_factory=list)
    labels: dict[tuple[str, int], int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)

    def add(self, row: Result) -> Path | None:
        """Add a row; its file, if a thumbnail is wanted of it."""
        number = len(self.paths)
        file = Path(os.path.abspath(row.path))  # noqa: PTH100
        there = file.is_file()
        self.paths.append(row.path)
        self.urls.append(_link(file, self.folder) if there else "")
        known = self.errors
        self.error.append(-1 if row.error is None else known.setdefault(row.error, len(known)))
        for rank, prediction in enumerate(row.predictions[:_RANKS]):
            if rank == len(self.ranks):
                self.ranks.append({"label": [-1] * number, "p": [None] * number})
            key = prediction.label, prediction.index
            self.ranks[rank]["label"].append(self.labels.setdefault(key, len(self.labels)))
            self.ranks[rank]["p"].append(prediction.probability)
        for rank_ in self.ranks[len(row.predictions) :]:
            rank_["label"].append(-1)
            rank_["p"].append(None)
        return file if there and row.error is None and number < MOST_THUMBNAILS else None

    def encoded(self, state: str, record: str | None) -> str:
        """All of it as JSON that ends no element of HTML."""
        names = [label for label, _ in self.labels]
        shared = {name for name in names if names.count(name) > 1} if len(names) < 20_000 else {}
        labels = [f"{name} ({i})" if name in shared else name for name, i in self.labels]
        data = {
            "paths": self.paths, "urls": self.urls, "ranks": self.ranks, "labels": labels,
            "error": self.error, "errors": list(self.errors), "chunk": _CHUNK,
            "state": state, "run": record,
        }  # fmt: skip
        text = json.dumps(data, separators=(",", ":"))
        return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _opened(source: Path, fmt: str) -> tuple[Iterator[Result], str]:
    """The rows, and how it is known that the run is unfinished, else an empty text."""
    journal = source.with_name(source.name + ".journal")
    if fmt == "parquet" and journal.is_file() and not source.exists():
        return read_results(journal, "jsonl"), _is_running(journal) or _CUT
    if not source.is_file():
        raise OutputError(f"there is no results file '{source}'\nname one that predict wrote")
    state = _is_running(source)
    if fmt != "parquet" and not state:
        with source.open("rb") as file:
            file.seek(max(0, source.stat().st_size - 3))
            end = file.read()
        whole = end.rstrip().endswith(b"]") if fmt == "json" else end.endswith(b"\n")
        state = "" if whole else _CUT
    return read_results(source, fmt), state


def _is_running(source: Path) -> str:
    with suppress(OSError), source.open("rb+") as file:
        try:
            lock(file, source)
        except OutputError:
            return _RUNNING
    return ""


def _write_thumbnails(page: IO[str], made: Iterator[str], progress: Progress) -> int:
    """Write the thumbnails, in chunks; how many images have none."""
    missing = number = 0
    while chunk := list(islice(made, _CHUNK)):
        _write_inert(page, f"thumbs-{number}", "text/plain", ",".join(chunk))
        missing, number = missing + chunk.count(""), number + 1
        for _ in chunk:
            progress.advance()
    return missing


def _write_inert(page: IO[str], name: str, kind: str, text: str) -> None:
    """Text that a browser keeps, and neither shows nor parses."""
    page.write(f'<script type="{kind}" id="{name}">{text}</script>\n')


def _head(name: str, style: str, script: str) -> str:
    policy = (
        f"default-src 'none'; img-src data: file:; script-src {_hash(script)}; "
        f"style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    )
    title = html.escape(f"Report of {name}".encode("utf-8", "backslashreplace").decode())
    text = _part("template.html").replace("@POLICY@", policy)
    return text.replace("@STYLE@", style).replace("@TITLE@", title)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _part(name: str) -> str:
    return files("resnest_cli.report").joinpath(f"page/{name}").read_text(encoding="utf-8")


def _record(source: Path) -> str | None:
    with suppress(OSError):
        return record_path(source).read_bytes().decode("utf-8", "backslashreplace")
    return None


def _link(file: Path, folder: Path) -> str:
    """The address of a file, from a folder if both are on one disk."""
    try:
        return quote(os.fsencode(Path(os.path.relpath(file, folder)).as_posix()))
    except ValueError:
        return file.as_uri()
