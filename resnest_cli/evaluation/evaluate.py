"""Evaluation: labelled images through a model, to metrics and a report."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnest_cli.catalog.demo import DEMO
from resnest_cli.catalog.weights import is_path
from resnest_cli.datasets.class_folders import LabelledImages, check_output_outside
from resnest_cli.datasets.class_names import match_images
from resnest_cli.datasets.labelled_folder import LabelledFolder
from resnest_cli.datasets.repeats import FINGERPRINTS, Fingerprints, noted, read_fingerprints
from resnest_cli.engines.api import ModelSpec, RuntimeOptions
from resnest_cli.errors import DatasetError, ImageError, UsageError, check_number, require_extra
from resnest_cli.evaluation.metrics import measure
from resnest_cli.evaluation.published import compare_with_published
from resnest_cli.evaluation.report import (
    FILES,
    MISTAKES,
    Evaluation,
    check_calibration,
    check_report_folder,
)
from resnest_cli.files import PLAIN, CSVStyle, check_no_input
from resnest_cli.imaging.decode_options import DecodeOptions
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inputs.source import Source
from resnest_cli.progress import SILENT, SUMMARY, Progress
from resnest_cli.text import counted, printable

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
    progress: Progress = SILENT,
) -> Evaluation:
    """Measure a model on labelled images.

    Args:
        data: a folder of class folders, named after the classes, their WordNet ids or indices;
            `LabelledFolder` has options.
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
        progress: receives a download's progress, and the images'.

    Raises:
        DatasetError: the images or their classes are unusable.
        UsageError: options exclude each other or are out of range.
        OutputError: the report or the checkpoint cannot be written.
        ResNeStError: the model cannot be loaded, or the extra `train` is not installed.
    """
    folder = data if isinstance(data, LabelledFolder) else LabelledFolder(Path(data))
    _check(folder, bins, Path(output) if output else None, overwrite=overwrite)
    if csv != PLAIN and not output:
        raise UsageError(f"`csv_{'bom' if csv.bom else 'safe'}` needs an `output` folder")
    images = folder.read()
    written = [Path(output) / name for name in FILES] if output else []
    written += [Path(calibrate)] if calibrate else []
    if isinstance(model, str | os.PathLike):
        model = ModelSpec(os.fspath(model))
    of_model = model.files() if isinstance(model, ModelSpec) else []
    check_no_input(written, [*images.paths, folder.ground_truth, *of_model])
    classifier = _classifier(model, runtime, decode, progress)
    if calibrate:
        check_calibration(classifier.engine.weights, Path(calibrate), overwrite=overwrite)
    images, labels = match_images(images, classifier.labels, skip_unknown=skip_unknown)
    evaluation = _measured(classifier, images, labels, bins, progress)
    if calibrate:
        evaluation = evaluation.calibrate(calibrate, overwrite=overwrite)
    if output:
        evaluation.write(output, mistakes=mistakes, overwrite=overwrite, csv=csv)
    return evaluation


def applies_exif(model: ModelSpec) -> bool:
    """Whether an evaluation applies the EXIF orientation by default.

    It does except for published models, whose published accuracy was measured without.
    """
    named = model.model
    return model.weights is not None or named == DEMO or (named is not None and is_path(named))


def _check(folder: LabelledFolder, bins: int, output: Path | None, *, overwrite: bool) -> None:
    """Raise, before the work, what would be raised after it."""
    require_extra("train", "sklearn", "scipy")
    check_number("bins", bins, 2, 1000)
    if output:
        if not folder.ground_truth:
            check_output_outside(output, [folder.path])
        check_report_folder(output, overwrite=overwrite)


def _classifier(
    model: str | os.PathLike[str] | ModelSpec | Classifier | None,
    runtime: RuntimeOptions | None,
    decode: DecodeOptions | None,
    progress: Progress,
) -> Classifier:
    if isinstance(model, Classifier):
        if runtime or decode:
            raise UsageError("`runtime` and `decode` need a model's name; a classifier has its own")
        return model
    if not isinstance(model, ModelSpec):
        model = ModelSpec(os.fspath(model) if model is not None else None)
    decode = decode or DecodeOptions(exif=applies_exif(model))
    return Classifier.from_specs(model, runtime, decode, progress=progress)


def _measured(
    classifier: Classifier,
    images: LabelledImages,
    labels: NDArray[np.int64],
    bins: int,
    progress: Progress,
) -> Evaluation:
    """The evaluation of a classifier on images with the indices of their classes, (N)."""
    found: Fingerprints = {}
    logits, failed = _logits(classifier, noted(images.paths, found), progress)
    _warn_of_repeats(images, found, classifier.engine.weights.path.parent)
    read = [index for index in range(len(images)) if index not in failed]
    labels = labels[read]
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
    )


def _logits(
    classifier: Classifier, sources: Sequence[Source], progress: Progress
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """The logits (N, classes) of the images that can be read; why the others cannot, by index."""
    rows: list[NDArray[np.float32]] = []
    failed: dict[int, str] = {}
    progress.start("evaluating")
    progress.total(len(sources))
    try:
        for index, (source, logits) in enumerate(classifier.logits(sources)):
            if isinstance(logits, ImageError):
                failed[index] = str(logits)
                log.warning("'%s': %s", printable(source.name), logits)
            else:
                rows.append(logits)
            progress.advance()
    finally:
        progress.finish()
    if not rows:
        raise DatasetError(f"no image can be read: {counted(len(sources), 'image')} failed")
    if not np.isfinite(stacked := np.stack(rows)).all():
        raise DatasetError("the model's outputs are NaN or infinite: its weights are damaged")
    if failed:
        log.log(SUMMARY, "%s cannot be read", counted(len(failed), "image"))
    return stacked, failed


def _warn_of_repeats(images: LabelledImages, found: Fingerprints, run: Path) -> None:
    """Warn of images that occur twice, or in the training set of the model, where its run is."""
    count = counted(len(found), "image")
    trained = read_fingerprints(run / FINGERPRINTS)
    known = sum(fingerprint in trained for fingerprint in found.values())
    if known:
        log.warning(
            "%d of %s are in the training set of the model, by their pixels\n"
            "the accuracy is higher than on new images; evaluate images that were held out",
            known, count,
        )  # fmt: skip
    classes: dict[bytes, set[int]] = {}
    for path, target in zip(images.paths, images.targets, strict=True):
        if path in found:
            classes.setdefault(found[path], set()).add(target)
    if again := len(found) - len(classes):
        hint = ", some in another class" if any(len(c) > 1 for c in classes.values()) else ""
        log.warning("%d of %s repeat others, by their pixels%s", again, count, hint)
