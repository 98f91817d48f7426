"""Workers on a Ray cluster: units of work to processes that may die, and to others in their place.

Of Ray it takes where processes run and word of their deaths, and nothing else: what they read and
write is on disks that all nodes share. A unit whose process has died `_DEATHS` times is cut in
halves until the item is found that kills whatever touches it.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from resnest_cli.errors import ResNeStError
from resnest_cli.progress import Progress

log = logging.getLogger(__name__)

_DEATHS = (
    3  # of a unit's processes, after which it is cut; of an item's, after which it is left out
)
KILLED = f"the process that reads this image dies, {_DEATHS} times of {_DEATHS}"

_AHEAD = 3  # units of a worker, so that it need not wait for the next
_MOST_PROCESSORS = 8  # of a worker without a GPU
_MOST_STILLBORN = 5  # workers of each place that die, one after the other, before they are ready
_FIRST_WORKER = 300  # seconds
_LOOK_AT_NODES = 5  # seconds

T = TypeVar("T")


class Counted(Progress):
    """Counts the items that a worker does."""

    count = 0

    def advance(self) -> None:
        """One more is done."""
        self.count += 1


class Worker(Protocol):
    """What runs in the processes. Its class is importable there, and its arguments picklable."""

    def open(self) -> None:
        """Get ready; an error here ends the run."""

    def make(self, key: int) -> Any:
        """All items of a unit; several units may be asked for at once."""

    def items(self, key: int, start: int, stop: int) -> list[Any]:
        """What some items of a unit come to."""

    def advanced(self) -> int:
        """How many items are done, those of unfinished units included."""


@dataclass(frozen=True)
class Rebuilt:
    """A unit that was made in pieces."""

    items: list[Any]  # None: of an item that no process has survived


@dataclass
class _Unit:
    key: int
    start: int
    stop: int
    whole: bool = True  # all items of the key, which a worker makes in one call
    deaths: int = 0

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def alone(self) -> bool:
        """Whether it may be what kills, so that nothing else may be blamed."""
        return self.deaths > 0 or not self.whole


@dataclass(frozen=True)
class _Place:
    """Where a worker runs: some processors of a node, or a GPU of it and some processors."""

    node: str
    slot: int
    slots: int
    cpus: int
    gpus: int


@dataclass
class _Hand:
    """A worker, and what it has to do."""

    place: _Place
    actor: Any
    opening: Any  # the reference of its first answer; None once that came
    units: dict[Any, _Unit] = field(default_factory=dict)  # by the references of their answers
    asked: Any = None  # the reference of how far it is
    advanced: int = 0  # items that it has done
    finished: int = 0  # of them, those of finished units

    def has_room(self, *, alone: bool) -> bool:
        """Whether it may take one more unit."""
        if self.opening or any(unit.alone for unit in self.units.values()):
            return False
        return len(self.units) < (1 if alone else _AHEAD)


class Pool(Generic[T]):
    """A worker for every place in a cluster, and another where one dies while its node lives.

    Args:
        ray: the module, connected.
        worker: the class of the workers.
        arguments: of each; what processors it has is added.
        gpu: whether each needs a GPU.
        progress: shows the items that are done, about every second.
    """

    def __init__(
        self, ray: Any, worker: type[Worker], arguments: tuple[Any, ...], *, gpu: bool,
        progress: Progress,
    ) -> None:  # fmt: skip
        self._ray, self._gpu, self._progress, self._shown = ray, gpu, progress, 0
        self._class, self._arguments = ray.remote(worker), arguments
        self._hands: list[_Hand] = []
        self._again: deque[_Unit] = deque()  # of workers that died
        self._pieces: dict[int, _Pieces] = {}
        self._results: deque[tuple[int, T | Rebuilt]] = deque()
        self._finished = 0  # items of finished units
        self._stillborn = 0
        self._looked = -math.inf

    def results(self, units: Iterator[tuple[int, int]]) -> Iterator[tuple[int, T | Rebuilt]]:
        """What the workers make of units, each a key and a number of items, as they finish.

        Raises:
            ResNeStError: no worker can start, or one says so of a unit.
        """
        left = (_Unit(key, 0, size) for key, size in units)
        following, began = next(left, None), time.monotonic()
        while following or self._again or any(hand.units for hand in self._hands):
            self._start_workers()
            if following and all(hand.opening for hand in self._hands):
                self._check_start(time.monotonic() - began)
            for hand in self._hands:
                while self._again and hand.has_room(alone=True):
                    self._give(hand, self._again.popleft())
                while following and not self._again and hand.has_room(alone=False):
                    self._give(hand, following)
                    following = next(left, None)
            self._wait()
            self._show()
            while self._results:
                yield self._results.popleft()

    def _show(self) -> None:
        """Show what is done, of unfinished units too; what a death undoes stays shown."""
        begun = sum(max(hand.advanced - hand.finished, 0) for hand in self._hands)
        while self._shown < self._finished + begun:
            self._progress.advance()
            self._shown += 1

    def close(self) -> None:
        """End the workers, whatever they do."""
        for hand in self._hands:
            self._ray.kill(hand.actor)
        self._hands = []

    def _check_start(self, seconds: float) -> None:
        if seconds > _FIRST_WORKER:
            lacking = "GPUs" if self._gpu else "processors"
            raise ResNeStError(
                f"no worker has started in {seconds:.0f} s: the cluster lacks free {lacking}"
            )

    def _start_workers(self) -> None:
        """One for each place that has none."""
        now = time.monotonic()
        if now - self._looked < _LOOK_AT_NODES and self._hands:
            return
        self._looked = now
        taken = {hand.place for hand in self._hands}
        for place in _places(self._ray.nodes(), gpu=self._gpu):
            if place not in taken:
                self._hands.append(self._started(place))

    def _started(self, place: _Place) -> _Hand:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        cores = (place.slot, place.cpus) if place.slots > 1 and not place.gpus else None
        actor = self._class.options(
            num_cpus=place.cpus, num_gpus=place.gpus, max_concurrency=_AHEAD + 2,
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False),
        ).remote(*self._arguments, cores)  # fmt: skip
        return _Hand(place, actor, actor.open.remote())

    def _give(self, hand: _Hand, unit: _Unit) -> None:
        actor = hand.actor
        answer = (
            actor.make.remote(unit.key)
            if unit.whole
            else actor.items.remote(unit.key, unit.start, unit.stop)
        )
        hand.units[answer] = unit

    def _wait(self) -> None:
        """Take the answers that come within a second."""
        awaited = {answer: hand for hand in self._hands for answer in hand.units}
        awaited |= {hand.opening: hand for hand in self._hands if hand.opening}
        if not awaited:
            time.sleep(0.5)
            return
        self._ray.wait(list(awaited), timeout=1.0)
        done, _ = self._ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
        for answer in done:
            if awaited[answer] in self._hands:
                self._take(awaited[answer], answer)
        for hand in self._hands:
            self._ask(hand)

    def _ask(self, hand: _Hand) -> None:
        """Learn how far a worker is, if it has answered; and ask it again."""
        if hand.opening:
            return
        if hand.asked and self._ray.wait([hand.asked], timeout=0)[0]:
            with suppress(self._ray.exceptions.RayError):  # its units show its death
                hand.advanced = max(hand.advanced, self._ray.get(hand.asked))
            hand.asked = None
        if hand.asked is None:
            hand.asked = hand.actor.advanced.remote()

    def _take(self, hand: _Hand, answer: Any) -> None:
        errors = self._ray.exceptions
        try:
            value = self._ray.get(answer)
        except errors.RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise (cause if isinstance(cause, ResNeStError) else error) from None
        except errors.RayError as error:
            self._bury(hand, error)
            return
        self._stillborn = 0
        if answer == hand.opening:
            hand.opening = None
            return
        unit = hand.units.pop(answer)
        hand.finished += unit.size
        if unit.whole:
            self._finished += unit.size
            self._results.append((unit.key, value))
        else:
            self._collect(unit, value)

    def _bury(self, hand: _Hand, error: Exception) -> None:
        """What a worker that died had to do, others do."""
        self._hands.remove(hand)
        self._looked = -math.inf
        reason = " ".join(str(error).split())
        log.info("a worker on node %s died: %s", hand.place.node[:8], reason)
        self._stillborn += hand.opening is not None
        if self._stillborn > _MOST_STILLBORN * (len(self._hands) + 1):
            raise ResNeStError(f"the workers die before they are ready: {reason}")
        for unit in hand.units.values():
            unit.deaths += 1
            self._retry(unit)

    def _retry(self, unit: _Unit) -> None:
        """Give a unit to another worker: whole a few times, then in halves."""
        if unit.deaths < _DEATHS and (unit.whole or unit.size == 1):
            self._again.append(unit)
            return
        if unit.whole:
            self._pieces[unit.key] = _Pieces([None] * unit.size, unit.size)
        if unit.size == 1 and not unit.whole:
            self._collect(unit, [None])
            return
        middle = (unit.start + unit.stop + 1) // 2
        for start, stop in ((unit.start, middle), (middle, unit.stop)):
            if start < stop:
                self._again.append(_Unit(unit.key, start, stop, whole=False))

    def _collect(self, unit: _Unit, items: list[Any]) -> None:
        """Put the items of a piece into their places; when there are all, it is a result."""
        pieces = self._pieces[unit.key]
        pieces.items[unit.start : unit.stop] = items
        pieces.left -= unit.size
        self._finished += unit.size
        if not pieces.left:
            self._results.append((unit.key, Rebuilt(self._pieces.pop(unit.key).items)))


@dataclass
class _Pieces:
    items: list[Any]
    left: int  # that are to be made


def _places(nodes: list[dict[str, Any]], *, gpu: bool) -> Iterator[_Place]:
    """Where workers fit, on the nodes that live."""
    for node in nodes:
        cpus, gpus = (int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU"))
        if not node["Alive"] or not cpus or (gpu and not gpus):
            continue
        slots = gpus if gpu else math.ceil(cpus / _MOST_PROCESSORS)
        for slot in range(slots):
            yield _Place(node["NodeID"], slot, slots, max(cpus // slots, 1), int(gpu))
