"""The Python API: a network, its preprocessing and its labels as one callable."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnest_cli import settings
from resnest_cli.catalog.labels import numbered, read_labels
from resnest_cli.catalog.weights import is_graph, resolve
from resnest_cli.engines.api import FEATURES, LOGITS, Accept, Engine, ModelSpec, RuntimeOptions
from resnest_cli.engines.select import open_engine, resolve_engine
from resnest_cli.errors import ImageError, UsageError, check_number
from resnest_cli.hardware import processors
from resnest_cli.imaging.decode_options import DEFAULT, MAX_PIXELS, DecodeOptions
from resnest_cli.imaging.preprocessing import HUB_CROP, check_sizes
from resnest_cli.inference.batcher import Batcher
from resnest_cli.inputs.ahead import FetchAhead
from resnest_cli.inputs.source import Source, as_source, as_sources
from resnest_cli.progress import SILENT, Progress
from resnest_cli.results import Prediction, Result
from resnest_cli.text import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resnest_cli.catalog.config import ModelConfig
    from resnest_cli.inputs.source import ImageLike

    Pending = tuple[Source, Future[Future[list[NDArray[np.float32]]]]]

_MOST_WORKERS = 16  # decoding threads by default


class Classifier:
    """Classifies images with a ResNeSt.

    What is not described here is a field of `ModelSpec` (which network), `RuntimeOptions` (on what
    it runs) or `DecodeOptions` (how images are read).

    Args:
        top_k: predictions per image, 1 to the number of classes; default: 5, or all if fewer.
        threshold: minimum probability of a prediction, 0 to 1; an image may have none left.
        engine: `auto`, `torch` or `openvino`; another `Engine` may be handed in, and then runs.
        offline: never touch the network, neither for weights nor for images.
        progress: receives a download's progress.

    Raises:
        UsageError: an argument is out of its range.
        CheckpointError: the weights are missing, damaged or of another network.
        LabelsError: the labels are unreadable or of the wrong number.
        EngineError: the device or the engine is not available here.
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
        stretch: bool = False,
        device: str = "auto",
        engine: str | Engine = "auto",
        precision: str = "fp32",
        torch_compile: bool = False,
        batch_size: int | None = None,
        workers: int | None = None,
        offline: bool = False,
        allow_private: bool = False,
        progress: Progress = SILENT,
    ) -> None:
        offline = offline or settings.offline()
        spec = ModelSpec(
            model, _path(weights), _path(labels), preprocess, crop, resize, offline=offline
        )
        name = engine if isinstance(engine, str) else "auto"
        runtime = RuntimeOptions(device, name, precision, torch_compile, batch_size, workers)
        decode = DecodeOptions(
            exif, background, max_pixels, fast_jpeg,
            stretch=stretch, allow_private=allow_private, offline=offline,
        )  # fmt: skip
        given = None if isinstance(engine, str) else engine
        self._set_up(spec, runtime, decode, top_k, threshold, progress, given)

    @classmethod
    def from_specs(
        cls,
        spec: ModelSpec,
        runtime: RuntimeOptions | None = None,
        decode: DecodeOptions = DEFAULT,
        *,
        top_k: int | None = None,
        threshold: float = 0.0,
        progress: Progress = SILENT,
    ) -> Classifier:
        """A classifier of picklable specs."""
        made = cls.__new__(cls)
        made._set_up(spec, runtime or RuntimeOptions(), decode, top_k, threshold, progress)
        return made

    def _set_up(
        self,
        spec: ModelSpec,
        runtime: RuntimeOptions,
        decode: DecodeOptions,
        top_k: int | None,
        threshold: float,
        progress: Progress,
        engine: Engine | None = None,
    ) -> None:
        self._made_of = spec, runtime, decode, top_k, threshold, engine
        check_number("threshold", threshold, 0, 1, whole=False)
        if top_k is not None:
            check_number("top_k", top_k, 1)
        check_sizes(spec.crop, spec.resize)
        labels = read_labels(spec.labels) if spec.labels is not None else None

        def accept(config: ModelConfig) -> None:
            classes = config.num_classes
            if labels:
                labels.check(classes, f"'{spec.labels}'")
            if top_k is not None and top_k > classes:
                raise UsageError(
                    f"`top_k` must be 1 to {classes:,} for this network, not {top_k:,}"
                )

        self.engine = engine or _opened(spec, runtime, progress, accept)
        accept(self.engine.config)
        self.config = self.engine.config
        view = self.config.preprocessing.named(spec.preprocess)
        self.preprocessing = view.sized(spec.crop, spec.resize)
        classes = self.config.num_classes
        self.labels = labels or self.config.labels or numbered(classes)
        self.top_k = top_k or min(5, classes)
        self.threshold = threshold
        draft_size = self.preprocessing.resize if decode.fast_jpeg else None
        self.decode = replace(decode, draft_size=draft_size)
        self.batch_size = runtime.batch_size or self.engine.batch_size
        self.workers = runtime.workers or min(processors(), _MOST_WORKERS)

    def __reduce__(self) -> tuple[Callable[..., Classifier], tuple[object, ...]]:
        """Pickle the specs: the network is loaded again where the classifier is unpickled."""
        *specs, top_k, threshold, engine = self._made_of
        if engine is not None:
            raise UsageError(
                "a classifier with an engine of its own cannot be pickled\n"
                "make it in the process that uses it"
            )
        return partial(Classifier.from_specs, top_k=top_k, threshold=threshold), tuple(specs)

    def __call__(self, image: ImageLike | Source) -> Result:
        """The result of one image.

        It may be a path, a URL, bytes, a file object in binary mode, which is read from its
        present position on, a PIL image, or a uint8 array (height, width, 3) or (height, width).

        It is computed alone: with engine torch its probabilities may differ from those of `stream`
        by up to 1e-6.

        Raises:
            ImageError: the image cannot be read.
            TypeError: it is nothing of the sort.
        """
        source = as_source(image)
        (logits,) = self.engine.run(np.stack([self.load(source)]), (LOGITS,))
        return self.result(source, logits[0])

    def stream(self, images: Iterable[ImageLike | Source]) -> Iterator[Result]:
        """Results of any number of images, lazily and in order; a failure is a result too.

        Incomplete batches are padded, so that an image has the same result, to the bit, whichever
        others there are.

        Raises:
            TypeError: `images` is one image, not several.
        """
        return (self.result(source, logits) for source, logits in self.logits(images))

    def logits(
        self, images: Iterable[ImageLike | Source]
    ) -> Iterator[tuple[Source, NDArray[np.float32] | ImageError]]:
        """As `stream`, but each image's logits (classes) as they come from the network."""
        return (
            (source, outputs if isinstance(outputs, ImageError) else outputs[0])
            for source, outputs in self.outputs(images, (LOGITS,))
        )

    def features(
        self, images: Iterable[ImageLike | Source]
    ) -> Iterator[tuple[Source, NDArray[np.float32] | ImageError]]:
        """As `stream`, but each image's features (channels): the pooled input of the last layer."""
        for source, outputs in self.outputs(images, (FEATURES,)):
            if isinstance(outputs, ImageError):
                yield source, outputs
            elif np.isfinite(outputs[0]).all():
                yield source, outputs[0]
            else:
                yield source, ImageError("the network's output is not a number")

    def outputs(
        self, images: Iterable[ImageLike | Source], names: tuple[str, ...]
    ) -> Iterator[tuple[Source, list[NDArray[np.float32]] | ImageError]]:
        """As `stream`, but some of the engine's outputs for each image, see `engines.api.OUTPUTS`.

        Images are decoded ahead of the one that is asked for by a few batches, and no more.
        """
        return self._outputs(as_sources(images), names)

    def _outputs(
        self, sources: Iterator[Source], names: tuple[str, ...]
    ) -> Iterator[tuple[Source, list[NDArray[np.float32]] | ImageError]]:
        batcher = Batcher(self.engine, self.batch_size, outputs=names)
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        fetch = FetchAhead()
        ahead = self.batch_size * (self.engine.max_in_flight + 1) + self.workers
        pending: deque[Pending] = deque()
        try:
            while True:
                batcher.check_process()
                for source in islice(sources, ahead - len(pending)):
                    begun = source if self.decode.offline else fetch.begin(source)
                    load = pool.submit(lambda s: batcher.submit(self.load(s)), begun)
                    pending.append((source, load))
                if not pending:
                    return
                source, loaded = pending.popleft()
                yield source, _outcome(loaded, pending, batcher)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            fetch.close()
            batcher.close()

    def describe(self) -> str:
        """One line: model, preprocessing, engine, device and precision."""
        e = self.engine
        parts = (self.config.name, self.preprocessing.describe(), e.name, e.device, e.precision)
        return printable(" · ".join(parts))

    def load(self, source: Source) -> NDArray[np.uint8]:
        """An image as the network's input, (crop, crop, 3); `ImageError` if it cannot be read."""
        from resnest_cli.imaging.decode import image_errors

        with image_errors():
            return self.preprocessing.pixels(source.load(self.decode))

    def result(
        self,
        source: Source,
        logits: NDArray[np.float32] | ImageError,
        top_k: int | None = None,
        threshold: float | None = None,
    ) -> Result:
        """The result of an image's logits (classes); `top_k` and `threshold` for this one alone."""
        top_k, least = top_k or self.top_k, self.threshold if threshold is None else threshold
        if isinstance(logits, ImageError):
            return Result(source.name, error=str(logits), may_pass=logits.may_pass)
        if not np.isfinite(logits).all():
            return Result(source.name, error="the network's output is not a number")
        p, names, wnids = softmax(logits), self.labels.names, self.labels.wnids
        order = np.argsort(-p, kind="stable")[:top_k]
        predictions = tuple(  # with the shortest decimals that are these float32
            Prediction(rank, int(i), wnids[i] if wnids else None, names[i], float(str(p[i])))
            for rank, i in enumerate(order, 1)
            if p[i] >= least
        )
        return Result(source.name, predictions)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities over the last axis, summed in float64 and rounded to float32."""
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    probabilities: NDArray[np.float32] = (powers / powers.sum(-1, keepdims=True)).astype(np.float32)
    return probabilities


def _opened(spec: ModelSpec, runtime: RuntimeOptions, progress: Progress, accept: Accept) -> Engine:
    """The engine that runs a model; what cannot be is refused before anything is downloaded."""
    file = spec.weights or Path(spec.model or "")
    resolve_engine(runtime, graph=is_graph(file))
    weights = resolve(spec.model, spec.weights, offline=spec.offline, on_bytes=progress.download)
    crop = spec.crop or (HUB_CROP if spec.preprocess == "hub" else None)
    return open_engine(weights, runtime, crop=crop, accept=accept)


def _path(given: str | os.PathLike[str] | None) -> Path | None:
    return Path(given) if given is not None else None


def _outcome(
    loaded: Future[Future[list[NDArray[np.float32]]]], pending: Iterable[Pending], batcher: Batcher
) -> list[NDArray[np.float32]] | ImageError:
    """An image's outputs, or why there are none.

    Its batch may be incomplete, with no further image to come before this one is taken: then it is
    computed although it is incomplete.
    """
    try:
        outputs = loaded.result()
    except ImageError as error:
        return error
    for _, other in pending:
        if outputs.done():
            break
        either: tuple[Future[Any], ...] = (outputs, other)
        wait(either, return_when=FIRST_COMPLETED)
    if not outputs.done():
        batcher.flush()
    return outputs.result()
