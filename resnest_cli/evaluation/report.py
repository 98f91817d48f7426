"""An evaluation in words and files: a summary, JSON, CSV, charts, a sheet of mistakes."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli import charts
from resnest_cli.decoding import Decoding
from resnest_cli.evaluation.metrics import Metrics, Share, log_softmax, ranks_of
from resnest_cli.files import into_place
from resnest_cli.labels import Labels
from resnest_cli.preprocess import Preprocessing
from resnest_cli.sources import as_source
from resnest_cli.variants import VARIANTS
from resnest_cli.writers import printable

FILES = (
    "metrics.json", "per_class.csv", "confusion.csv", "confusion.png", "reliability.png",
    "mistakes.csv", "mistakes.jpg", "predictions.csv", "failed.csv",
)  # fmt: skip
IMAGENET_VALIDATION = 50_000  # pictures
_SAME = 0.001  # of two top-1 on those same pictures: decoders differ by less


@dataclass(frozen=True)
class Agreement:
    """A measured top-1 against the published one."""

    reason: str  # in words
    published: float | None = None  # 0 to 1
    source: str | None = None  # who published it
    agrees: bool | None = None  # None: they cannot be compared


@dataclass(frozen=True)
class Evaluation:
    """A network's answers on labelled pictures, and what they come to."""

    network: str  # `Classifier.describe`
    labels: Labels
    paths: Sequence[str]
    logits: NDArray[np.float32]  # (pictures, classes)
    truths: NDArray[np.int64]  # (pictures)
    metrics: Metrics
    failed: Sequence[tuple[str, str]] = ()  # path and reason
    agreement: Agreement | None = None
    temperature: dict[str, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """Every figure, for machines; shares are 0 to 1."""
        m = self.metrics
        c = m.calibration
        return {
            "network": self.network,
            "pictures": m.pictures,
            "failed": [{"path": printable(p), "error": reason} for p, reason in self.failed],
            "top1": vars(m.top1),
            "top5": vars(m.top5),
            "loss": m.loss,
            "brier": m.brier,
            "macro": dict(zip(("precision", "recall", "f1"), m.macro, strict=True)),
            "calibration": {
                "expected_error": c.expected_error,
                "maximum_error": c.maximum_error,
                "bins": [
                    {"confidence": float(p), "accuracy": float(a), "pictures": int(n)}
                    for p, a, n in zip(c.confidence, c.accuracy, c.counts, strict=True)
                ],
            },
            "published": vars(self.agreement) if self.agreement else None,
            "temperature": self.temperature,
            "classes": self._per_class(),
        }

    def _per_class(self) -> list[dict[str, Any]]:
        p = self.metrics.per_class
        wnids = self.labels.wnids
        return [
            {
                "index": index,
                "wnid": wnids[index] if wnids else None,
                "label": name,
                "precision": float(p.precision[index]),
                "recall": float(p.recall[index]),
                "f1": float(p.f1[index]),
                "support": int(p.support[index]),
            }
            for index, name in enumerate(self.labels.names)
        ]

    def mistakes(self) -> list[int]:
        """Indices of the pictures named wrongly, the most confident first."""
        confidence = log_softmax(self.logits).max(1)
        wrong = np.flatnonzero(self.logits.argmax(1) != self.truths)
        return [int(i) for i in wrong[np.argsort(-confidence[wrong], kind="stable")]]

    def write(self, folder: Path, *, mistakes: int, decoding: Decoding) -> None:
        """Every file of `FILES` into a folder; `mistakes` pictures at most on the sheet."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        names = [printable(name) for name in self.labels.names]
        with into_place(folder / "metrics.json") as path:
            text = json.dumps(self.as_json(), indent=2, ensure_ascii=False)
            path.write_text(text + "\n", encoding="utf-8")
        _csv(folder / "per_class.csv", [list(r.values()) for r in self._per_class()],
             ["index", "wnid", "label", "precision", "recall", "f1", "support"])  # fmt: skip
        matrix = self.metrics.confusion
        rows = ([name, *map(int, row)] for name, row in zip(self.labels.names, matrix, strict=True))
        _csv(folder / "confusion.csv", rows, ["true \\ predicted", *self.labels.names])
        there = np.flatnonzero(matrix.sum(0) + matrix.sum(1))
        charts.draw_confusion(
            folder / "confusion.png", matrix[np.ix_(there, there)], [names[i] for i in there]
        )
        c = self.metrics.calibration
        charts.draw_reliability(
            folder / "reliability.png",
            confidence=c.confidence.tolist(),
            accuracy=c.accuracy.tolist(),
            counts=c.counts.tolist(),
            error=c.expected_error,
        )
        self._write_pictures(folder, names, mistakes, decoding)
        if self.failed:
            _csv(folder / "failed.csv", self.failed, ["path", "error"])

    def _write_pictures(
        self, folder: Path, names: Sequence[str], mistakes: int, decoding: Decoding
    ) -> None:
        confidence = np.exp(log_softmax(self.logits).max(1))
        predicted, ranks = self.logits.argmax(1), ranks_of(self.logits, self.truths)
        head = ["path", "true", "predicted", "confidence", "rank_of_true"]
        labels = self.labels.names

        def row(i: int) -> list[Any]:
            guess, true = labels[predicted[i]], labels[self.truths[i]]
            return [self.paths[i], true, guess, f"{confidence[i]:.6g}", int(ranks[i]) + 1]

        wrong = self.mistakes()
        _csv(folder / "predictions.csv", map(row, range(len(self.paths))), head)
        _csv(folder / "mistakes.csv", map(row, wrong), head)
        if shown := wrong[:mistakes]:
            charts.draw_contact_sheet(
                folder / "mistakes.jpg",
                [
                    (
                        partial(as_source(self.paths[i]).load, decoding),
                        names[self.truths[i]],
                        f"{names[predicted[i]]} {confidence[i]:.0%}",
                    )
                    for i in shown
                ],
            )

    def summary(self, *, classes: int = 30) -> list[str]:
        """Lines for people; of more than `classes` classes those with the lowest F1."""
        m = self.metrics
        precision, recall, f1 = m.macro
        lines = [
            f"top-1      {_percent(m.top1)}",
            f"top-5      {_percent(m.top5)}" if len(self.labels) > 5 else "",
            f"macro      precision {precision:.2%}, recall {recall:.2%}, F1 {f1:.2%}",
            f"loss       {m.loss:.4f}, Brier score {m.brier:.4f}",
            f"calibration error  expected {m.calibration.expected_error:.2%}, "
            f"of the worst bin {m.calibration.maximum_error:.2%}",
        ]
        if a := self.agreement:
            known = f"{a.published:.3%}: " if a.published else ""
            lines.append(f"published  {known}{a.reason}")
        if t := self.temperature:
            lines.append(
                f"temperature {t['temperature']:.4f}: loss {t['loss_before']:.4f} to "
                f"{t['loss_after']:.4f}, expected calibration error {t['error_before']:.2%} to "
                f"{t['error_after']:.2%}, on the pictures it was fitted to"
            )
        return [line for line in lines if line] + self._class_lines(classes)

    def _class_lines(self, limit: int) -> list[str]:
        p = self.metrics.per_class
        there = [int(i) for i in np.flatnonzero(p.support)]
        worst = sorted(there, key=lambda i: float(p.f1[i]))[:limit]
        shown = there if len(there) <= limit else worst
        width = max(len(printable(self.labels.names[i])) for i in shown)
        width = min(max(width, 5), 40)
        title = "class" if len(there) <= limit else f"lowest {limit} of {len(there):,} classes"
        lines = ["", f"{title:<{width}}  precision  recall      F1  pictures"]
        for i in shown:
            name = printable(self.labels.names[i])[:width]
            lines.append(
                f"{name:<{width}}  {p.precision[i]:>9.2%} {p.recall[i]:>7.2%} {p.f1[i]:>7.2%}"
                f"  {p.support[i]:>8,}"
            )
        return lines


def compare_with_published(
    name: str, preprocessing: Preprocessing, metrics: Metrics, *, labelled_as_imagenet: bool
) -> Agreement | None:
    """Whether a top-1 measured on ImageNet is the published one; None for other networks.

    All 1000 classes must be there. On the whole validation set the figures must agree to 0.1 per
    cent; on a part of it, the published one must lie in the measured one's 95 % interval.
    """
    variant = next((v for v in VARIANTS if v.name == name), None)
    if variant is None or not labelled_as_imagenet:
        return None
    if missing := int((metrics.per_class.support == 0).sum()):
        return Agreement(f"not compared, as {missing:,} of ImageNet's 1,000 classes are not there")
    figures = {
        "default": (variant.accuracy.timm, "timm"),
        "paper": (variant.accuracy.authors, "the authors"),
    }
    named = variant.preprocessing.named
    known = [n for n, (figure, _) in figures.items() if figure]
    published, source = next((figures[n] for n in known if named(n) == preprocessing), (None, ""))
    if published is None:
        others = [f"--preprocess {n}" for n in known]
        return Agreement(
            "nobody did for this preprocessing and resolution; there is a figure for "
            f"{' and '.join(others)}, without --crop and --resize"
        )
    value, found = published / 100, metrics.top1
    whole = metrics.pictures == IMAGENET_VALIDATION
    agrees = abs(value - found.value) <= _SAME if whole else found.low <= value <= found.high
    bound = "within 0.1 %" if whole else "in the 95 % interval of this part of it"
    reason = f"{'agrees' if agrees else 'does NOT agree'} with {source} ({bound})"
    if not agrees:
        reason += "; are these ImageNet's validation pictures, and the published weights?"
    return Agreement(reason, value, source, bool(agrees))


def _percent(share: Share) -> str:
    return f"{share.value:.2%}  (95 %: {share.low:.2%} to {share.high:.2%})"


def _csv(path: Path, rows: Iterable[Sequence[Any]], head: Sequence[str]) -> None:
    with (
        into_place(path) as beside,
        beside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
