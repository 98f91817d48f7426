"""An audit of class folders: probable wrong labels, outliers, the same image in two places."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from resnest_cli.datasets.class_folders import LabelledImages, find_splits, read_class_folders
from resnest_cli.datasets.repeats import Fingerprints, noted
from resnest_cli.embed.audit_rows import (
    CONFLICT,
    LABEL,
    LEAK,
    NEIGHBOURS,
    OUTLIER,
    Finding,
    Neighbour,
    Verdicts,
    read_verdicts,
    verdict_key,
    write_file,
)
from resnest_cli.embed.neighbours import neighbours, outliers
from resnest_cli.embed.out_of_sample import probabilities
from resnest_cli.engines.api import FEATURES, ModelSpec, RuntimeOptions
from resnest_cli.errors import DatasetError, ImageError, check_number, require_extra
from resnest_cli.files import PLAIN, CSVStyle, check_no_input
from resnest_cli.imaging.decode_options import DEFAULT, DecodeOptions
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.job import run_info
from resnest_cli.inputs.names import Names
from resnest_cli.outputs.formats import format_of
from resnest_cli.outputs.sink import check_target
from resnest_cli.progress import SILENT, Progress
from resnest_cli.text import counted, listed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

log = logging.getLogger(__name__)

_SPLITS = ("train", "val", "valid", "validation", "test")
FOLDS, SEED = 5, 0
_EXCLUDED, _PROBABLE = 0.02, 0.5  # probabilities


class Split(NamedTuple):
    """The images of one split; None: the folder has no splits."""

    name: str | None
    images: LabelledImages


@dataclass(frozen=True)
class Audit:
    """What was found, the most suspicious images first, and of how many images."""

    findings: tuple[Finding, ...]  # one for each image
    describe: str  # model, preprocessing, engine
    classes: tuple[str, ...]

    def count(self, issue: str) -> int:
        """How many images have an issue."""
        return sum(issue in finding.issues for finding in self.findings)

    @property
    def failed(self) -> int:
        """How many images cannot be read."""
        return sum(finding.error is not None for finding in self.findings)

    @property
    def suspicious(self) -> tuple[Finding, ...]:
        """The images that have an issue."""
        return tuple(finding for finding in self.findings if finding.issues)


@dataclass(frozen=True)
class AuditJob:
    """A folder, a network and settings: all that decides an audit."""

    folder: Path  # of class folders, or of train/, val/ ... with class folders
    model: ModelSpec = field(default_factory=ModelSpec)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    decode: DecodeOptions = DEFAULT
    output: Path | None = None  # .csv, .tsv, .jsonl, .json or .parquet
    fmt: str | None = None  # of the output; None: by its suffix
    reviewed: Path | None = None  # an earlier audit, in which a person filled in `verdict`
    folds: int = FOLDS  # 2 to 100; a class with fewer distinct images is not judged
    seed: int = SEED  # of how images are dealt to folds
    overwrite: bool = False  # replace the output; the verdicts in it are kept
    csv: CSVStyle = PLAIN

    def run(self, progress: Progress = SILENT) -> Audit:
        """Look through all images, and write the output.

        Raises:
            DatasetError: the folder has no class folders, or too few images to compare.
            OutputError: the output exists or cannot be written, or verdicts cannot be read.
            ResNeStError: the network cannot be loaded, or the extra `clean` is not installed.
        """
        require_extra("clean", "cleanlab", "sklearn")
        check_number("folds", self.folds, 2, 100)
        check_number("seed", self.seed, 0)
        fmt = self.fmt or (format_of(self.output) if self.output else "table")
        if self.output:
            kept = {"resume": False, "resumable": False}
            check_target(self.output, fmt=fmt, overwrite=self.overwrite, **kept)
        verdicts = self._verdicts()
        splits = read_splits(self.folder)
        paths = [path for split in splits for path in split.images.paths]
        if self.output:
            check_no_input([self.output], [*paths, *self.model.files()])
        runtime = replace(self.runtime, hint="throughput")
        classifier = Classifier.from_specs(self.model, runtime, self.decode, progress=progress)
        found = Features.of(classifier, paths, progress)
        findings = examine(
            splits, found, verdicts, folds=self.folds, seed=self.seed, progress=progress
        )
        audit = Audit(tuple(findings), classifier.describe(), splits[0].images.classes)
        if self.output:
            info = run_info(classifier, csv_safe=self.csv.safe)
            asked = {"folds": self.folds, "seed": self.seed}
            info = replace(info, settings={**info.settings, **asked})
            write_file(self.output, audit.findings, fmt, self.csv, info)
        return audit

    def _verdicts(self) -> Verdicts:
        """Those of the earlier audit that was named, or else of the one that is replaced."""
        if self.reviewed:
            return read_verdicts(self.reviewed)
        if self.output is None or not self.output.is_file():
            return {}
        fmt = self.fmt or format_of(self.output)
        return {} if fmt == "parquet" else read_verdicts(self.output, fmt)


def audit(
    folder: str | os.PathLike[str],
    model: str | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    progress: Progress = SILENT,
) -> Audit:
    """Look for wrong labels, outliers and copies in class folders; see `AuditJob` for options."""
    target = Path(output) if output else None
    return AuditJob(Path(folder), ModelSpec(model), output=target).run(progress)


def read_splits(folder: Path) -> list[Split]:
    """The labelled images of a folder and of its splits, all with the same classes.

    Raises:
        DatasetError: there are no class folders, or no images in them.
    """
    train, _ = find_splits(folder, None)
    if train == folder:
        return [Split(None, read_class_folders(folder))]
    there = [name for name in _SPLITS if (folder / name).is_dir()]
    read = [Split(name, read_class_folders(folder / name)) for name in there]
    classes: list[str] = []
    for split in read:
        known = Names((name, name) for name in classes)
        classes += [name for name in split.images.classes if known.get(name) is None]
    return [Split(split.name, split.images.with_classes(sorted(classes))) for split in read]


@dataclass(frozen=True)
class Features:
    """What the network and the decoder say about images."""

    vectors: NDArray[np.float32]  # (read, channels)
    read: list[int]  # which of the images those are
    marks: Fingerprints  # of those that can be decoded, by path
    errors: Mapping[int, str]  # why the others have no vector

    @classmethod
    def of(cls, classifier: Classifier, paths: Sequence[str], progress: Progress) -> Features:
        """Compute them.

        Raises:
            DatasetError: no image can be read.
        """
        marks: Fingerprints = {}
        vectors: list[NDArray[np.float32]] = []
        read: list[int] = []
        errors: dict[int, str] = {}
        progress.start("looking at images")
        progress.total(len(paths))
        try:
            outputs = classifier.outputs(noted(paths, marks), (FEATURES,))
            for index, (_, given) in enumerate(outputs):
                if isinstance(given, ImageError):
                    errors[index] = str(given)
                elif not np.isfinite(given[0]).all():
                    errors[index] = "the network's output is not a number"
                else:
                    vectors.append(given[0])
                    read.append(index)
                progress.advance()
        finally:
            progress.finish()
        if not vectors:
            raise DatasetError(f"no image can be read: {counted(len(paths), 'image')} failed")
        return cls(np.stack(vectors), read, marks, errors)


def examine(
    splits: Sequence[Split], found: Features, verdicts: Verdicts | None = None, *,
    folds: int = FOLDS, seed: int = SEED, progress: Progress = SILENT,
) -> list[Finding]:  # fmt: skip
    """A finding for each image, in the order in which a person should look at them.

    Raises:
        DatasetError: fewer than two classes have as many distinct images as there are folds.
    """
    verdicts = verdicts or {}
    classes = splits[0].images.classes
    begun = [
        Finding(path, split.name, classes[target])
        for split in splits
        for path, target in zip(split.images.paths, split.images.targets, strict=True)
    ]
    failed = [replace(begun[i], error=reason) for i, reason in found.errors.items()]
    images = [begun[i] for i in found.read]
    all_targets = [target for split in splits for target in split.images.targets]
    targets = np.array([all_targets[i] for i in found.read])
    marks = [found.marks[image.path] for image in images]
    images = [
        replace(image, pixels=(pixels := f"px{mark.hex()}"),
                verdict=verdicts.get(verdict_key(pixels, image.label)))
        for image, mark in zip(images, marks, strict=True)
    ]  # fmt: skip
    images = _with_twins(images)
    images = _with_neighbours(images, found.vectors, marks)
    images = _judged(images, targets, marks, found.vectors, classes, folds, seed, progress)
    return sorted(images, key=_order) + sorted(failed, key=lambda image: image.path)


def _order(image: Finding) -> tuple[int, float, str]:
    kinds = (CONFLICT, LABEL), (OUTLIER,), (LEAK,)
    place = next((n for n, kind in enumerate(kinds) if {*kind} & {*image.issues}), len(kinds))
    return place, 2.0 if image.quality is None else image.quality, image.path


def _with_issue(image: Finding, issue: str) -> Finding:
    """An image with an issue more, unless a person has said what it is."""
    return image if image.verdict else replace(image, issues=(*image.issues, issue))


def _with_twins(images: list[Finding]) -> list[Finding]:
    """Images with those that have the same pixels."""
    groups: dict[str | None, list[Finding]] = {}
    for image in images:
        groups.setdefault(image.pixels, []).append(image)

    def of(image: Finding) -> Finding:
        others = [other for other in groups[image.pixels] if other is not image]
        if not others:
            return image
        elsewhere = [other for other in others if other.label != image.label]
        leaked = [other for other in others if other.split != image.split]
        first = (elsewhere or leaked or others)[0]
        made = replace(image, twins=len(others), twin=first.path, twin_label=first.label)
        made = _with_issue(made, CONFLICT) if elsewhere else made
        return _with_issue(made, LEAK) if leaked else made

    return [of(image) for image in images]


def _with_neighbours(
    images: list[Finding], vectors: NDArray[np.float32], marks: Sequence[bytes]
) -> list[Finding]:
    """Images with their nearest ones, and whether they are unlike all others."""
    _, groups = np.unique(np.array(marks), return_inverse=True)
    indices, similarities = neighbours(vectors, groups, NEIGHBOURS)
    distance, far = outliers(similarities)
    made = []
    for number, image in enumerate(images):
        near = tuple(
            Neighbour(images[i].path, images[i].label, round(float(s), 4))
            for i, s in zip(indices[number], similarities[number], strict=True)
            if i >= 0
        )
        away = round(float(distance[number]), 4) if near else None
        image = replace(image, neighbours=near, distance=away)
        made.append(_with_issue(image, OUTLIER) if far[number] else image)
    return made


def _judged(
    images: list[Finding], targets: Ints, marks: Sequence[bytes], vectors: NDArray[np.float32],
    classes: Sequence[str], folds: int, seed: int, progress: Progress,
) -> list[Finding]:  # fmt: skip
    """Images with the probabilities of their classes, and which labels are probably wrong."""
    distinct = Counter(target for target, _ in {*zip(targets.tolist(), marks, strict=True)})
    judged = sorted(target for target, count in distinct.items() if count >= folds)
    if len(judged) < 2:
        named = [classes[target] for target in judged]
        raise DatasetError(
            "labels are judged by comparing classes: at least two must have "
            f"{folds} distinct readable images, and {listed(named) or 'none'} has\n"
            "add images, or choose fewer `folds`"
        )
    which = np.flatnonzero(np.isin(targets, judged)).tolist()
    labels = np.searchsorted(judged, targets[which])
    given = probabilities(
        vectors[which], labels, [marks[i] for i in which],
        folds=folds, seed=seed, progress=progress,
    )  # fmt: skip
    wrong = wrong_labels(labels, given)
    few = {target: count for target, count in distinct.items() if target not in judged}
    made = [
        replace(image, note=_too_few(few[target], folds)) if target in few else image
        for image, target in zip(images, targets.tolist(), strict=True)
    ]
    for row, index in enumerate(which):
        best, own = int(given[row].argmax()), int(labels[row])
        image = replace(made[index], quality=round(float(given[row, own]), 6))
        if best != own:
            image = replace(
                image, suggested=classes[judged[best]],
                suggested_probability=round(float(given[row, best]), 6),
            )  # fmt: skip
        made[index] = _with_issue(image, LABEL) if wrong[row] else image
    return made


def _too_few(count: int, folds: int) -> str:
    return f"not judged: its class has {counted(count, 'distinct image')}, and needs {folds}"


def wrong_labels(labels: Ints, given: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which labels (N) are probably wrong, by out-of-sample probabilities (N, classes).

    How many is estimated: those that confident learning and pruning by noise rate agree on, which
    compare with how sure the layer is of each class and miss single errors among many right labels;
    and those that are all but excluded, with another class that is probable. So many of the least
    probable ones are taken.
    """
    from cleanlab.filter import find_label_issues

    own, best = given[np.arange(len(labels)), labels], given.max(1)
    agreed = find_label_issues(labels, given, filter_by="both", n_jobs=1)
    count = int((agreed | ((own <= _EXCLUDED) & (best >= _PROBABLE))).sum())
    least = np.argsort(np.where(own < best, own, np.inf), kind="stable")[:count]
    wrong: NDArray[np.bool_] = np.zeros(len(labels), np.bool_)
    wrong[least] = True
    return wrong
