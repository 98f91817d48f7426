"""What users decided about pairs of images, kept by the images' content and not their names."""

from __future__ import annotations

import csv
from pathlib import Path

from resnest_cli.errors import UsageError
from resnest_cli.files import write_csv

KEEP, DUPLICATE = "keep", "duplicate"  # both are wanted, and not asked about again; or not

Verdicts = dict[tuple[str, str], str]  # by the contents of a pair, sorted


def pair(one: str, two: str) -> tuple[str, str]:
    """The key of a pair."""
    return (one, two) if one <= two else (two, one)


def read_verdicts(file: Path) -> Verdicts:
    """The verdicts in a CSV with the columns `content`, `of` and `verdict`; empty ones are none.

    Raises:
        UsageError: it cannot be read, lacks a column or holds another word.
    """
    found: Verdicts = {}
    try:
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as opened:
            reader = csv.DictReader(opened)
            missing = {"content", "of", "verdict"} - {*(reader.fieldnames or ())}
            if missing:
                raise UsageError(f"'{file}' has no column '{min(missing)}'")
            for row in reader:
                verdict = (row["verdict"] or "").strip().lower()
                if verdict not in ("", KEEP, DUPLICATE):
                    raise UsageError(
                        f"'{file}', line {reader.line_num}: the verdict '{verdict}' is neither "
                        f"'{KEEP}' nor '{DUPLICATE}'"
                    )
                if verdict and row["of"]:
                    found[pair(row["content"], row["of"])] = verdict
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"'{file}' cannot be read: {reason}") from error
    return found


def write_verdicts(file: Path, verdicts: Verdicts) -> None:
    """Store verdicts as `read_verdicts` reads them."""
    rows = [(one, two, verdict) for (one, two), verdict in sorted(verdicts.items())]
    write_csv(file, ("content", "of", "verdict"), rows)
