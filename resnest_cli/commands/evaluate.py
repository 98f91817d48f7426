"""`resnest evaluate`: how good a network is on labelled pictures."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from resnest_cli import charts, folders
from resnest_cli.bundled import DEMO
from resnest_cli.commands import options
from resnest_cli.decoding import MAX_PIXELS
from resnest_cli.engines.base import MANY
from resnest_cli.errors import DatasetError, ImageError, OutputError, UsageError
from resnest_cli.files import is_graph, writable_folder
from resnest_cli.terminal import (
    SUMMARY,
    DownloadBar,
    picture_bar,
    set_verbosity,
    stderr_is_terminal,
)
from resnest_cli.writers import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from resnest_cli.classifier import Classifier
    from resnest_cli.evaluation.report import Evaluation
    from resnest_cli.folders import LabelledPictures

log = logging.getLogger(__name__)

_FEW = 100  # pictures


def evaluate(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A folder of class folders, named for the classes, their WordNet ids or indices; "
            "or, with --labels-file, of pictures.",
            show_default=False,
        ),
    ],
    labels_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="List of truths for a folder of pictures: name, class in each line, such as "
            "ImageNet's LOC_val_solution.csv or a val.txt.",
        ),
    ] = None,
    model: options.Model = None,
    weights: options.Weights = None,
    labels: options.LabelsFile = None,
    preprocess: options.Preprocess = "default",
    crop: options.Crop = None,
    resize: options.Resize = None,
    no_exif: options.NoExifForPublished = False,
    max_pixels: options.MaxPixels = MAX_PIXELS,
    skip_unknown: Annotated[
        bool, typer.Option("--skip-unknown", help="Leave out classes that the network lacks.")
    ] = False,
    bins: Annotated[
        int, typer.Option(metavar="N", min=2, max=1000, help="Bins of the calibration error.")
    ] = 15,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Fit a temperature on these pictures, and write a checkpoint (.safetensors) with "
            "the calibrated probabilities.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder for metrics.json, per_class.csv, confusion.csv and .png, reliability.png, "
            "mistakes.csv and .jpg, predictions.csv.",
        ),
    ] = None,
    mistakes: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=400, help="Pictures on the sheet of mistakes."),
    ] = 36,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an evaluation in --output.")
    ] = False,
    fmt: Annotated[
        Literal["table", "json"], typer.Option("--format", "-f", help="Of standard output.")
    ] = "table",
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    precision: options.Precision = "fp32",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Measure a network on labelled pictures.

    Top-1 and top-5 with 95 % intervals, precision, recall and F1 of each class, the confusion
    matrix and the calibration error. For a published variant on ImageNet it says whether the
    published top-1 was reproduced.

    Examples:

      resnest evaluate photos/ --weights best.safetensors

      resnest evaluate photos/ --weights best.safetensors -o report/

      resnest evaluate ILSVRC2012_val/ --labels-file LOC_val_solution.csv --model resnest101

      resnest evaluate photos/ --weights best.safetensors --calibrate calibrated.safetensors
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    charts.require_extra("sklearn", *(["matplotlib"] if output else []))
    if output and not labels_file:
        folders.check_apart(output, [data])
    _check_targets(output, calibrate, weights, overwrite=overwrite)
    pictures = (
        folders.read_truths(labels_file, data) if labels_file else folders.read_class_folders(data)
    )
    name = options.chosen_model(model, weights)
    show = stderr_is_terminal() and not quiet
    with DownloadBar(name or "resnest50") as bar:
        from resnest_cli import matching
        from resnest_cli.classifier import Classifier

        classifier = Classifier(
            name,
            weights=weights,
            labels=labels,
            preprocess=preprocess,
            crop=crop,
            resize=resize,
            # published figures are for pictures as they are stored
            exif=not no_exif and (weights is not None or name == DEMO),
            max_pixels=max_pixels,
            device=device,
            engine=engine,
            precision=precision,
            batch_size=batch_size,
            workers=workers,
            offline=offline,
            many=len(pictures) >= MANY,
            on_progress=bar if show else None,
        )
    pictures, truths = matching.targets(pictures, classifier.labels, skip_unknown=skip_unknown)
    evaluation = _evaluate(classifier, pictures, truths, bins, calibrate, show=show)
    if output:
        evaluation.write(output, mistakes=mistakes, decoding=classifier.decoding)
    if fmt == "json":
        typer.echo(json.dumps(evaluation.as_json(), indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join((*evaluation.summary(), "", evaluation.network)))
    if evaluation.failed:
        count = len(evaluation.failed)
        log.log(SUMMARY, "%d picture%s could not be read", count, "" if count == 1 else "s")
    return 3 if evaluation.failed else 0


def _evaluate(
    classifier: Classifier,
    pictures: LabelledPictures,
    truths: NDArray[np.int64],
    bins: int,
    calibrate: Path | None,
    *,
    show: bool,
) -> Evaluation:
    import numpy as np

    from resnest_cli.evaluation.metrics import measure
    from resnest_cli.evaluation.report import Evaluation, compare_with_published
    from resnest_cli.labels import imagenet1k

    rows: list[NDArray[np.float32]] = []
    read: list[int] = []
    failed: list[tuple[str, str]] = []
    bar = picture_bar(lambda: len(pictures), 0) if show else nullcontext(lambda: None)
    with bar as advance:
        for index, (source, logits) in enumerate(classifier.logits(pictures.paths)):
            if isinstance(logits, ImageError):
                failed.append((source.name, str(logits)))
                log.warning("'%s': %s", printable(source.name), logits)
            else:
                rows.append(logits)
                read.append(index)
            advance()
    if not rows:
        raise DatasetError(f"none of the {len(pictures):,} pictures can be read")
    answers, truths = np.stack(rows), truths[read]
    if not np.isfinite(answers).all():
        raise DatasetError("the network's answers are not all numbers; its weights are no good")
    metrics = measure(answers, truths, bins=bins)
    return Evaluation(
        network=classifier.describe()
        + ("" if classifier.decoding.exif else " · pictures as stored, whatever their EXIF says"),
        labels=classifier.labels,
        paths=[pictures.paths[i] for i in read],
        logits=answers,
        truths=truths,
        metrics=metrics,
        failed=failed,
        agreement=compare_with_published(
            classifier.card.name,
            classifier.preprocessing,
            metrics,
            labelled_as_imagenet=classifier.labels == imagenet1k(),
        ),
        temperature=_calibrate(classifier, answers, truths, bins, calibrate),
    )


def _calibrate(
    classifier: Classifier,
    logits: NDArray[np.float32],
    truths: NDArray[np.int64],
    bins: int,
    path: Path | None,
) -> dict[str, float] | None:
    """Write the calibrated checkpoint; what calibration changed on these very pictures."""
    if path is None:
        return None
    from resnest_cli.evaluation.metrics import fit_temperature, measure
    from resnest_cli.model.load import write_calibrated

    temperature = fit_temperature(logits, truths)
    card = replace(
        classifier.card, labels=classifier.labels, preprocessing=classifier.preprocessing
    )
    write_calibrated(classifier.engine.weights, card, path, temperature)
    if len(truths) < _FEW or not 0.02 < temperature < 50:
        log.warning("a temperature fitted to so few pictures, or so few mistakes, says little")
    before, after = (measure(x, truths, bins=bins) for x in (logits, logits / temperature))
    log.log(SUMMARY, "'%s' written, with a temperature of %.4f", path, temperature)
    return {
        "temperature": temperature,
        "loss_before": before.loss,
        "loss_after": after.loss,
        "error_before": before.calibration.expected_error,
        "error_after": after.calibration.expected_error,
    }


def _check_targets(
    output: Path | None, calibrate: Path | None, weights: Path | None, *, overwrite: bool
) -> None:
    """Raise `ResNeStError`, before the work, where its results could not be written."""
    if output is not None:
        if output.exists() and not output.is_dir():
            raise OutputError(f"'{output}' is a file; --output needs a folder")
        if (output / "metrics.json").exists() and not overwrite:
            raise OutputError(f"'{output}' holds an evaluation; --overwrite replaces it")
        writable_folder(output)
    if calibrate is not None:
        if weights and is_graph(weights):
            raise UsageError(
                f"'{weights}' is a graph, whose answers are fixed; --calibrate takes the "
                "checkpoint that it was exported from"
            )
        if calibrate.suffix != ".safetensors":
            raise UsageError("--calibrate writes a .safetensors file")
        if not calibrate.parent.is_dir():
            raise OutputError(f"there is no folder '{calibrate.parent}'")
        if calibrate.exists() and not overwrite:
            raise OutputError(f"'{calibrate}' exists; --overwrite replaces it")
        writable_folder(calibrate.parent)
