"""An embedding job: any inputs to the vectors that a network makes of them, resumable."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli.catalog.weights import is_graph
from resnest_cli.embed.vectors import VectorFile, Vectors, names_path, suffix_of, unpack
from resnest_cli.engines.api import ModelSpec, RuntimeOptions
from resnest_cli.errors import EngineError, ImageError, OutputError, UsageError, require_extra
from resnest_cli.files import check_new, check_no_input
from resnest_cli.imaging.decode_options import DEFAULT, DecodeOptions
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.job import PredictionSummary, run_info, write_rows
from resnest_cli.inputs.discover import Inputs
from resnest_cli.inputs.walk import LeftOut
from resnest_cli.outputs.run_info import RunInfo, record_path
from resnest_cli.outputs.schema import PathSchema, Record
from resnest_cli.outputs.sink import FileOutput, check_target, journal_path, started
from resnest_cli.progress import SILENT, Progress

if TYPE_CHECKING:
    from resnest_cli.inputs.source import Source

_OF_CLASSES = ("labels_sha256", "top_k", "threshold", "csv_safe")  # settings of predictions only


@dataclass(frozen=True)
class EmbedJob:
    """Inputs, a model and a file of vectors: all that decides a run."""

    inputs: Inputs
    output: Path  # .npy, .safetensors or .parquet
    model: ModelSpec = field(default_factory=ModelSpec)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    decode: DecodeOptions = DEFAULT
    resume: bool = False  # keep the vectors of an interrupted run, and make the others
    overwrite: bool = False  # replace an output that exists

    def __post_init__(self) -> None:
        """Take texts and paths for inputs and output."""
        if not isinstance(self.inputs, Inputs):
            object.__setattr__(self, "inputs", Inputs(self.inputs))
        object.__setattr__(self, "output", Path(self.output))

    def run(self, progress: Progress = SILENT) -> PredictionSummary:
        """Make the vector of every input that has none yet.

        Raises:
            UsageError: options exclude each other.
            OutputError: the output cannot be written or resumed.
            ResNeStError: there is nothing to embed, or the network cannot be loaded.
        """
        self._check()
        left_out = LeftOut()
        sources = self.inputs.sources(left_out)
        classifier = classifier_of(self.model, self.runtime, self.decode, progress)
        info = vectors_info(classifier)
        path, names = self.output, names_path(self.output)
        packed = self.resume and path.suffix.lower() == ".parquet" and not names.exists()
        if packed and path.exists():
            info.check_resumes(RunInfo.read(path))
            unpack(path)
        rows: FileOutput[Record] = FileOutput(
            path, fmt="csv", schema=PathSchema(), info=info, resume=self.resume, rows=names
        )
        with (
            closing(rows),
            closing(VectorFile(path, RunInfo.read(path), rows.finished)) as vectors,
        ):

            def make(left: Iterator[Source]) -> Iterator[tuple[Record, bool]]:
                for source, vector in classifier.features(left):
                    error = str(vector) if isinstance(vector, ImageError) else None
                    vectors.append(None if isinstance(vector, ImageError) else vector)
                    yield {"path": source.name, "error": error}, error is not None

            summary = write_rows(rows, make, sources, progress, "embedding")
            vectors.finish()
        return replace(summary, left_out=left_out)

    def _check(self) -> None:
        if suffix_of(self.output) == ".parquet":
            require_extra("parquet", "pyarrow")
        if self.resume and self.overwrite:
            raise UsageError("`resume` and `overwrite` cannot be used together")
        refuse_graphs(self.model)
        if self.output.exists() and not (self.output.is_file() or self.output.is_dir()):
            raise OutputError(f"'{self.output}' is not a file")
        kept = {"resume": self.resume, "overwrite": self.overwrite}
        check_target(self.output, fmt="csv", **kept)
        if not any(kept.values()):
            check_new(names_path(self.output), resumable=bool(started(names_path(self.output))))
        written = [
            self.output, names_path(self.output), record_path(self.output),
            journal_path(self.output),
        ]  # fmt: skip
        named = [*self.inputs.named, self.inputs.files_from, *self.model.files()]
        check_no_input(written, named)


def vectors_of(
    inputs: Inputs,
    model: ModelSpec | None = None,
    runtime: RuntimeOptions | None = None,
    decode: DecodeOptions = DEFAULT,
    progress: Progress = SILENT,
) -> Vectors:
    """The vectors of inputs, one row for each, kept on disk while they are used.

    Raises:
        ResNeStError: there is nothing to embed, or the network cannot be loaded.
    """
    # what is mapped stays until it is no longer used, its folder does not
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder, "vectors.npy")
        EmbedJob(inputs, path, model or ModelSpec(), runtime or RuntimeOptions(), decode).run(
            progress
        )
        return Vectors.read(path)


def classifier_of(
    model: ModelSpec, runtime: RuntimeOptions, decode: DecodeOptions, progress: Progress
) -> Classifier:
    """A classifier for many images; `EngineError` for a model that gives no vectors."""
    refuse_graphs(model)
    runtime = replace(runtime, hint="throughput")
    return Classifier.from_specs(model, runtime, decode, progress=progress)


def refuse_graphs(model: ModelSpec) -> None:
    """Raise `EngineError` for an exported graph."""
    if is_graph(model.weights or Path(model.model or "")):
        raise EngineError(
            "an exported graph gives no vectors: use the checkpoint that it was exported from"
        )


def vectors_info(classifier: Classifier) -> RunInfo:
    """What decides the vectors of a classifier, and on which device they are computed."""
    info = run_info(classifier)
    kept: dict[str, Any] = {k: v for k, v in info.settings.items() if k not in _OF_CLASSES}
    channels = classifier.config.architecture.stage_channels[-1]
    return replace(info, settings={**kept, "output": "features", "channels": channels})
