"""An explanation job: any inputs to maps, drawings and rows, resumable after a kill."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from resnest_cli.catalog.weights import is_graph
from resnest_cli.engines.api import LOGITS, MAPS, ModelSpec, RuntimeOptions
from resnest_cli.errors import EngineError, ImageError, OutputError, UsageError, check_number
from resnest_cli.explain.check import check
from resnest_cli.explain.draw import Box, drawn, reduced, with_legend
from resnest_cli.explain.maps import Explained, LastLayer, explain_class, find_class
from resnest_cli.files import atomic_write, writable_folder
from resnest_cli.imaging.decode import image_errors
from resnest_cli.imaging.decode_options import DEFAULT, DecodeOptions
from resnest_cli.inference.classifier import Classifier, softmax
from resnest_cli.inference.job import PredictionSummary, run_info, write_rows
from resnest_cli.inputs.discover import Inputs
from resnest_cli.inputs.source import Source
from resnest_cli.inputs.walk import LeftOut
from resnest_cli.outputs.schema import PathSchema, Record
from resnest_cli.outputs.sink import FileOutput, check_target
from resnest_cli.progress import SILENT, Progress

if TYPE_CHECKING:
    from resnest_cli.explain.inside import Inside

ROWS, MAPS_FOLDER = "explain.jsonl", "maps"
_FOR_SCALE = 16  # images whose maps decide the colour scale


@dataclass(frozen=True)
class Viewed(Source):
    """A source that notes what its image was like when it was read."""

    note: Callable[[Viewed, Image.Image], None] | None = field(default=None, compare=False)
    notes: dict[str, Any] = field(default_factory=dict, compare=False)

    def load(self, options: DecodeOptions) -> Image.Image:
        """The image in mode RGB."""
        image = super().load(options)
        if self.note:
            self.note(self, image)
        return image


@dataclass(frozen=True)
class ExplainJob:
    """Inputs, a model, classes and a folder: all that decides a run."""

    inputs: Inputs
    output: Path  # a folder, which is made
    classes: tuple[str, ...] = ()  # names, WordNet ids or numbers; none: the most probable class
    why_not: str | None = None  # a class against which the others are explained
    model: ModelSpec = field(default_factory=ModelSpec)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    decode: DecodeOptions = DEFAULT
    images: bool = True  # draw each map on its image
    check: bool = False  # hide what a map marks, and as much at random
    detail: bool = False  # finer maps, by gradients
    attention: bool = False  # the split attention of each block, and its effect
    scale: float | None = None  # logits, of the strongest colour; None: by the first images
    resume: bool = False  # keep the rows of an interrupted run, and do the others
    overwrite: bool = False  # replace the rows and maps of an earlier run

    def run(self, progress: Progress = SILENT) -> PredictionSummary:
        """Explain every input that has no row yet.

        Raises:
            UsageError: options exclude each other, or a class is unknown.
            OutputError: the folder cannot be written or resumed.
            ResNeStError: there is nothing to explain, or the network cannot be loaded.
        """
        self._check()
        left_out = LeftOut()
        found = self.inputs.sources(left_out)
        sources: Iterator[Source] = filter(self._is_input, found)
        runtime = replace(self.runtime, hint="throughput")
        if self.looks_inside:
            runtime = replace(runtime, engine="torch")
        classifier = Classifier.from_specs(self.model, runtime, self.decode, progress=progress)
        run = _Run(self, classifier)
        writable_folder(self.output / MAPS_FOLDER)
        info = run_info(classifier)
        asked = {
            "classes": [*self.classes], "why_not": self.why_not, "check": self.check,
            "images": self.images, "scale": self.scale, "detail": self.detail,
            "attention": self.attention,
        }  # fmt: skip
        info = replace(info, settings={**info.settings, **asked})
        path = self.output / ROWS
        file: FileOutput[Record] = FileOutput(
            path, fmt="jsonl", schema=PathSchema(), info=info, resume=self.resume
        )
        with closing(file) as rows:
            scale = _earlier_scale(path, rows.finished)

            def make(left: Iterator[Source]) -> Iterator[tuple[Record, bool]]:
                made = run.rows(left, rows.finished, scale)
                return ((row, row["error"] is not None) for row in made)

            summary = write_rows(rows, make, sources, progress, "explaining")
            return replace(summary, left_out=left_out)

    @property
    def looks_inside(self) -> bool:
        """Whether it takes more of the network than an engine gives."""
        return self.detail or self.attention

    def _check(self) -> None:
        if self.looks_inside and self.runtime.engine not in ("auto", "torch"):
            option = "detail" if self.detail else "attention"
            raise UsageError(f"`{option}` needs `engine=torch`, not {self.runtime.engine}")
        if self.resume and self.overwrite:
            raise UsageError("`resume` and `overwrite` cannot be used together")
        if self.scale is not None:
            check_number("scale", self.scale, 1e-6, 1e6, whole=False)
        if self.decode.fast_jpeg:
            raise UsageError("`fast_jpeg` cannot be used: maps are drawn on whole images")
        if is_graph(self.model.weights or Path(self.model.model or "")):
            raise EngineError(
                "an exported graph gives no maps: use the checkpoint that it was exported from"
            )
        if self.output.exists() and not self.output.is_dir():
            raise OutputError(f"'{self.output}' is not a folder\nchoose another `output`")
        maps = self.output / MAPS_FOLDER
        new = not (self.resume or self.overwrite)
        if new and maps.is_dir() and any(maps.iterdir()) and not (self.output / ROWS).exists():
            raise OutputError(f"'{maps}' holds files already\nchoose another `output`")
        if self.output.is_dir():
            path = self.output / ROWS
            check_target(path, fmt="jsonl", resume=self.resume, overwrite=self.overwrite)

    def _is_input(self, source: Source) -> bool:
        """Whether a source is not one of this job's own drawings, in a folder that is walked."""
        folder = source.file.parent if source.file else None
        found = (
            folder is not None
            and folder.name == MAPS_FOLDER
            and folder.resolve() == (self.output / MAPS_FOLDER).resolve()
        )
        return not found or bool(self.inputs.files_from) or source.name in self.inputs.named


