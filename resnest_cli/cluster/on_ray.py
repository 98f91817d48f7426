"""Partitions on a Ray cluster: a driver gives them out, workers make and store them."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from resnest_cli.cluster.manifest import Folder, Segment, read_segment
from resnest_cli.cluster.partitions import (
    RECORD,
    Fingerprint,
    part_name,
    read_record,
    write_part,
)  # fmt: skip
from resnest_cli.cluster.ray_cluster import connected, settle, versions
from resnest_cli.cluster.ray_pool import KILLED, Counted, Pool, Rebuilt
from resnest_cli.cluster.work import Row, Tally, Work, earlier_part
from resnest_cli.errors import EngineError, OutputError
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.job import PredictionJob, run_info
from resnest_cli.outputs.run_info import RunInfo
from resnest_cli.outputs.schema import PredictionSchema
from resnest_cli.progress import Progress
from resnest_cli.results import Result


@dataclass(frozen=True)
class Setup:
    """What the driver has settled, and each worker must be like; picklable."""

    job: PredictionJob
    fmt: str
    info: RunInfo
    batch_size: int
    retry: bool
    here: str  # the driver's folder, from which relative paths start
    versions: dict[str, str | None]

    @classmethod
    def of(
        cls, job: PredictionJob, fmt: str, classifier: Classifier, info: RunInfo, *, retry: bool
    ) -> Setup:
        """What a driver's classifier settles."""
        engine = classifier.engine
        runtime = replace(
            job.runtime, engine=engine.name, precision=engine.precision, hint="throughput",
            device=engine.device.partition(":")[0], batch_size=classifier.batch_size,
        )  # fmt: skip
        return cls(
            replace(job, runtime=runtime), fmt, info, classifier.batch_size, retry,
            str(Path.cwd()), versions(),
        )  # fmt: skip

    @property
    def gpu(self) -> bool:
        """Whether a worker needs a GPU."""
        return self.job.runtime.device == "cuda"

    def check(self, classifier: Classifier) -> None:
        """Raise `EngineError`, with all that differs, unless a worker is like the driver."""
        own = {
            **run_info(classifier).settings,
            "batch_size": classifier.batch_size,
            "device": classifier.engine.device.partition(":")[0],
            **versions(),
        }
        wanted = {
            **self.info.settings, "batch_size": self.batch_size,
            "device": self.job.runtime.device, **self.versions,
        }  # fmt: skip
        changed = [k for k in own if k in wanted and own[k] != wanted[k] and k != "csv_safe"]
        if changed:
            words = "; ".join(f"{k} {own[k]!r}, not {wanted[k]!r}" for k in changed)
            raise EngineError(
                f"node {platform.node()} has other settings than the driver: {words}\n"
                "install the same versions and put the same files on all nodes"
            )


class PartitionWorker:
    """Makes partitions, one after the other, in one stream of results. See `ray_pool.Worker`."""

    def __init__(self, setup: Setup, cores: tuple[int, int] | None) -> None:
        self._setup, self._cores = setup, cores
        self._asked: SimpleQueue[Segment] = SimpleQueue()
        self._promised: dict[int, Future[Fingerprint]] = {}
        self._rows = Counted()

    def open(self) -> None:
        """Load the network; `ResNeStError` if it, the folder or the node is not the driver's."""
        setup = self._setup
        settle(setup.here, self._cores)
        assert setup.job.output is not None
        self._folder = Folder(setup.job.output)
        try:
            seen = read_record(self._folder).settings == setup.info.settings
        except (OSError, OutputError):
            seen = False
        if not seen:
            raise OutputError(
                f"node {platform.node()} does not see '{setup.job.output}' and its {RECORD}\n"
                "all nodes need the same folders, such as those of a network file system"
            )
        self._classifier = self._loaded()
        setup.check(self._classifier)
        Thread(target=self._work, name="partitions", daemon=True).start()

    def make(self, key: int) -> Fingerprint:
        """Make and store a partition."""
        segment = self._segment(key)
        promise = self._promised[key] = Future()
        self._asked.put(segment)
        return promise.result()

    def items(self, key: int, start: int, stop: int) -> list[Row]:
        """Some rows of a partition."""
        record = PredictionSchema(self._classifier.top_k).record
        rows = []
        for result in self._classifier.stream(self._segment(key).sources()[start:stop]):
            rows.append((record(result), result.may_pass))
            self._rows.advance()
        return rows

    def advanced(self) -> int:
        """How many rows are computed."""
        return self._rows.count

    def _loaded(self) -> Classifier:
        job = self._setup.job
        return Classifier.from_specs(
            job.model, job.runtime, job.decode, top_k=job.top_k, threshold=job.threshold
        )

    def _segment(self, number: int) -> Segment:
        segment = read_segment(self._folder, number)
        if segment is None:
            raise OutputError(f"'{self._folder}' has lost segment {number} of its manifest")
        return segment

    def _work(self) -> None:
        """One stream after another; each ends when nothing is asked for."""
        setup = self._setup
        while True:
            asked = [self._asked.get()]
            work = Work(
                self._folder, setup.fmt, self._classifier, setup.info, setup.retry, self._made
            )
            try:
                work.make(self._taken(asked), self._rows)
            except BaseException as error:
                failed, self._promised = self._promised, {}
                for promise in failed.values():
                    promise.set_exception(error)

    def _taken(self, asked: list[Segment]) -> Iterator[Segment]:
        while asked:
            yield asked.pop()
            with suppress(Empty):
                asked.append(self._asked.get_nowait())

    def _made(self, number: int, made: Fingerprint) -> None:
        if promise := self._promised.pop(number, None):  # else its stream has failed
            promise.set_result(made)


def make_on_ray(
    address: str, setup: Setup, folder: Folder, listing: Iterable[Segment], progress: Progress
) -> Tally:
    """Make the partitions that are missing on a Ray cluster, see `ray_cluster.connected`."""
    tally = Tally()
    segments: dict[int, tuple[Segment, int]] = {}  # in work, and how many rows are kept

    def units() -> Iterator[tuple[int, int]]:
        for segment in listing:
            earlier = earlier_part(folder, setup.fmt, segment, setup.info)
            if earlier and not (setup.retry and earlier.failed):
                tally.count(earlier, resumed=earlier.rows)
                continue
            segments[segment.number] = segment, earlier.rows - earlier.failed if earlier else 0
            yield segment.number, segment.rows

    with tally.shown(progress):
        left = units()
        if (first := next(left, None)) is None:
            return tally
        with connected(address) as ray:
            tally.start = time.monotonic()
            pool: Pool[Fingerprint] = Pool(
                ray, PartitionWorker, (setup,), gpu=setup.gpu, progress=progress
            )
            with closing(pool):
                for number, made in pool.results(chain([first], left)):
                    segment, kept = segments.pop(number)
                    if isinstance(made, Rebuilt):
                        made, kept = _put_together(folder, setup, segment, made), 0
                    tally.count(made, resumed=kept)
    return tally


def _put_together(folder: Folder, setup: Setup, segment: Segment, made: Rebuilt) -> Fingerprint:
    """Store a partition whose rows came in pieces; a row that killed its processes is an error."""
    stored = read_segment(folder, segment.number)
    assert stored is not None
    record = PredictionSchema(setup.info.settings["top_k"]).record
    rows = (
        item or (record(Result(source.name, error=KILLED)), False)
        for source, item in zip(stored.sources(), made.items, strict=True)
    )
    name = part_name(segment.number, setup.fmt)
    return write_part(folder, name, rows, segment, setup.info)
