"""All partitions of a run to one file, once it is proven that they are all there, once each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from resnest_cli.cluster.manifest import Folder, Segment, read_manifest
from resnest_cli.cluster.partitions import (
    PREFIX,
    Damaged,
    Fingerprint,
    part_name,
    read_fingerprint,
    read_record,
    read_rows,
)  # fmt: skip
from resnest_cli.errors import OutputError, UsageError
from resnest_cli.files import PLAIN, CSVStyle
from resnest_cli.outputs.formats import format_of
from resnest_cli.outputs.run_info import RunInfo
from resnest_cli.outputs.schema import PredictionSchema
from resnest_cli.outputs.sink import check_target, open_output
from resnest_cli.progress import SILENT, Progress

_MOST_NAMED = 50


@dataclass(frozen=True)
class MergeSummary:
    """What a merge wrote."""

    partitions: int
    rows: int
    failed: int  # of the rows, those that hold an error
    passing: int  # of these, those whose fault may pass


def merge(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    fmt: str | None = None,
    overwrite: bool = False,
    csv: CSVStyle = PLAIN,
    progress: Progress = SILENT,
) -> MergeSummary:
    """Write the rows of all partitions, in the order of the inputs.

    Every partition is read and compared with the manifest first; if one is missing, cut, doubled,
    changed or of another run, nothing is written.

    Args:
        folder: what `PartitionedJob` wrote.
        output: a file; default: standard output.
        fmt: table, json, jsonl, csv, tsv or parquet; default: by the suffix.
        overwrite: replace an output that exists.
        csv: how CSV and TSV are written.

    Raises:
        UsageError: the format does not suit the output.
        OutputError: a partition is not as it must be, which the message names; or the output cannot
            be written.
    """
    source, target = Folder(Path(folder)), Path(output) if output is not None else None
    fmt = fmt or (format_of(target) if target else "table")
    if csv != PLAIN and fmt not in ("csv", "tsv"):
        raise UsageError(f"`csv_bom` and `csv_safe` are for the formats csv and tsv, not {fmt}")
    check_target(target, fmt=fmt, resume=False, overwrite=overwrite, resumable=False)
    info = read_record(source)
    parts = _checked(source, info, progress)
    top_k = info.settings["top_k"]
    info = RunInfo({**info.settings, "csv_safe": csv.safe}, info.device, info.tool, info.started)
    progress.start("merging")
    progress.total(sum(fingerprint.rows for _, fingerprint in parts))
    try:
        with open_output(
            target, fmt=fmt, top_k=top_k, info=info, foot=f"merged from {source}", resume=False,
            csv=csv,
        ) as rows:  # fmt: skip
            for name, fingerprint in parts:
                for record in read_rows(source, name, fingerprint):
                    rows.write(PredictionSchema.result(record))
                    progress.advance()
            rows.finish()
    finally:
        progress.finish()
    fingerprints = [fingerprint for _, fingerprint in parts]
    return MergeSummary(
        len(parts),
        sum(f.rows for f in fingerprints),
        sum(f.failed for f in fingerprints),
        sum(len(f.passing) for f in fingerprints),
    )


def _checked(folder: Folder, info: RunInfo, progress: Progress) -> list[tuple[str, Fingerprint]]:
    """The partitions in order, each read once; `OutputError` that names every fault."""
    fmt = info.settings["format"]
    names = {name for name in folder.names() if name.startswith(PREFIX)}
    parts, faults = [], []
    last: Segment | None = None
    progress.start("checking")
    try:
        for segment in read_manifest(folder):
            last, name = segment, part_name(segment.number, fmt)
            names.discard(name)
            try:
                fingerprint = read_fingerprint(folder, name)
                if difference := fingerprint.differs(segment, info.settings):
                    raise Damaged(difference)
                for _ in read_rows(folder, name, fingerprint):
                    progress.advance()
                parts.append((name, fingerprint))
            except FileNotFoundError:
                faults.append(f"{name} is missing")
            except Damaged as damage:
                faults.append(f"{name} is {damage}")
    finally:
        progress.finish()
    if last is None or not last.last:
        faults.append("the manifest is not finished: the inputs have not been listed to their end")
    faults += [f"{name} is foreign: the run has no such partition" for name in sorted(names)]
    if faults:
        more = f"; and {len(faults) - _MOST_NAMED:,} more" if faults[_MOST_NAMED:] else ""
        raise OutputError(
            f"'{folder}' cannot be merged: {'; '.join(faults[:_MOST_NAMED])}{more}"
            "\nrun the same command again for what is missing, after removing what is damaged or "
            "foreign"
        )
    return parts