class _Run:
    """The rows of one run."""

    def __init__(self, job: ExplainJob, classifier: Classifier) -> None:
        self._job, self._classifier = job, classifier
        labels = classifier.labels
        self._classes = [find_class(labels, name, "class") for name in job.classes]
        self._against = find_class(labels, job.why_not, "why_not") if job.why_not else None
        if self._against in self._classes:
            raise UsageError(f"`class` and `why_not` are both '{labels.names[self._against or 0]}'")
        self._layer = LastLayer.of(classifier.engine.weights, classifier.config.num_classes)
        self._inside: Inside | None = None
        if job.looks_inside:
            from resnest_cli.explain.inside import Inside

            self._inside = Inside(classifier)

    def rows(self, sources: Iterator[Source], first: int, scale: float | None) -> Iterator[Record]:
        """A row for each source; files are written before it. `first` is the first one's number."""
        explained = self._explained(sources)
        scale = self._job.scale or scale
        begin = [] if scale else list(islice(explained, _FOR_SCALE))
        scale = scale or _scale(chain.from_iterable(maps for _, maps, _ in begin))
        for number, (source, maps, given) in enumerate(chain(begin, explained), first):
            if isinstance(given, ImageError):
                yield {"path": source.name, "classes": [], "error": str(given)}
                continue
            try:
                yield self._written(source, number, maps, given, scale)
            except ImageError as error:  # it has gone since
                yield {"path": source.name, "classes": [], "error": str(error)}

    def _explained(
        self, sources: Iterator[Source]
    ) -> Iterator[tuple[Viewed, list[Explained], Any]]:
        """Each source with its maps and its logits, or the error that it came to."""
        viewed = (Viewed(s.name, s.content, s.error, s.empty, self._note) for s in sources)
        for source, given in self._classifier.outputs(viewed, (LOGITS, MAPS)):
            assert isinstance(source, Viewed)
            if isinstance(given, ImageError):
                yield source, [], given
                continue
            logits, maps = given
            if not (np.isfinite(logits).all() and np.isfinite(maps).all()):
                yield source, [], ImageError("the network's output is not a number")
                continue
            best = [int(i) for i in np.argsort(-logits, kind="stable") if i != self._against][:1]
            wanted = self._classes or best
            each = [explain_class(maps, logits, self._layer, i, self._against) for i in wanted]
            if self._inside and self._job.detail:
                details = self._inside.detail(source.notes["pixels"], each)
                each = [replace(e, detail=d) for e, d in zip(each, details, strict=True)]
            yield source, each, logits

    def _written(
        self, source: Viewed, number: int, maps: list[Explained], logits: Any, scale: float
    ) -> Record:
        names, size = self._classifier.labels.names, source.notes["size"]
        box = self._classifier.preprocessing.seen(*size)
        stem = re.sub(r"[^\w.-]", "_", Path(source.name).stem, flags=re.ASCII)[:60]
        name = f"{MAPS_FOLDER}/{number:06}-{stem}"
        against = None if self._against is None else names[self._against]
        probabilities, classes = softmax(logits), []
        views = self._views(source)
        frame = _scaled(box, size, views["image"].size) if self._job.images else box
        shown: Record = {}  # the split attention
        weights: dict[str, Any] = {}
        if self._inside and self._job.attention:
            shown, weights = self._attention(views["pixels"], maps, name)
        _write_maps(self._job.output / f"{name}.npz", maps, names, against, box, size, weights)
        for position, e in enumerate(maps):
            row: Record = {
                "index": e.index, "label": names[e.index], "against": against,
                "probability": float(str(probabilities[e.index])),
                "logit": e.logit, "evidence": e.evidence, "bias": e.bias, "image": None,
            }  # fmt: skip
            if self._job.check:
                row["check"] = check(self._classifier.engine, views["pixels"], e)
            if self._job.images:
                row["image"] = f"{name}.png" if len(maps) == 1 else f"{name}.{position + 1}.png"
                _draw(self._job.output / row["image"], views["image"], e, frame, row, scale)
            classes.append(row)
        return {
            "path": source.name, "classes": classes, "box": [round(x, 2) for x in box],
            "size": [*size], "maps": f"{name}.npz", "scale": scale, **shown, "error": None,
        }  # fmt: skip

    def _attention(
        self, pixels: Any, maps: list[Explained], name: str
    ) -> tuple[Record, dict[str, Any]]:
        """What a row holds of the split attention, and the weights; its chart is written."""
        from resnest_cli.explain.attention_chart import attention_chart

        assert self._inside
        logits, blocks = self._inside.attention(pixels)
        rows: list[dict[str, Any]] = [
            {
                "block": b.block, "weights": [float(w) for w in b.weights.mean(1)],
                "entropy": b.entropy, "effect": [e.of(logits) - e.of(b.neutral) for e in maps],
                "probability": [float(softmax(b.neutral)[e.index]) for e in maps],
            }
            for b in blocks
        ]  # fmt: skip
        image = None
        if self._job.images:
            image = f"{name}.attention.png"
            titles = [self._classifier.labels.names[e.index] for e in maps]
            with atomic_write(self._job.output / image) as beside:
                attention_chart(rows, [b.weights for b in blocks], titles).save(beside, "PNG")
        weights = {f"attention.{b.block}": b.weights for b in blocks}
        return {"attention": rows, "attention_image": image}, weights

    def _note(self, source: Viewed, image: Image.Image) -> None:
        """Note an image's size, what the network sees, and what can't be read again."""
        source.notes["size"] = image.size
        if self._job.check or self._job.looks_inside:
            source.notes["pixels"] = self._classifier.preprocessing.pixels(image)
        if self._job.images and not isinstance(source.content, Path):
            source.notes["image"] = reduced(image)

    def _views(self, source: Viewed) -> dict[str, Any]:
        """What is drawn and hidden."""
        kept = source.notes
        if self._job.images and isinstance(source.content, Path):
            with image_errors():
                image = replace(source, note=None).load(self._classifier.decode)
                if image.size != kept["size"]:
                    raise ImageError("the file changed while it was explained")
                kept["image"] = reduced(image)
        return kept


