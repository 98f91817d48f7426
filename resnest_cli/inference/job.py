"""A prediction job: any inputs to rows in any format, resumable after a kill."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from resnest_cli.catalog.weights import is_graph
from resnest_cli.engines.api import ModelSpec, RuntimeOptions
from resnest_cli.engines.select import resolve_engine
from resnest_cli.errors import ImageError, UsageError
from resnest_cli.files import PLAIN, CSVStyle, check_no_input
from resnest_cli.imaging.decode_options import DEFAULT, DecodeOptions
from resnest_cli.imaging.image_formats import is_image_name
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inputs.discover import Inputs, walk_ahead
from resnest_cli.inputs.source import Source
from resnest_cli.inputs.stores import is_store_url, url_of
from resnest_cli.inputs.walk import LeftOut
from resnest_cli.outputs.formats import format_of
from resnest_cli.outputs.run_info import RunInfo
from resnest_cli.outputs.schema import Item
from resnest_cli.outputs.sink import Output, check_target, files_of, open_output, started
from resnest_cli.progress import SILENT, Progress
from resnest_cli.results import Result
from resnest_cli.text import counted

log = logging.getLogger(__name__)

_FROM_TEXT = ("inputs", "output", "model")


@dataclass(frozen=True)
class PredictionSummary:
    """What a job came to."""

    done: int  # rows, those of earlier runs included
    failed: int  # of them, rows that hold an error
    resumed: int  # rows of earlier runs
    seconds: float  # of this run, without loading the network
    left_out: LeftOut = field(default_factory=LeftOut)  # of folders: what is not an image by name
    passing: int = 0  # of the failed rows of partitions, those whose fault may pass

    @property
    def rate(self) -> float:
        """Images a second of this run."""
        return (self.done - self.resumed) / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        """One line for people."""
        now = self.done - self.resumed
        text = f"{counted(now, 'image')} in {self.seconds:.1f} s ({self.rate:.1f}/s)"
        if self.resumed:
            text += f", {self.done:,} with the earlier run's"
        if self.failed:
            text += f"; {self.failed:,} failed: their rows say why"
        if self.passing:
            text += f", and {self.passing:,} of them may succeed at another time"
        if self.left_out:
            text += f"; {self.left_out}"
        return text


@dataclass(frozen=True)
class PredictionJob:
    """Inputs, a model and an output: all that decides a run, and picklable."""

    inputs: Inputs
    output: Path | None = None  # a file; default: standard output
    format: str | None = None  # table, json, jsonl, csv, tsv or parquet; default: by the suffix
    model: ModelSpec = field(default_factory=ModelSpec)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    decode: DecodeOptions = DEFAULT
    top_k: int | None = None  # predictions per image; default: 5, or all if there are fewer classes
    threshold: float = 0.0  # minimum probability of a prediction, 0 to 1
    resume: bool = False  # keep the finished rows of an interrupted run, and do the others
    overwrite: bool = False  # replace an output that exists
    csv: CSVStyle = PLAIN  # how CSV and TSV are written

    def __post_init__(self) -> None:
        """Take texts and paths for inputs, output and model; `UsageError` for other types."""
        for name, wanted in (
            ("inputs", Inputs), ("output", Path), ("model", ModelSpec),
            ("runtime", RuntimeOptions), ("decode", DecodeOptions),
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, str | os.PathLike | list | tuple) and name in _FROM_TEXT:
                value = wanted(value)  # type: ignore[arg-type]
                object.__setattr__(self, name, value)
            if not isinstance(value, wanted) and not (name == "output" and value is None):
                raise UsageError(f"`{name}` must be a {wanted.__name__}, not {value!r}")
        in_stores = [*filter(is_store_url, self.inputs.named), self.output and url_of(self.output)]
        if self.decode.offline and any(in_stores):
            raise UsageError("an object store is named, and the network is off (`offline`)")

    def run(self, progress: Progress = SILENT) -> PredictionSummary:
        """Classify every input that has no row yet.

        Raises:
            UsageError: options exclude each other or are out of range.
            OutputError: the output cannot be written or resumed.
            ResNeStError: there is nothing to classify, or the network cannot be loaded.
        """
        fmt = self._checked_format()
        self._check_resume()
        left_out = LeftOut()
        sources = self._sources(left_out)
        hint = "latency" if self.inputs.is_one_image else "throughput"
        classifier = Classifier.from_specs(
            self.model, replace(self.runtime, hint=hint), self.decode, top_k=self.top_k,
            threshold=self.threshold, progress=progress,
        )  # fmt: skip
        info, foot = run_info(classifier, csv_safe=self.csv.safe), classifier.describe()
        with open_output(
            self.output,
            fmt=fmt,
            top_k=classifier.top_k,
            info=info,
            foot=foot,
            resume=self.resume,
            csv=self.csv,
        ) as rows:

            def make(left: Iterator[Source]) -> Iterator[tuple[Result, bool]]:
                results = self._results(classifier, left)
                return ((result, result.error is not None) for result in results)

            summary = write_rows(rows, make, sources, progress, "classifying")
            return replace(summary, left_out=left_out)

    def _checked_format(self) -> str:
        """The format of the rows, once it is known that the output can take them."""
        fmt = self.format or (format_of(self.output) if self.output else "table")
        if self.resume and self.overwrite:
            raise UsageError("`resume` and `overwrite` cannot be used together")
        if self.output and url_of(self.output):
            raise UsageError("`output` in an object store is a folder: end it with a slash")
        if self.output is None and (self.resume or self.overwrite):
            raise UsageError(f"`{'resume' if self.resume else 'overwrite'}` needs an `output` file")
        if self.csv != PLAIN and fmt not in ("csv", "tsv"):
            option = "csv_bom" if self.csv.bom else "csv_safe"
            raise UsageError(f"`{option}` is for the formats csv and tsv, not {fmt}")
        check_target(self.output, fmt=fmt, resume=self.resume, overwrite=self.overwrite)
        return fmt

    def _check_resume(self) -> None:
        """Raise `OutputError` if the output is of other settings, as far as these are known."""
        if self.output is None or not (self.resume and started(self.output)):
            return
        graph = is_graph(self.model.weights or Path(self.model.model or ""))
        now = {
            "engine": resolve_engine(self.runtime, graph=graph),
            "precision": self.runtime.precision,
            "threshold": self.threshold,
        }
        RunInfo(now, self.runtime.device).check_resumes(RunInfo.read(self.output))

    def _sources(self, left_out: LeftOut) -> Iterator[Source]:
        """The inputs, of which none will be overwritten.

        To know that, they are first listed, unless all are folders, which give images alone, or
        in stores.
        """
        sources = self.inputs.sources(left_out)
        written = files_of(self.output) if self.output else []
        check_no_input(written, [*self.inputs.named, self.inputs.files_from, *self.model.files()])
        named = (name for name in self.inputs.named if not is_store_url(name))
        folders = not self.inputs.files_from and all(map(os.path.isdir, named))
        at_risk = (p for p in written if not folders or is_image_name(p.name))
        if self.overwrite and any(path.is_file() for path in at_risk):
            all_sources = list(sources)
            check_no_input(written, filter(None, (s.file for s in all_sources)))
            return iter(all_sources)
        return sources

    def _results(self, classifier: Classifier, sources: Iterator[Source]) -> Iterator[Result]:
        if not self.inputs.is_one_image:
            yield from classifier.stream(sources)
            return
        for source in sources:
            try:
                yield classifier(source)
            except ImageError as error:
                yield Result(source.name, error=str(error))


def write_rows(
    rows: Output[Item],
    make: Callable[[Iterator[Source]], Iterator[tuple[Item, bool]]],
    sources: Iterator[Source],
    progress: Progress,
    task: str,
) -> PredictionSummary:
    """Write the rows of the sources that have none yet.

    Args:
        rows: where they go.
        make: sources to rows, each with whether it is a failure.
        sources: all of them, in order.
        progress: receives each row.
        task: the name that it shows.

    Raises:
        OutputError: a row cannot be written.
    """
    done, failed, start = rows.finished, rows.failed, time.monotonic()
    progress.start(task, done)
    if progress.wants_total:
        sources = walk_ahead(sources, progress.total)
    try:
        for row, has_failed in make(rows.remaining(sources)):
            rows.write(row)
            done += 1
            failed += has_failed
            progress.advance()
        rows.finish()
    except KeyboardInterrupt:
        kept = "; they are saved, `resume` continues" if rows.resumable else ""
        log.warning("interrupted after %s%s", counted(done, "image"), kept)
        raise
    finally:
        progress.finish()
    return PredictionSummary(done, failed, rows.finished, time.monotonic() - start)


def run_info(classifier: Classifier, *, csv_safe: bool = False) -> RunInfo:
    """What decides a classifier's rows, and on which device they are computed."""
    c = classifier
    decode = asdict(c.decode)
    names = ("exif", "max_pixels", "fast_jpeg", "stretch", "background")
    kept = {name: decode[name] for name in names}
    settings = {
        "model": c.config.name,
        "weights_sha256": c.engine.weights.sha256,
        "preprocessing": c.preprocessing.as_dict(),
        "engine": c.engine.name,
        "precision": c.engine.precision,
        "labels_sha256": hashlib.sha256("\n".join(c.labels.names).encode()).hexdigest(),
        "top_k": c.top_k,
        "threshold": c.threshold,
        "csv_safe": csv_safe,
        **kept,
    }
    return RunInfo(json.loads(json.dumps(settings)), c.engine.device)
