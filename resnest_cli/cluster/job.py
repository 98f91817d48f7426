"""A prediction job in partitions: finished ones stay, and any process may make the others."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from resnest_cli.cluster.manifest import Folder, Segment, read_segment, segments
from resnest_cli.cluster.partitions import (
    FORMATS,
    RECORD,
    Damaged,
    Fingerprint,
    part_name,
    read_fingerprint,
    read_record,
    read_rows,
    write_part,
)  # fmt: skip
from resnest_cli.cluster.shard import Shard
from resnest_cli.errors import OutputError, UsageError, check_number, require_extra
from resnest_cli.files import PLAIN, writable_folder
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.job import PredictionJob, PredictionSummary, run_info
from resnest_cli.inputs.source import STDIN, Source
from resnest_cli.inputs.walk import LeftOut
from resnest_cli.outputs.run_info import RunInfo
from resnest_cli.outputs.schema import PredictionSchema, Record
from resnest_cli.progress import SILENT, Progress
from resnest_cli.text import counted, utf8

log = logging.getLogger(__name__)

PARTITION_SIZE = 10_000
MAX_PARTITION_SIZE = 1_000_000
_Row = tuple[Record, bool]  # and whether its fault may pass
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
        return _Run(folder, fmt, classifier, info, listing, self.retry_failed).run(progress)

    def _checked_format(self) -> str:
        job, fmt = self.job, self.job.format or FORMATS[0]
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


@dataclass
class _Task:
    """A partition to make."""

    segment: Segment
    wanted: int  # inputs to compute
    earlier: Fingerprint | None  # of which the rows without an error are kept


@dataclass
class _Run:
    """One process's work on a folder."""

    folder: Folder
    fmt: str
    classifier: Classifier
    info: RunInfo
    listing: _Listing
    retry: bool
    pending: deque[_Task] = field(default_factory=deque)
    done: int = 0
    failed: int = 0
    passing: int = 0
    resumed: int = 0

    def run(self, progress: Progress) -> PredictionSummary:
        start = time.monotonic()
        progress.start("classifying")
        try:
            self._make(progress)
        except KeyboardInterrupt:
            log.warning(
                "interrupted after %s; finished partitions are saved, the same command continues",
                counted(self.done, "image"),
            )
            raise
        finally:
            progress.finish()
        return PredictionSummary(
            self.done, self.failed, self.resumed, time.monotonic() - start,
            self.listing.left_out, self.passing,
        )  # fmt: skip

    def _make(self, progress: Progress) -> None:
        """Make all partitions, of one stream of results that does not stop between them."""
        record = PredictionSchema(self.classifier.top_k).record
        results = self.classifier.stream(self._sources())
        computed = ((record(result), result.may_pass) for result in results)
        following = next(computed, None)
        while self.pending:
            task = self.pending.popleft()
            own = islice(chain([following] if following else [], computed), task.wanted)
            name = part_name(task.segment.number, self.fmt)
            rows = self._rows(task, name, own, progress)
            made = write_part(self.folder, name, rows, task.segment, self.info)
            self._count(made, resumed=made.rows - task.wanted)
            if task.wanted:
                following = next(computed, None)

    def _sources(self) -> Iterator[Source]:
        """The inputs that have no row yet; the partitions that they are for become pending."""
        for segment in self.listing:
            earlier = self._earlier(segment)
            if earlier and not (self.retry and earlier.failed):
                self._count(earlier, resumed=earlier.rows)
                continue
            stored = read_segment(self.folder, segment.number)
            assert stored is not None
            sources = stored.sources()
            if earlier:
                name = part_name(segment.number, self.fmt)
                rows = read_rows(self.folder, name, earlier)
                try:
                    failed = [row["error"] is not None for row in rows]
                    sources = [s for s, wanted in zip(sources, failed, strict=True) if wanted]
                except Damaged as damage:
                    log.warning("'%s': %s is %s; it is made again", self.folder, name, damage)
                    earlier = None
            self.pending.append(_Task(segment, len(sources), earlier))
            yield from sources

    def _earlier(self, segment: Segment) -> Fingerprint | None:
        """What a partition holds already; None if it must be made."""
        name = part_name(segment.number, self.fmt)
        try:
            found = read_fingerprint(self.folder, name)
        except FileNotFoundError:
            return None
        except Damaged as damage:
            log.warning("'%s': %s is %s; it is made again", self.folder, name, damage)
            return None
        if difference := found.differs(segment, self.info.settings):
            raise OutputError(
                f"'{self.folder}': {name} is {difference}\nremove it, or choose another folder"
            )
        return found

    def _rows(
        self, task: _Task, name: str, computed: Iterator[_Row], progress: Progress
    ) -> Iterator[_Row]:
        """A partition's rows: those that are kept, and between them those that are computed."""
        for kept in self._kept(task, name):
            if kept is None:
                yield next(computed)
                progress.advance()
            else:
                yield kept, False

    def _kept(self, task: _Task, name: str) -> Iterator[Record | None]:
        """For each row of a partition, the finished one that is kept, or None."""
        if task.earlier is None:
            yield from [None] * task.segment.rows
            return
        for row in read_rows(self.folder, name, task.earlier):
            yield row if row["error"] is None else None

    def _count(self, made: Fingerprint, *, resumed: int) -> None:
        self.done += made.rows
        self.failed += made.failed
        self.passing += len(made.passing)
        self.resumed += resumed


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
    output: str | None, partition_size: int | None, shard: str | None, *, retry_failed: bool
) -> bool:
    """Whether an output is a folder of partitions: it ends in a slash, or is one already.

    Raises:
        UsageError: it is none, and an option is only for them.
    """
    ends = (output or "").endswith(("/", os.sep))
    folder = ends or bool(output and Path(output, RECORD).is_file())
    for name, given in (
        ("partition_size", partition_size is not None), ("shard", shard is not None),
        ("retry_failed", retry_failed),
    ):  # fmt: skip
        if given and not folder:
            raise UsageError(
                f"`{name}` is for a folder of partitions: name one as `output`, with a slash at "
                "its end"
            )
    return folder


def _check_folder(folder: Folder) -> None:
    """Make the folder; `OutputError` if it holds other files than those of a run."""
    writable_folder(folder.path)
    names = folder.names()
    if names and RECORD not in names:
        raise OutputError(
            f"'{folder}' holds other files already\nchoose a folder that is new or empty"
        )
