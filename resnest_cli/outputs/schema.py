"""What the rows of a results file hold: formats know columns, and only this knows predictions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol, TypeVar

from resnest_cli.errors import OutputError
from resnest_cli.results import Prediction, Result

Record = dict[str, Any]  # a row as a JSON object; `path` and `error` are always among its keys
Item = TypeVar("Item", contravariant=True)  # what a row is written of

TEXT, INTEGER, NUMBER = "text", "integer", "number"
_RANKED = {"index": INTEGER, "wnid": TEXT, "label": TEXT, "probability": NUMBER}
_ALWAYS = ("path", "label")  # columns of text that may be empty, but are never missing


class Column(NamedTuple):
    """A flat column, of CSV, TSV and Parquet."""

    name: str
    kind: str  # TEXT, INTEGER or NUMBER (a float32)
    optional: bool = True  # whether an empty cell means that there is no value


class Schema(Protocol[Item]):
    """How an item is written as a row, nested for JSON and flat for the others."""

    columns: Sequence[Column]  # the first is `path`, the last is `error`

    def record(self, item: Item) -> Record:
        """An item's row."""

    def flat(self, record: Record) -> list[Any]:
        """A row's cells, in the order of `columns`; None where it has no value."""

    def nested(self, cells: Mapping[str, Any]) -> Record:
        """The row that has these cells, by the columns' names."""


class PathSchema:
    """Rows that are records already: a path, an error, and in JSON whatever else they hold."""

    columns: Sequence[Column] = (Column("path", TEXT, False), Column("error", TEXT))

    def record(self, item: Record) -> Record:
        """A row is its own record."""
        return item

    def flat(self, record: Record) -> list[Any]:
        """What all rows have."""
        return [record["path"], record["error"]]

    def nested(self, cells: Mapping[str, Any]) -> Record:
        """The row that has these cells."""
        return dict(cells)


class PredictionSchema:
    """Rows of predictions: a path, `top_k` ranks, an error."""

    def __init__(self, top_k: int) -> None:
        self.top_k = top_k
        ranked = [
            Column(f"{name}_{rank}", kind, name not in _ALWAYS)
            for rank in range(1, top_k + 1)
            for name, kind in _RANKED.items()
        ]
        path, error = Column("path", TEXT, False), Column("error", TEXT)
        self.columns: Sequence[Column] = [path, *ranked, error]

    @classmethod
    def of_columns(cls, names: Sequence[str]) -> PredictionSchema:
        """The schema that has these columns; `OutputError` if they are not those of predictions."""
        schema = cls(sum(bool(re.fullmatch(r"index_\d+", name)) for name in names))
        if [column.name for column in schema.columns] != list(names):
            raise OutputError("its columns are not those of predictions")
        return schema

    def record(self, item: Result) -> Record:
        """A result's row."""
        predictions = [asdict(p) for p in item.predictions]
        return {"path": item.path, "predictions": predictions, "error": item.error}

    @staticmethod
    def result(record: Record) -> Result:
        """The result that a row was written of."""
        predictions = tuple(Prediction(**p) for p in record["predictions"])
        return Result(record["path"], predictions, record["error"])

    def flat(self, record: Record) -> list[Any]:
        """A row's cells, in the order of `columns`."""
        cells = [record["path"]]
        for prediction in record["predictions"]:
            cells += [prediction[name] for name in _RANKED]
        cells += [None] * (len(self.columns) - 1 - len(cells))
        return [*cells, record["error"]]

    def nested(self, cells: Mapping[str, Any]) -> Record:
        """The row that has these cells."""
        predictions = [
            {"rank": rank, **{name: cells[f"{name}_{rank}"] for name in _RANKED}}
            for rank in range(1, self.top_k + 1)
            if cells[f"index_{rank}"] is not None
        ]
        return {"path": cells["path"], "predictions": predictions, "error": cells["error"]}
