"""Evaluation: labelled images through a model, to metrics and a report."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnest_cli.catalog.demo import DEMO
from resnest_cli.catalog.weights import is_path
from resnest_cli.datasets.class_folders import LabelledImages, check_output_outside
from resnest_cli.datasets.class_names import match_images
from resnest_cli.datasets.labelled_folder import LabelledFolder
from resnest_cli.datasets.repeats import FINGERPRINTS, Fingerprints, read_fingerprints
from resnest_cli.engines.api import ModelSpec, RuntimeOptions
from resnest_cli.errors import DatasetError, UsageError, check_number, require_extra
from resnest_cli.evaluation.metrics import measure
from resnest_cli.evaluation.on_ray import shares_on_ray
from resnest_cli.evaluation.processes import Alone, join_processes, own_runtime
from resnest_cli.evaluation.published import compare_with_published
from resnest_cli.evaluation.report import (
    FILES,
    MISTAKES,
    Evaluation,
    check_calibration,
    check_report_folder,
)
from resnest_cli.evaluation.shares import Share, Work, prepared, share
from resnest_cli.files import PLAIN, CSVStyle, check_no_input
from resnest_cli.imaging.decode_options import DecodeOptions
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inputs.stores import is_store_url
from resnest_cli.progress import SILENT, SUMMARY, Progress
from resnest_cli.text import counted, printable

if TYPE_CHECKING:
    from resnest_cli.evaluation.processes import Processes

log = logging.getLogger(__name__)


def evaluate(
    data: str | os.PathLike[str] | LabelledFolder,
    model: str | os.PathLike[str] | ModelSpec | Classifier | None = None,
    *,
    runtime: RuntimeOptions | None = None,
    decode: DecodeOptions | None = None,
    skip_unknown: bool = False,
    bins: int = 15,
    output: str | os.PathLike[str] | None = None,
    mistakes: int = MISTAKES,
    calibrate: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    csv: CSVStyle = PLAIN,
    on: str | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Measure a model on labelled images.

    Of several processes that `torchrun` started each takes a share of the images; the first one
    writes, and all return the same.

    Args:
        data: a folder of class folders, named after the classes, their WordNet ids or indices; an
            archive or a URL of an object store; `LabelledFolder` has options.
        model: a model's name, a checkpoint's path, or a classifier, which is used as it was made.
        runtime: on what the model runs.
        decode: how images are read; default: the EXIF orientation as by `applies_exif`.
        skip_unknown: leave out images of classes that the model lacks.
        bins: of the calibration error, 2 to 1000.
        output: a folder for the report, see `Evaluation.write`.
        mistakes: images on the report's sheet of mistakes, at most.
        calibrate: a file for the calibrated checkpoint, see `Evaluation.calibrate`.
        overwrite: replace an earlier report or checkpoint.
        csv: how the report's CSV files are written.
        on: `ray` or `ray://HOST:PORT`: the workers of a Ray cluster take shares of the images.
        progress: receives a download's progress, and the images'.

    Raises:
        DatasetError: the images or their classes are unusable.
        UsageError: options exclude each other or are out of range.
        OutputError: the report or the checkpoint cannot be written.
        ResNeStError: the model cannot be loaded, or the extra `train` is not installed.
    """
    folder = data if isinstance(data, LabelledFolder) else LabelledFolder(os.fspath(data))
    report = Path(output) if output else None
    file = Path(calibrate) if calibrate else None
    wanted = _Wanted(folder, skip_unknown, bins, report, mistakes, file, overwrite, csv)
    if on:
        work = wanted.prepare(model, runtime, decode, Alone(), progress)
        shares = shares_on_ray(on, work, progress)
        return wanted.finish(work, shares, said=False)
    processes = join_processes()
    with processes.reported_by_main():
        work = prepared(
            processes, lambda: wanted.prepare(model, runtime, decode, processes, progress)
        )
        shares = processes.gather(
            lambda: share(work, processes.rank, processes.world_size, progress)
        )
        return processes.broadcast_from_main(lambda: wanted.finish(work, shares))


def applies_exif(model: ModelSpec) -> bool:
    """Whether an evaluation applies the EXIF orientation by default.

    It does except for published models, whose published accuracy was measured without.
    """
    named = model.model
    return model.weights is not None or named == DEMO or (named is not None and is_path(named))


