"""Results files for the tests of reports and sorting."""

import json
from pathlib import Path

from resnest_cli.outputs.formats import encode


def row(path: object, label: str = "cat", index: int = 0, probability: float = 0.9) -> dict:
    """A row with one prediction."""
    first = {"rank": 1, "index": index, "wnid": None, "label": label, "probability": probability}
    return {"path": str(path), "predictions": [first], "error": None}


def failed(path: object, error: str = "not an image") -> dict:
    """A row of a failure."""
    return {"path": str(path), "predictions": [], "error": error}


def write(file: Path, rows: list[dict]) -> Path:
    """A results file in JSON Lines."""
    file.write_bytes(b"".join(encode(r) + b"\n" for r in rows))
    return file


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder and what they hold, journals left out."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".resnest-sort.jsonl"
    }


def journal(folder: Path) -> list[dict]:
    """The lines of a sort's journal."""
    return [json.loads(line) for line in (folder / ".resnest-sort.jsonl").read_bytes().splitlines()]
