"""An evaluation, its report (a summary, JSON, CSV files, charts), and calibration by it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli.catalog.config import ModelConfig
from resnest_cli.catalog.labels import Labels, numbered
from resnest_cli.catalog.weights import Weights
from resnest_cli.errors import OutputError, UsageError, require_extra
from resnest_cli.evaluation.metrics import (
    Metrics,
    Proportion,
    fit_temperature,
    log_softmax,
    measure,
    ranks_of,
)
from resnest_cli.evaluation.published import Agreement
from resnest_cli.files import (
    PLAIN,
    CSVStyle,
    all_or_none,
    check_new,
    check_no_input,
    os_errors,
    writable_folder,
    write_csv,
)
from resnest_cli.hashing import sha256_of
from resnest_cli.imaging.decode_options import DEFAULT, DecodeOptions
from resnest_cli.inputs.source import Source, as_source
from resnest_cli.outputs import charts
from resnest_cli.progress import SUMMARY
from resnest_cli.text import counted, listed, printable

log = logging.getLogger(__name__)

FILES = (
    "metrics.json", "per_class.csv", "confusion.csv", "confusion.png", "reliability.png",
    "mistakes.csv", "mistakes.jpg", "predictions.csv", "failed.csv",
)  # fmt: skip
MISTAKES = 36  # images on the sheet by default
_MOST_CLASSES = 30  # in the summary
_FEW = 100  # images, to fit a temperature to


@dataclass(frozen=True)
class FittedTemperature:
    """A temperature (arXiv 1706.04599), and metrics on the images that it was fitted to."""

    temperature: float  # the divisor of the logits
    loss_before: float
    loss_after: float
    error_before: float  # expected calibration error, 0 to 1
    error_after: float


@dataclass(frozen=True)
class Evaluation:
    """A model's outputs on labelled images, and their metrics."""

    network: str  # one line: model, preprocessing, engine, device, precision
    weights: Weights
    config: ModelConfig  # with the class names and the preprocessing that were used
    paths: Sequence[str]
    logits: NDArray[np.float32]  # (N, classes)
    labels: NDArray[np.int64]  # (N), class indices
    metrics: Metrics
    failed: Sequence[tuple[str, str]] = ()  # path and reason of each image that cannot be read
    agreement: Agreement | None = None  # with the published top-1
    temperature: FittedTemperature | None = None
    decode: DecodeOptions = DEFAULT
    stored: Mapping[str, Source] = field(default_factory=dict)  # images that are no files, by path

    @property
    def class_names(self) -> Labels:
        """The names of the network's classes."""
        return self.config.labels or numbered(self.config.num_classes)

    def mistakes(self) -> list[int]:
        """Indices of the images that were classified wrongly, the most confident first."""
        confidence = log_softmax(self.logits).max(1)
        wrong = np.flatnonzero(self.logits.argmax(1) != self.labels)
        return [int(i) for i in wrong[np.argsort(-confidence[wrong], kind="stable")]]

    def as_json(self) -> dict[str, Any]:
        """All metrics as plain values; fractions are 0 to 1."""
        m = self.metrics
        c = m.calibration
        bins = zip(c.confidence, c.accuracy, c.counts, strict=True)
        return {
            "network": self.network,
            "images": m.images,
            "failed": [{"path": printable(p), "error": reason} for p, reason in self.failed],
            "top1": asdict(m.top1),
            "top5": asdict(m.top5),
            "loss": m.loss,
            "brier": m.brier,
            "macro": asdict(m.macro),
            "calibration": {
                "expected_error": c.expected_error,
                "maximum_error": c.maximum_error,
                "bins": [
                    {"confidence": float(p), "accuracy": float(a), "images": int(n)}
                    for p, a, n in bins
                ],
            },
            "published": asdict(self.agreement) if self.agreement else None,
            "temperature": asdict(self.temperature) if self.temperature else None,
            "classes": self._per_class(),
        }

    def summary(self) -> list[str]:
        """Lines for people; of more than 30 classes those with the lowest F1."""
        m = self.metrics
        c, macro = m.calibration, m.macro
        lines = [f"top-1      {_percent(m.top1)}"]
        if len(self.class_names) > 5:
            lines.append(f"top-5      {_percent(m.top5)}")
        classes = int((m.per_class.support > 0).sum())
        lines += [
            f"images     {m.images:,} of {counted(classes, 'class')}",
            f"macro      precision {macro.precision:.2%}, recall {macro.recall:.2%}, "
            f"F1 {macro.f1:.2%}",
            f"loss       {m.loss:.4f}, Brier score {m.brier:.4f}",
            f"calibration error  expected {c.expected_error:.2%}, maximum {c.maximum_error:.2%}",
        ]
        if a := self.agreement:
            known = f"{a.published:.3%}: " if a.published else ""
            lines.append(f"published  {known}{a.reason}")
        if t := self.temperature:
            lines.append(
                f"temperature {t.temperature:.4f}: loss {t.loss_before:.4f} to {t.loss_after:.4f}, "
                f"expected calibration error {t.error_before:.2%} to {t.error_after:.2%}, on the "
                "images it was fitted to"
            )
        return lines + self._class_lines()

    def write(
        self, folder: str | os.PathLike[str], *, mistakes: int = MISTAKES, overwrite: bool = False,
        csv: CSVStyle = PLAIN,
    ) -> None:  # fmt: skip
        """Write the report: every file of `FILES` that applies.

        Args:
            folder: made if it is missing.
            mistakes: images on the contact sheet of mistakes, at most.
            overwrite: replace files that the folder holds.
            csv: how CSV files are written.

        Raises:
            OutputError: the folder cannot be written to, or holds one of the files.
        """
        folder = Path(folder)
        check_report_folder(folder, overwrite=overwrite)
        earlier = _written_before(folder)
        with os_errors(f"the report in '{folder}'"), all_or_none(folder, FILES) as beside:
            self._write_files(beside, mistakes, csv)
            digests = {path.name: sha256_of(path) for path in sorted(beside.iterdir())}
            text = json.dumps(self.as_json() | {"files": digests}, indent=2, ensure_ascii=False)
            (beside / "metrics.json").write_text(text + "\n", encoding="utf-8")
        for path in earlier:
            if path.name not in digests:
                path.unlink(missing_ok=True)

    def _write_files(self, folder: Path, mistakes: int, csv: CSVStyle) -> None:
        """Write all files but the metrics."""
        per_class = self._per_class()
        rows = [row.values() for row in per_class]
        write_csv(folder / "per_class.csv", list(per_class[0]), rows, csv)
        self._write_confusion(folder, csv)
        c = self.metrics.calibration
        charts.draw_reliability(
            folder / "reliability.png",
            confidence=c.confidence,
            accuracy=c.accuracy,
            counts=c.counts,
            error=c.expected_error,
        )
        self._write_predictions(folder, mistakes, csv)
        if self.failed:
            write_csv(folder / "failed.csv", ["path", "error"], self.failed, csv)

    def calibrate(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Evaluation:
        """Fit a temperature on these images, and write the calibrated checkpoint.

        The images should be such that the model was not trained on, and will not be measured on.
        The last layer is divided by the temperature, which the checkpoint's config records; so
        top-1 and the order of the classes stay the same.

        Args:
            path: the checkpoint, a .safetensors file.
            overwrite: replace a file that exists.

        Returns:
            This evaluation with its `temperature`; its metrics are those before calibration.

        Raises:
            UsageError: the path is not a .safetensors file, or the model is an exported graph.
            OutputError: the file exists, or cannot be written.
        """
        from resnest_cli.model.checkpoint import write_calibrated  # imports torch

        path = Path(path)
        check_calibration(self.weights, path, overwrite=overwrite)
        temperature = fit_temperature(self.logits, self.labels)
        if len(self.labels) < _FEW or not 0.02 < temperature < 50:
            log.warning("a temperature fitted to so few images, or so few mistakes, is unreliable")
        write_calibrated(self.weights.path, self.config, path, temperature)
        log.log(SUMMARY, "'%s' written, with a temperature of %.4f", path, temperature)
        before = self.metrics
        bins = len(before.calibration.counts)
        after = measure(self.logits / temperature, self.labels, bins=bins)
        fitted = FittedTemperature(
            temperature,
            loss_before=before.loss,
            loss_after=after.loss,
            error_before=before.calibration.expected_error,
            error_after=after.calibration.expected_error,
        )
        return replace(self, temperature=fitted)

    def _per_class(self) -> list[dict[str, Any]]:
        names, wnids = self.class_names.names, self.class_names.wnids
        metrics = vars(self.metrics.per_class)  # precision, recall, f1, support
        return [
            {"index": index, "wnid": wnids[index] if wnids else None, "label": name}
            | {metric: values[index].item() for metric, values in metrics.items()}
            for index, name in enumerate(names)
        ]

    def _class_lines(self) -> list[str]:
        p, names = self.metrics.per_class, self.class_names.names
        used = [int(i) for i in np.flatnonzero(p.support)]
        shown, title = used, "class"
        if len(used) > _MOST_CLASSES:
            shown = sorted(used, key=lambda i: float(p.f1[i]))[:_MOST_CLASSES]
            title = f"lowest {_MOST_CLASSES} of {len(used):,} classes"
        width = min(max(5, *(len(printable(names[i])) for i in shown)), 40)
        lines = ["", f"{title:<{width}}  precision  recall      F1  images"]
        for i in shown:
            lines.append(
                f"{printable(names[i])[:width]:<{width}}  {p.precision[i]:>9.2%} "
                f"{p.recall[i]:>7.2%} {p.f1[i]:>7.2%}  {p.support[i]:>8,}"
            )
        return lines

    def _write_confusion(self, folder: Path, csv: CSVStyle) -> None:
        """The whole matrix as CSV, and as a chart the classes that were true or predicted."""
        matrix, names = self.metrics.confusion, self.class_names.names
        rows = ([name, *map(int, row)] for name, row in zip(names, matrix, strict=True))
        write_csv(folder / "confusion.csv", ["true \\ predicted", *names], rows, csv)
        used = np.flatnonzero(matrix.sum(0) + matrix.sum(1))
        shown = [printable(names[i]) for i in used]
        charts.draw_confusion(folder / "confusion.png", matrix[np.ix_(used, used)], shown)

    def _write_predictions(self, folder: Path, mistakes: int, csv: CSVStyle) -> None:
        """Every image and its top-1 class, the mistakes alone, and a sheet of the worst ones."""
        confidence = np.exp(log_softmax(self.logits).max(1))
        predicted, ranks = self.logits.argmax(1), ranks_of(self.logits, self.labels)
        head = ["path", "true", "predicted", "confidence", "rank_of_true"]
        names = self.class_names.names

        def row(i: int) -> list[Any]:
            classes = names[self.labels[i]], names[predicted[i]]
            return [self.paths[i], *classes, f"{confidence[i]:.6g}", int(ranks[i]) + 1]

        def on_sheet(i: int) -> charts.Tile:
            path = self.paths[i]
            load = partial((self.stored.get(path) or as_source(path)).load, self.decode)
            guess = f"{printable(names[predicted[i]])} {confidence[i]:.0%}"
            return load, printable(names[self.labels[i]]), guess

        wrong = self.mistakes()
        write_csv(folder / "predictions.csv", head, map(row, range(len(self.paths))), csv)
        write_csv(folder / "mistakes.csv", head, map(row, wrong), csv)
        if shown := wrong[:mistakes]:
            charts.draw_contact_sheet(folder / "mistakes.jpg", list(map(on_sheet, shown)))


def check_report_folder(folder: Path, *, overwrite: bool = False) -> None:
    """Raise `OutputError` if a report cannot be written to a folder; make the folder."""
    require_extra("train", "matplotlib")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"`output` must be a folder; '{folder}' is a file")
    existing = [name for name in FILES if os.path.lexists(folder / name)]
    if existing and not overwrite:
        raise OutputError(
            f"'{folder}' holds {listed(existing, 2)} already\n"
            "replace what the report replaces with `overwrite`, or choose another folder"
        )
    if others := [name for name in existing if not (folder / name).is_file()]:
        raise OutputError(f"'{folder / others[0]}' is not a file, and is not replaced by one")
    writable_folder(folder)


def _written_before(folder: Path) -> list[Path]:
    """The files in a folder that are known, by their digests, to be of an earlier report."""
    try:
        files = dict(json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    found = [folder / name for name in FILES if name in files and (folder / name).is_file()]
    return [path for path in found if sha256_of(path) == files[path.name]]


def check_calibration(weights: Weights, path: Path, *, overwrite: bool = False) -> None:
    """Raise `UsageError` or `OutputError` if a calibrated checkpoint cannot be written."""
    if weights.is_graph:
        raise UsageError(
            f"`calibrate` needs the checkpoint that '{weights.path}' was exported from: the "
            "weights of a graph are fixed"
        )
    if path.suffix != ".safetensors":
        raise UsageError(f"`calibrate` must be a .safetensors file, not '{path}'")
    check_new(path, overwrite=overwrite)
    check_no_input([path], [weights.path])
    writable_folder(path.parent)


def _percent(fraction: Proportion) -> str:
    return f"{fraction.value:.2%}  (95 %: {fraction.low:.2%} to {fraction.high:.2%})"