class _Wanted(NamedTuple):
    """What to evaluate on, and what to make of it."""

    folder: LabelledFolder
    skip_unknown: bool
    bins: int
    output: Path | None
    mistakes: int
    calibrate: Path | None
    overwrite: bool
    csv: CSVStyle

    def prepare(
        self,
        model: str | os.PathLike[str] | ModelSpec | Classifier | None,
        runtime: RuntimeOptions | None,
        decode: DecodeOptions | None,
        processes: Processes,
        progress: Progress,
    ) -> Work:
        """Raise, before the work, what would be raised after it; else the work."""
        self._check()
        if decode and decode.offline and is_store_url(str(self.folder.path)):
            raise UsageError(
                "the images lie in an object store, and the network is off (`offline`)"
            )
        images = self.folder.read()
        written = [self.output / name for name in FILES] if self.output else []
        written += [self.calibrate] if self.calibrate else []
        if isinstance(model, str | os.PathLike):
            model = ModelSpec(os.fspath(model))
        of_model = model.files() if isinstance(model, ModelSpec) else []
        check_no_input(
            written, [*images.paths, self.folder.path, self.folder.ground_truth, *of_model]
        )
        classifier = _classifier(model, runtime, decode, processes, progress)
        if self.calibrate:
            weights = classifier.engine.weights
            check_calibration(weights, self.calibrate, overwrite=self.overwrite)
        return Work(
            classifier, *match_images(images, classifier.labels, skip_unknown=self.skip_unknown)
        )

    def _check(self) -> None:
        require_extra("train", "sklearn", "scipy")
        check_number("bins", self.bins, 2, 1000)
        if self.output:
            if not self.folder.ground_truth:
                check_output_outside(self.output, [Path(self.folder.path)])
            check_report_folder(self.output, overwrite=self.overwrite)
        if self.csv != PLAIN and not self.output:
            name = "bom" if self.csv.bom else "safe"
            raise UsageError(f"`csv_{name}` needs an `output` folder")

    def finish(self, work: Work, shares: list[Share], *, said: bool = True) -> Evaluation:
        """The evaluation, with all that is wanted of it written.

        `said`: the failures of the first share were reported when they were met.
        """
        evaluation = _measured(work, shares, self.bins, said=said)
        if self.calibrate:
            evaluation = evaluation.calibrate(self.calibrate, overwrite=self.overwrite)
        if self.output:
            evaluation.write(
                self.output, mistakes=self.mistakes, overwrite=self.overwrite, csv=self.csv
            )
        return evaluation


def _classifier(
    model: ModelSpec | Classifier | None,
    runtime: RuntimeOptions | None,
    decode: DecodeOptions | None,
    processes: Processes,
    progress: Progress,
) -> Classifier:
    if isinstance(model, Classifier):
        if runtime or decode:
            raise UsageError("`runtime` and `decode` need a model's name; a classifier has its own")
        return model
    model = model or ModelSpec()
    decode = decode or DecodeOptions(exif=applies_exif(model))
    runtime = own_runtime(runtime or RuntimeOptions(), processes)
    return Classifier.from_specs(model, runtime, decode, progress=progress)


def _measured(work: Work, shares: list[Share], bins: int, *, said: bool) -> Evaluation:
    """The evaluation of what all processes have found out, in the order of the images."""
    classifier, images, labels = work
    found = {path: mark for share in shares for path, mark in share.found.items()}
    outputs = [shares[i % len(shares)].logits[i // len(shares)] for i in range(len(images))]
    failed = {index: reason for index, reason in enumerate(outputs) if isinstance(reason, str)}
    for index in failed:
        if index % len(shares) or not said:
            log.warning("'%s': %s", printable(images.paths[index]), failed[index])
    logits = _stacked(outputs)
    read = [index for index in range(len(images)) if index not in failed]
    labels = labels[read]
    right = dict(zip((images.paths[i] for i in read), logits.argmax(1) == labels, strict=True))
    _warn_of_repeats(images, found, right, classifier.engine.weights.path.parent)
    metrics = measure(logits, labels, bins=bins)
    orientation = "" if classifier.decode.exif else " · EXIF orientation ignored"
    config = replace(
        classifier.config, labels=classifier.labels, preprocessing=classifier.preprocessing
    )
    return Evaluation(
        network=classifier.describe() + orientation,
        weights=classifier.engine.weights,
        config=config,
        paths=[images.paths[index] for index in read],
        logits=logits,
        labels=labels,
        metrics=metrics,
        failed=[(images.paths[index], reason) for index, reason in failed.items()],
        agreement=compare_with_published(config, metrics),
        decode=classifier.decode,
        stored=images.stored,
    )


def _stacked(outputs: list[NDArray[np.float32] | str]) -> NDArray[np.float32]:
    """The logits (N, classes) of the images that can be read."""
    rows = [row for row in outputs if not isinstance(row, str)]
    failed = len(outputs) - len(rows)
    if not rows:
        raise DatasetError(f"no image can be read: {counted(failed, 'image')} failed")
    if not np.isfinite(stacked := np.stack(rows)).all():
        raise DatasetError("the model's outputs are NaN or infinite: its weights are damaged")
    if failed:
        log.log(SUMMARY, "%s cannot be read", counted(failed, "image"))
    return stacked


def _warn_of_repeats(
    images: LabelledImages, found: Fingerprints, right: Mapping[str, bool], run: Path
) -> None:
    """Warn of images that occur twice, or in the training set of the model, where its run is.

    `right` says of each path whether its class was predicted.
    """
    count = counted(len(found), "image")
    trained = read_fingerprints(run / FINGERPRINTS)
    new = [ok for path, ok in right.items() if found.get(path) not in trained]
    known = sum(fingerprint in trained for fingerprint in found.values())
    if known:
        without = f": top-1 is {np.mean(new):.2%} without them" if new else ""
        log.warning(
            "%d of %s are in the training set of the model, by their pixels%s\n"
            "the accuracy is higher than on new images; evaluate images that were held out",
            known, count, without,
        )  # fmt: skip
    classes: dict[bytes, set[int]] = {}
    for path, target in zip(images.paths, images.targets, strict=True):
        if path in found:
            classes.setdefault(found[path], set()).add(target)
    if again := len(found) - len(classes):
        hint = ", some in another class" if any(len(c) > 1 for c in classes.values()) else ""
        log.warning("%d of %s repeat others, by their pixels%s", again, count, hint)
