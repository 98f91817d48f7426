"""The rows of an audit: written, and read back with what a person has noted in them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from resnest_cli.errors import OutputError
from resnest_cli.files import PLAIN, CSVStyle, atomic_write
from resnest_cli.outputs.formats import ROW_WRITERS, format_of, write_parquet
from resnest_cli.outputs.run_info import RunInfo
from resnest_cli.outputs.schema import INTEGER, NUMBER, TEXT, Column, Record
from resnest_cli.text import nfc, utf8

NEIGHBOURS = 5  # shown for each image

LABEL, CONFLICT, OUTLIER, LEAK = "label", "conflict", "outlier", "leak"


class Neighbour(NamedTuple):
    """Another image that looks similar to the network."""

    path: str
    label: str  # its class
    similarity: float  # cosine, -1 to 1


@dataclass(frozen=True)
class Finding:
    """What an audit found out about one image."""

    path: str
    split: str | None  # train, val ...; None: the folder has no splits
    label: str  # its class folder
    # label: probably of another class; conflict: the same pixels are in another class;
    # outlier: unlike all others; leak: the same pixels are in another split
    issues: tuple[str, ...] = ()
    quality: float | None = None  # the probability of its class; None: not judged
    suggested: str | None = None  # the most probable class, if it is another one
    suggested_probability: float | None = None
    distance: float | None = None  # 1 - mean cosine similarity of the nearest images, 0 to 2
    twins: int = 0  # other images with the same pixels
    twin: str | None = None  # one of them, of another class or split if there is one
    twin_label: str | None = None  # its class
    neighbours: tuple[Neighbour, ...] = ()  # nearest first, without twins
    # a fingerprint of the decoded image; px, as spreadsheets take some of its digits for a number
    pixels: str | None = None
    verdict: str | None = None  # what a person wrote into an earlier audit
    note: str | None = None  # why it was not judged
    error: str | None = None  # why it cannot be read


_PLAIN = {
    "path": TEXT, "split": TEXT, "class": TEXT, "issues": TEXT, "quality": NUMBER,
    "suggested": TEXT, "suggested_probability": NUMBER, "distance": NUMBER, "twins": INTEGER,
    "twin": TEXT, "twin_class": TEXT,
}  # fmt: skip
_NEIGHBOUR = {"neighbour": TEXT, "neighbour_class": TEXT, "similarity": NUMBER}
_LAST = {"pixels": TEXT, "verdict": TEXT, "note": TEXT, "error": TEXT}


class Rows:
    """How a finding is written: nested in JSON, flat in CSV, TSV and Parquet."""

    columns: Sequence[Column] = [
        *(Column(name, kind, name not in ("path", "class")) for name, kind in _PLAIN.items()),
        *(
            Column(f"{name}_{rank}", kind)
            for rank in range(1, NEIGHBOURS + 1)
            for name, kind in _NEIGHBOUR.items()
        ),
        *(Column(name, kind) for name, kind in _LAST.items()),
    ]

    def record(self, item: Finding) -> Record:
        """A finding's row."""
        row = asdict(item)
        row["class"], row["twin_class"] = row["label"], row["twin_label"]
        row["issues"] = [*item.issues]
        row["neighbours"] = [
            {"path": n.path, "class": n.label, "similarity": n.similarity} for n in item.neighbours
        ]
        names = (*_PLAIN, "neighbours", *_LAST)
        return {name: row[name] for name in names}

    def flat(self, record: Record) -> list[Any]:
        """A row's cells, in the order of `columns`."""
        cells = [record[name] for name in _PLAIN]
        cells[[*_PLAIN].index("issues")] = " ".join(record["issues"]) or None
        for neighbour in record["neighbours"]:
            cells += neighbour.values()
        cells += [None] * (len(self.columns) - len(_LAST) - len(cells))
        return [*cells, *(record[name] for name in _LAST)]

    def nested(self, cells: Any) -> Record:
        """The row that has these cells; audits are not resumed, so it is as flat as they are."""
        return dict(cells)


def write_rows(stream: IO[bytes], findings: Sequence[Finding], fmt: str, style: CSVStyle) -> None:
    """Write findings to a stream as jsonl, json, csv or tsv."""
    writer = ROW_WRITERS[fmt](stream, Rows(), style)
    for finding in findings:
        writer.write(finding)
    writer.close()


def write_file(
    path: Path, findings: Sequence[Finding], fmt: str, style: CSVStyle, info: RunInfo
) -> None:
    """Write findings to a file, whole or not at all, and what gave them beside it."""
    with atomic_write(path) as beside:
        if fmt == "parquet":
            stored = io.BytesIO()
            write_rows(stored, findings, "jsonl", style)
            write_parquet(stored.getvalue().splitlines(), beside, Rows())
        else:
            with beside.open("wb") as stream:
                write_rows(stream, findings, fmt, style)
    info.write(path)


Verdicts = dict[tuple[str, str], str]  # by the pixels and the class of an image


def read_verdicts(path: Path, fmt: str | None = None) -> Verdicts:
    """What a person wrote into the column `verdict` of an earlier audit.

    A spreadsheet may have changed its delimiter and the order of rows and columns.

    Raises:
        OutputError: it cannot be read, or is not an audit.
    """
    try:
        rows = _read(path, fmt or format_of(path, read=True))
        found = [(row["pixels"], row["class"], row["verdict"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        reason = f"no column {error}" if isinstance(error, KeyError) else error
        raise OutputError(
            f"verdicts cannot be read from '{path}': {reason}\n"
            "name or replace only what audit wrote as csv, tsv, json or jsonl"
        ) from error
    return {
        (str(pixels), nfc(str(label))): str(verdict).strip()
        for pixels, label, verdict in found
        if pixels and verdict and str(verdict).strip()
    }


def verdict_key(pixels: str, label: str) -> tuple[str, str]:
    """Where the verdict on an image of a class is kept: moved to another class it has none."""
    return pixels, nfc(utf8(label))


def _read(path: Path, fmt: str) -> list[dict[str, Any]]:
    if fmt in ("parquet", "table"):
        raise ValueError(f"a person cannot write into {fmt}")
    text = path.read_text(encoding="utf-8-sig")
    if fmt == "json":
        return list(json.loads(text))
    if fmt == "jsonl":
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    style = PLAIN
    with suppress(OutputError):  # it has no record
        style = CSVStyle(safe=bool(RunInfo.read(path).settings.get("csv_safe")))
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    return [{key: style.read(cell or "") for key, cell in row.items() if key} for row in rows]
