"""The work on partitions: their rows, in one stream, and how many there are of each kind."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice

from resnest_cli.cluster.manifest import Folder, Segment, read_segment
from resnest_cli.cluster.partitions import (
    Damaged,
    Fingerprint,
    part_name,
    read_fingerprint,
    read_rows,
    write_part,
)
from resnest_cli.errors import OutputError
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.job import PredictionSummary
from resnest_cli.inputs.source import Source
from resnest_cli.inputs.walk import LeftOut
from resnest_cli.outputs.run_info import RunInfo
from resnest_cli.outputs.schema import PredictionSchema, Record
from resnest_cli.progress import SILENT, Progress
from resnest_cli.text import counted

log = logging.getLogger(__name__)

Row = tuple[Record, bool]  # and whether its fault may pass


@dataclass
class Tally:
    """How many rows a run came to."""

    done: int = 0
    failed: int = 0
    passing: int = 0
    resumed: int = 0
    start: float = field(default_factory=time.monotonic)

    def count(self, made: Fingerprint, *, resumed: int = 0) -> None:
        """Count a partition, of which so many rows are an earlier run's."""
        self.done += made.rows
        self.failed += made.failed
        self.passing += len(made.passing)
        self.resumed += resumed

    def summary(self, left_out: LeftOut) -> PredictionSummary:
        """What the run came to until now."""
        seconds = time.monotonic() - self.start
        return PredictionSummary(
            self.done, self.failed, self.resumed, seconds, left_out, self.passing
        )

    @contextmanager
    def shown(self, progress: Progress) -> Iterator[None]:
        """Show the progress of what is done within; a warning if it is interrupted."""
        progress.start("classifying")
        try:
            yield
        except KeyboardInterrupt:
            log.warning(
                "interrupted after %s; finished partitions are saved, the same command continues",
                counted(self.done, "image"),
            )
            raise
        finally:
            progress.finish()


def earlier_part(folder: Folder, fmt: str, segment: Segment, info: RunInfo) -> Fingerprint | None:
    """What a partition holds already; None if it must be made.

    Raises:
        OutputError: it is of another run.
    """
    name = part_name(segment.number, fmt)
    try:
        found = read_fingerprint(folder, name)
    except FileNotFoundError:
        return None
    except Damaged as damage:
        log.warning("'%s': %s is %s; it is made again", folder, name, damage)
        return None
    if difference := found.differs(segment, info.settings):
        raise OutputError(
            f"'{folder}': {name} is {difference}\nremove it, or choose another folder"
        )
    return found


@dataclass
class _Task:
    """A partition to make."""

    segment: Segment
    wanted: int  # inputs to compute
    earlier: Fingerprint | None  # of which the rows without an error are kept


@dataclass
class Work:
    """One process's work on a folder."""

    folder: Folder
    fmt: str
    classifier: Classifier
    info: RunInfo
    retry: bool = False  # compute the failed rows of finished partitions again
    on_made: Callable[[int, Fingerprint], None] | None = None
    tally: Tally = field(default_factory=Tally)
    _pending: deque[_Task] = field(default_factory=deque)

    def make(self, segments: Iterable[Segment], progress: Progress = SILENT) -> None:
        """Make the partitions of segments, of one stream of results that runs on between them."""
        record = PredictionSchema(self.classifier.top_k).record
        results = self.classifier.stream(self._sources(segments))
        computed = ((record(result), result.may_pass) for result in results)
        following = next(computed, None)
        while self._pending:
            task = self._pending.popleft()
            own = islice(chain([following] if following else [], computed), task.wanted)
            name = part_name(task.segment.number, self.fmt)
            rows = self._rows(task, name, own, progress)
            made = write_part(self.folder, name, rows, task.segment, self.info)
            self.tally.count(made, resumed=made.rows - task.wanted)
            if self.on_made:
                self.on_made(task.segment.number, made)
            if task.wanted:
                following = next(computed, None)

    def _sources(self, segments: Iterable[Segment]) -> Iterator[Source]:
        """The inputs that have no row yet; the partitions that they are for become pending."""
        for segment in segments:
            earlier = earlier_part(self.folder, self.fmt, segment, self.info)
            if earlier and not (self.retry and earlier.failed):
                self.tally.count(earlier, resumed=earlier.rows)
                if self.on_made:
                    self.on_made(segment.number, earlier)
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
            self._pending.append(_Task(segment, len(sources), earlier))
            yield from sources

    def _rows(
        self, task: _Task, name: str, computed: Iterator[Row], progress: Progress
    ) -> Iterator[Row]:
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
