"""The Python API: a network, its preprocessing and its labels as one callable."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from threading import Semaphore, Thread
from typing import TYPE_CHECKING

import numpy as np

from resnest_cli import cache
from resnest_cli.batch import Prepared, batches, in_background
from resnest_cli.decoding import MAX_PIXELS, Decoding
from resnest_cli.engines.base import EngineOptions, chosen_engine, open_engine
from resnest_cli.errors import ImageError, ResNeStError, UsageError
from resnest_cli.files import writable_folder
from resnest_cli.labels import numbered, read_labels
from resnest_cli.preprocess import HUB_CROP, check_sizes
from resnest_cli.processors import processors
from resnest_cli.results import Prediction, Result
from resnest_cli.sources import Source, as_source, is_url
from resnest_cli.writers import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resnest_cli.fetch import Progress
    from resnest_cli.sources import ImageLike

log = logging.getLogger(__name__)

MAX_BATCH_SIZE = 4096
MAX_WORKERS = 256


class Classifier:
    """Names pictures with a ResNeSt.

    Args:
        model: a variant's name or timm alias; default: what `weights` says it is, else resnest50,
            which is downloaded once.
        weights: a local checkpoint instead of the published one.
        labels: a file of class names, one a line; default: the checkpoint's, else ImageNet-1k's.
        preprocess: `default`, `hub`, `paper` or `squash`.
        crop: pixels that the network sees, each way, 32 to 2048; default: as `preprocess` says.
        resize: pixels of the short side that they are cut out of; default: in the same ratio.
        top_k: predictions per picture, 1 to the number of classes; default: 5, or all where
            there are fewer.
        threshold: predictions of less probability are dropped, 0 to 1.
        exif: turn pictures the way up that their EXIF orientation says.
        background: RGB, 0 to 255, painted where pictures are transparent; default: transparency
            is dropped and the colours below it show, as in the reference implementations.
        max_pixels: pictures of more are not decoded: a pixel takes some ten bytes of memory
            meanwhile, and thirty where colours have 16 bits.
        fast_jpeg: decode large JPEGs at a half, a quarter or an eighth of their size, where that is
            still twice what the network's resize wants: quicker, with answers a little different.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, several as `cuda:0,1`, or `mps`.
        engine: `auto`, `torch`, `openvino` or `ncnn`; auto is openvino on a CPU where it is
            installed.
        precision: `fp32`, `bf16` or `fp16`.
        compiled: by `torch.compile`, for long runs: the first batch takes a minute or so.
        batch_size: pictures per step of `stream`, 1 to 4096; default: what suits the device.
        workers: decoding threads of `stream`, 1 to 256; default: one a processor, at most 16.
        offline: never touch the network, neither for weights nor for pictures.
        allow_private: read pictures at URLs on this machine and on private networks, too.
        answer_first: with engine `auto`, take what is ready at once rather than wait while the
            network is compiled for the processor, which a first use does; `compile` does it later.
        many: with engine `auto`, take ncnn in fp32 on an AMD CPU where it is installed: it starts
            later than openvino, which some hundred pictures make up for.
        on_progress: called with a download's bytes so far, and in all where that is known.

    Raises:
        UsageError: an argument is out of its range.
        CheckpointError: the weights are missing, damaged or of another network.
        LabelsError: the labels are unreadable or of the wrong number.
        EngineError: the device or the engine is not to be had here.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        weights: str | os.PathLike[str] | None = None,
        labels: str | os.PathLike[str] | None = None,
        preprocess: str = "default",
        crop: int | None = None,
        resize: int | None = None,
        top_k: int | None = None,
        threshold: float = 0.0,
        exif: bool = True,
        background: tuple[int, int, int] | None = None,
        max_pixels: int = MAX_PIXELS,
        fast_jpeg: bool = False,
        device: str = "auto",
        engine: str = "auto",
        precision: str = "fp32",
        compiled: bool = False,
        batch_size: int | None = None,
        workers: int | None = None,
        offline: bool = False,
        allow_private: bool = False,
        answer_first: bool = False,
        many: bool = False,
        on_progress: Progress | None = None,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise UsageError(f"a threshold is 0 to 1, not {threshold}")
        if any(n is not None and n < 1 for n in (top_k, batch_size, workers)):
            raise UsageError("top-k, batch size and workers are 1 or more")
        if (batch_size or 1) > MAX_BATCH_SIZE or (workers or 1) > MAX_WORKERS:
            raise UsageError(f"at most {MAX_BATCH_SIZE} a batch and {MAX_WORKERS} workers")
        check_sizes(crop, resize)
        given = read_labels(Path(labels)) if labels is not None else None
        path = Path(weights) if weights is not None else None
        self._options = EngineOptions(
            model, path, engine, device, precision, offline, compiled,
            crop=crop or (HUB_CROP if preprocess == "hub" else None),
            answer_first=answer_first, many=many,
        )  # fmt: skip
        self.engine = open_engine(self._options, on_progress)
        self.card = self.engine.card
        self.preprocessing = self.card.preprocessing.named(preprocess).sized(crop, resize)
        self._free = Semaphore(self.engine.at_once)  # several streams may be under way
        classes = self.card.num_classes
        self.top_k = min(5, classes) if top_k is None else top_k
        if self.top_k > classes:
            raise UsageError(f"top-k is 1 to {classes:,} for this network, not {self.top_k:,}")
        if given:
            given.check(classes, f"'{labels}'")
        self.labels = given or self.card.labels or numbered(classes)
        self.decoding = Decoding(
            exif,
            background,
            max_pixels,
            self.preprocessing.resize if fast_jpeg else None,
            allow_private,
        )
        from resnest_cli.images import allow_pixels  # here, while the network is being loaded

        allow_pixels(max_pixels)
        self.threshold = threshold
        self.offline = offline or cache.offline()
        self.batch_size = batch_size or self.engine.batch_size
        self.workers = workers or min(processors(), 16)

    def __call__(self, image: ImageLike) -> Result:
        """The result of one picture: a path, URL, bytes, PIL image or HxWx3 uint8 array.

        Raises:
            ImageError: the picture cannot be read.
        """
        source = as_source(image)
        pixels = self._prepare(source)
        return self._result(source, self._run([pixels], 1)[0])

    def stream(
        self, images: Iterable[ImageLike | Source], *, continued: bool = False
    ) -> Iterator[Result]:
        """Results of any number of pictures, lazily and in order; a failure is a result too.

        Engines round differently for batches of different sizes, so an incomplete batch is filled
        up: a picture has the same answer, to the bit, wherever among others it stands. With a batch
        size of 1 each is run alone; else only a picture that is the stream's one and only, unless
        the stream is `continued` from an earlier one.
        """
        for source, logits in self.logits(images, continued=continued):
            if isinstance(logits, ImageError):
                yield Result(source.name, error=str(logits))
            else:
                yield self._result(source, logits)

    def logits(
        self, images: Iterable[ImageLike | Source], *, continued: bool = False
    ) -> Iterator[tuple[Source, NDArray[np.float32] | ImageError]]:
        """As `stream`, but each picture's logits (classes) as they come from the network."""
        for batch, rows in in_background(self._batches(map(as_source, images), continued)):
            found = iter(rows.result())
            for source, pixels in batch:
                yield source, pixels if isinstance(pixels, ImageError) else next(found)

    def _batches(
        self, sources: Iterable[Source], continued: bool
    ) -> Iterator[tuple[list[Prepared], Future[NDArray[np.float32]]]]:
        """Batches, each with the logits to come of the pictures in it that could be read."""
        for number, batch in enumerate(
            batches(sources, self._prepare, batch_size=self.batch_size, workers=self.workers)
        ):
            alone = number == 0 and len(batch) == 1 and not continued
            fill = 1 if alone or self.batch_size == 1 else self.engine.fill or self.batch_size
            good = [pixels for _, pixels in batch if not isinstance(pixels, ImageError)]
            yield batch, self._begin(good, fill)

    def compile(self) -> None:
        """Compile the network for the next use, where that was put off for an answer first.

        What stands in the way is no fault of the answer's: it is told, and nothing is raised.
        """
        options = replace(self._options, answer_first=False)
        if self.engine.name != "torch" or chosen_engine(options) != "openvino":
            return
        try:
            writable_folder(cache.compiled_folder())
        except ResNeStError as error:  # it would be compiled for nothing, each time anew
            log.info("%s", error)
            return
        try:
            open_engine(options)
        except ResNeStError as error:
            log.warning("the network is not compiled for the next time: %s", error)

    def describe(self) -> str:
        """One line: model, preprocessing, engine, device and precision."""
        e = self.engine
        parts = (self.card.name, self.preprocessing.describe(), e.name, e.device, e.precision)
        return printable(" · ".join(parts))

    def _begin(
        self, pixels: list[NDArray[np.uint8]], batch_size: int
    ) -> Future[NDArray[np.float32]]:
        """As `_run`, in a thread of its own: no processor waits for the last of a batch."""
        logits: Future[NDArray[np.float32]] = Future()

        def run() -> None:
            try:
                logits.set_result(self._run(pixels, batch_size))
            except BaseException as error:  # it is raised where it is waited for
                logits.set_exception(error)

        Thread(target=run, name="batch", daemon=True).start()
        return logits

    def _run(self, pixels: list[NDArray[np.uint8]], batch_size: int) -> NDArray[np.float32]:
        """Logits (N, classes) of N pictures, run as a batch of at least `batch_size`."""
        if not pixels:
            return np.empty((0, self.card.num_classes), np.float32)
        filled = np.stack(pixels + pixels[-1:] * (batch_size - len(pixels)))
        with self._free:
            return self.engine.run(filled)[: len(pixels)]

    def _prepare(self, source: Source) -> NDArray[np.uint8]:
        from resnest_cli.images import image_errors

        if self.offline and isinstance(source.content, str) and is_url(source.content):
            raise ImageError("the network is off (--offline or $RESNEST_OFFLINE)")
        with image_errors():
            return self.preprocessing.pixels(source.load(self.decoding))

    def _result(self, source: Source, logits: NDArray[np.float32]) -> Result:
        if not np.isfinite(logits).all():
            return Result(source.name, error="the network's answer is not a number")
        probabilities = softmax(logits)
        order = np.argsort(-probabilities, kind="stable")[: self.top_k]
        predictions = tuple(
            self._prediction(rank, int(index), probabilities[index])
            for rank, index in enumerate(order, 1)
            if probabilities[index] >= self.threshold
        )
        return Result(source.name, predictions)

    def _prediction(self, rank: int, index: int, probability: np.float32) -> Prediction:
        wnids = self.labels.wnids
        return Prediction(
            rank=rank,
            index=index,
            wnid=wnids[index] if wnids else None,
            label=self.labels.names[index],
            probability=float(str(probability)),  # the shortest decimal that is this float32
        )


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities over the last axis, summed in float64 and rounded to float32."""
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    probabilities: NDArray[np.float32] = (powers / powers.sum(-1, keepdims=True)).astype(np.float32)
    return probabilities
