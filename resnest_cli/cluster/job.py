"""A prediction job in partitions: finished ones stay, and any process may make the others."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from resnest_cli.cluster.manifest import Folder, Segment, segments
from resnest_cli.cluster.on_ray import Setup, make_on_ray
from resnest_cli.cluster.partitions import FORMATS, RECORD, part_name, read_record
from resnest_cli.cluster.shard import Shard
from resnest_cli.cluster.work import Work
from resnest_cli.errors import OutputError, UsageError, check_number, require_extra
from resnest_cli.files import PLAIN
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.job import PredictionJob, PredictionSummary, run_info
from resnest_cli.inputs.source import STDIN, Source
from resnest_cli.inputs.walk import LeftOut
from resnest_cli.outputs.run_info import RunInfo
from resnest_cli.progress import SILENT, Progress
from resnest_cli.text import utf8

PARTITION_SIZE = 10_000
MAX_PARTITION_SIZE = 1_000_000
_ROWS = 1  # version of what is in a partition


@dataclass(frozen=True)
class PartitionedJob:
    """A prediction job whose output is a folder of partitions; picklable.

    Any number of processes may run it at once, with the same folder and different shards, and a
    run of the same job continues it. `merge` makes one file of the folder.
    """

    job: PredictionJob  # its output is the folder, its format parquet (default) or jsonl
    partition_size: int = PARTITION_SIZE  # inputs of a partition, 1 to 1,000,000
    shard: str | None = None  # `K/N`, K from 1 to N; `auto`, `auto/N`: by the environment
    retry_failed: bool = False  # of finished partitions, compute the failed rows again
    on: str | None = None  # a Ray cluster: `ray`, or an address `ray://HOST:PORT`

    def run(self, progress: Progress = SILENT) -> PredictionSummary:
        """Make the partitions of this shard that are missing; the summary is of this shard.

        Raises:
            UsageError: options exclude each other or are out of range.
            OutputError: the folder cannot be written, or is of other settings or inputs.
            ResNeStError: there is nothing to classify, or the network cannot be loaded.
        """
        shard, fmt = Shard.of(self.shard), self._checked_format()
        job = self.job
        assert job.output is not None
        folder = Folder(job.output)
        _check_folder(folder)
        runtime = replace(job.runtime, hint="throughput")
        classifier = Classifier.from_specs(
            job.model, runtime, job.decode, top_k=job.top_k, threshold=job.threshold,
            progress=progress,
        )  # fmt: skip
        info = self._claimed(folder, classifier, fmt)
        folder.remove_leftovers()
        listing = _Listing(folder, self, shard, progress)
        if self.on:
            setup = Setup.of(job, fmt, classifier, info, retry=self.retry_failed)
            del classifier  # its memory is the workers'
            tally = make_on_ray(self.on, setup, folder, listing, progress)
            return tally.summary(listing.left_out)
        work = Work(folder, fmt, classifier, info, self.retry_failed)
        with work.tally.shown(progress):
            work.make(listing, progress)
        return work.tally.summary(listing.left_out)

    def _checked_format(self) -> str:
        job, fmt = self.job, self.job.format or FORMATS[0]
        if self.on and self.shard:
            raise UsageError("`on` and `shard` cannot be used together: a cluster shares the work")
        check_number("partition_size", self.partition_size, 1, MAX_PARTITION_SIZE)
        if job.output is None:
            raise UsageError("partitions need an `output` folder")
        if fmt not in FORMATS:
            raise UsageError(f"`format` of partitions must be {' or '.join(FORMATS)}, not {fmt}")
        if job.overwrite:
            raise UsageError(
                f"`overwrite` is not for a folder of partitions: remove '{job.output}' yourself"
            )
        if job.csv != PLAIN:
            raise UsageError("`csv_bom` and `csv_safe` are for CSV: give them to the merge")
        if STDIN in job.inputs.named:
            raise UsageError("an image on standard input cannot be part of a manifest")
        if fmt == "parquet":
            require_extra("parquet", "pyarrow")
        return fmt

    def _claimed(self, folder: Folder, classifier: Classifier, fmt: str) -> RunInfo:
        """What gives the rows, once it is known to be what gave those in the folder."""
        info = run_info(classifier)
        settings = {k: v for k, v in info.settings.items() if k != "csv_safe"}
        inputs = self.job.inputs
        listed = inputs.files_from
        settings |= {
            "inputs": [utf8(name) for name in inputs.named],
            "files_from": listed,
            "files_from_sha256": _list_sha256(listed),
            "include": list(inputs.include),
            "exclude": list(inputs.exclude),
            "limit": inputs.limit,
            "partition_size": self.partition_size,
            "format": fmt,
            "rows_version": _ROWS,
        }
        info = replace(info, settings=settings)
        if not folder.add(RECORD, info.encoded()):
            info.check_resumes(read_record(folder), otherwise="choose another folder")
        return info


class _Listing:
    """The segments of a shard, listed in a thread, so that work need not wait for the end."""

    def __init__(
        self, folder: Folder, job: PartitionedJob, shard: Shard, progress: Progress
    ) -> None:
        self.left_out = LeftOut()
        self._queue: SimpleQueue[Segment | Exception | None] = SimpleQueue()
        self._parameters = folder, job, shard, progress

    def __iter__(self) -> Iterator[Segment]:
        """The segments, without their names."""
        Thread(target=self._list, name="list", daemon=True).start()
        while (item := self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def _list(self) -> None:
        folder, job, shard, progress = self._parameters

        def sources() -> Iterator[Source]:
            self.left_out = LeftOut()
            return job.job.inputs.sources(self.left_out)

        total, finished, fmt = 0, set(folder.names()), job.job.format or FORMATS[0]
        try:
            for segment in segments(folder, job.partition_size, sources):
                if segment.number in shard:
                    total += segment.rows * (part_name(segment.number, fmt) not in finished)
                    self._queue.put(replace(segment, data=b""))
        except Exception as error:  # raised where the segment is waited for
            self._queue.put(error)
        else:
            if not job.retry_failed:
                progress.total(total)
            self._queue.put(None)


def _list_sha256(path: str | None) -> str | None:
    """The digest of a list of inputs; None if it can be read only once."""
    if path is None or path == STDIN or not Path(path).is_file():
        return None
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        for line in file:
            digest.update(line)
    return digest.hexdigest()


def is_folder(
    output: str | None, partition_size: int | None, shard: str | None, *, retry_failed: bool,
    on: str | None = None,
) -> bool:  # fmt: skip
    """Whether an output is a folder of partitions: it ends in a slash, or is one already.

    Raises:
        UsageError: it is none, and an option is only for them.
    """
    ends = (output or "").endswith(("/", os.sep))
    folder = ends or bool(output and Path(output, RECORD).is_file())
    for name, given in (
        ("partition_size", partition_size is not None), ("shard", shard is not None),
        ("retry_failed", retry_failed), ("on", on is not None),
    ):  # fmt: skip
        if given and not folder:
            raise UsageError(
                f"`{name}` is for a folder of partitions: name one as `output`, with a slash at "
                "its end"
            )
    return folder


def _check_folder(folder: Folder) -> None:
    """Make the folder; `OutputError` if it holds other files than those of a run."""
    folder.make()
    names = folder.names()
    if names and RECORD not in names:
        raise OutputError(
            f"'{folder}' holds other files already\nchoose a folder that is new or empty"
        )