def _write_maps(
    path: Path, maps: list[Explained], names: tuple[str, ...], against: str | None, box: Box,
    size: tuple[int, int], more: dict[str, Any],
) -> None:  # fmt: skip
    arrays = more | {
        "map": np.stack([e.values for e in maps]),  # (classes, rows, columns)
        "logit": np.array([e.logit for e in maps], np.float32),
        "bias": np.array([e.bias for e in maps], np.float32),
        "class": np.array([names[e.index] for e in maps]),
        "against": np.array(against or ""),
        "box": np.array(box),
        "size": np.array(size),
    }
    if maps[0].detail is not None:
        arrays["detail"] = np.stack([e.shown for e in maps])  # the same, finer
    content = io.BytesIO()
    np.savez(content, **arrays)
    path.write_bytes(content.getvalue())  # its row comes after it: one that is cut has none


def _draw(
    path: Path, image: Image.Image, explained: Explained, box: Box, row: Record, scale: float
) -> None:
    made = drawn(image, explained.shown, box, scale)
    title = row["label"] + (f" and not {row['against']}" if row["against"] else "")
    e = explained
    lines = [f"{title}: {e.logit:+.2f} = evidence {e.evidence:+.2f}, bias {e.bias:+.2f}"]
    if found := row.get("check"):
        verdict = "better than chance" if found["better_than_chance"] else "no better than chance"
        lines.append(
            f"probability {found['probability']:.3f}; marked fifth hidden "
            f"{found['marked_hidden']:.3f}, random {found['random_hidden_mean']:.3f}: {verdict}"
        )
    with atomic_write(path) as beside:
        with_legend(made, lines, scale).save(beside, "PNG", compress_level=1)


def _scaled(box: Box, size: tuple[int, int], other: tuple[int, int]) -> Box:
    """A box in an image of a size, in the same image at another size."""
    x, y = (new / old for new, old in zip(other, size, strict=True))
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def _scale(maps: Iterator[Explained]) -> float:
    """A round number that few values of maps exceed."""
    largest = max((float(np.abs(e.shown).max()) for e in maps), default=1.0)
    return max(float(f"{largest:.1g}"), 1e-6)


def _earlier_scale(path: Path, rows: int) -> float | None:
    """The scale of the rows that a file has already."""
    if not rows:
        return None
    with path.open("rb") as file:
        found = (json.loads(line).get("scale") for line in islice(file, rows))
        return next(filter(None, found), None)
