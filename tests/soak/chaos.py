"""Random kills and faults, and the supervisor that restarts what ended.

A disruption begins, lasts, and is undone. Its kind, time, duration and target are drawn from one
``random.Random``; every kind comes once, in random order, before one is repeated.
"""

import heapq
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import psutil

from tests.support.envelopes import SINKS
from tests.support.nodes import ProcessContainer
from tests.support.system import System
from tests.support.wiretap import answer_with, do_nothing, lose_the_answer

#: Seconds between two checks of processes and plan.
TICK = 0.05

Undo = Callable[[], object]


class Disruption(NamedTuple):
    """One kill or fault: ``wait`` seconds after the one before, for ``seconds``.

    ``draw``, a large random number, chooses the target.
    """

    kind: str
    wait: float
    seconds: float
    draw: int


#: kind → shortest and longest duration, in seconds. A kill lasts until the restart.
KILLS: Mapping[str, tuple[float, float]] = {
    "pool process": (0, 0),
    "worker": (0, 5),
    "worker's main process": (0, 5),
    "worker, by SIGTERM": (30, 30),  # then it is killed
    "ingest": (0, 3),
    "redis": (0, 3),
    "beat": (0, 5),
}

FAULTS: Mapping[str, tuple[float, float]] = {
    "sink answers 503": (1, 6),
    "sink answers 429": (1, 6),
    "sink is slow": (1, 6),
    "sink hangs": (1, 4),
    "sink closes connections": (1, 6),
    "dynamodb away": (0.5, 4),
    "dynamodb slow": (1, 6),
    "dynamodb answers 500": (0.5, 4),
    "dynamodb throttles": (0.5, 4),
    "dynamodb's answers lost": (0.5, 3),
    "redis frozen": (0.5, 3),
    "worker frozen": (1, 15),
}

#: The behaviour of a sink that each of its faults is.
_BEHAVIOURS: Mapping[str, Mapping[str, Any]] = {
    "sink answers 503": {"mode": "status", "status": 503},
    "sink answers 429": {"mode": "status", "status": 429, "retry_after": 1},
    "sink is slow": {"mode": "slow", "seconds": 0.3},
    "sink hangs": {"mode": "hang", "seconds": 3},
    "sink closes connections": {"mode": "close"},
}

#: What each fault of DynamoDB does to every call.
_ACTIONS: Mapping[str, Mapping[str, Any]] = {
    "dynamodb away": {"arrival": lose_the_answer},
    "dynamodb slow": {"arrival": partial(time.sleep, 0.3)},
    "dynamodb answers 500": {"arrival": answer_with(500, "InternalServerError")},
    "dynamodb throttles": {"arrival": answer_with(400, "ProvisionedThroughputExceededException")},
    "dynamodb's answers lost": {"answer": lose_the_answer},
}


def plan(rng: random.Random, pause: float) -> Iterator[Disruption]:
    """Draw disruptions without end, ``pause`` seconds apart on average."""
    kinds = {**KILLS, **FAULTS}
    while True:
        for kind in rng.sample(list(kinds), len(kinds)):
            wait, seconds = rng.expovariate(1 / pause), rng.uniform(*kinds[kind])
            yield Disruption(kind, wait, seconds, rng.getrandbits(32))


class Chaos:
    """Carries out a plan from ``with`` to ``calm``, and supervises to the end of ``with``."""

    def __init__(
        self, system: System, workers: Sequence[ProcessContainer], plan: Iterator[Disruption]
    ) -> None:
        """Break ``system``, whose workers these are."""
        self.done: Counter[str] = Counter()
        self.ended_by_themselves: Counter[str] = Counter()
        self._system = system
        self._workers = workers
        self._plan = plan
        self._back_at: dict[str, float] = {}  # when what was killed is started again, by id
        self._undos: list[tuple[float, int, Undo]] = []  # a heap
        self._numbers = count()
        self._calm = threading.Event()
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(1, "chaos")
        self._future: Future[None] | None = None

    def __enter__(self) -> "Chaos":
        """Begin."""
        self._future = self._pool.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        """End, and undo every fault."""
        self._over.set()
        self._pool.shutdown()

    def calm(self) -> None:
        """Undo every fault, and begin no other; what ends is still restarted."""
        self._calm.set()

    def check(self) -> None:
        """Raise the error that ended it, if there was one."""
        if self._future and self._future.done():
            self._future.result()

    def _run(self) -> None:
        disruption = next(self._plan, None)
        begin_at = time.monotonic() + (disruption.wait if disruption else 0)
        try:
            while not self._over.wait(TICK):
                self._undo(until=time.monotonic())
                self._supervise()
                if self._calm.is_set():
                    self._undo(until=float("inf"))
                elif disruption and time.monotonic() >= begin_at:
                    self._begin(disruption)
                    disruption = next(self._plan, None)
                    begin_at = time.monotonic() + (disruption.wait if disruption else 0)
        finally:
            self._undo(until=float("inf"))

    def _undo(self, until: float) -> None:
        while self._undos and self._undos[0][0] <= until:
            heapq.heappop(self._undos)[2]()

    def _supervise(self) -> None:
        parts = [self._system.broker, self._system.ingest, *self._workers]
        for part in [*parts, self._system.beat] if self._system.beat else parts:
            if part.status != "exited" or time.monotonic() < self._back_at.get(part.id, 0):
                continue
            if self._back_at.pop(part.id, None) is None:
                self.ended_by_themselves[part.name] += 1
            part.teardown()  # what a dead main process left
            part.start()

    def _begin(self, disruption: Disruption) -> None:
        kind, _, seconds, draw = disruption
        if undo := self._break(kind, seconds, draw):
            self.done[kind] += 1
            heapq.heappush(self._undos, (time.monotonic() + seconds, next(self._numbers), undo))

    def _break(self, kind: str, seconds: float, draw: int) -> Undo | None:
        """Do it and return what undoes it; None if it has no target now."""
        system = self._system
        if kind in _BEHAVIOURS:
            sink = _among(SINKS, draw)
            system.sinks.behave(sink, **_BEHAVIOURS[kind])
            return partial(system.sinks.behave, sink)
        if kind in _ACTIONS:
            system.dynamodb.on_every_call(**_ACTIONS[kind])
            return system.dynamodb.on_every_call
        named = {
            "ingest": system.ingest,
            "redis": system.broker,
            "redis frozen": system.broker,
            "beat": system.beat,
        }
        part = named.get(kind, _among(self._workers, draw))
        if part is None or part.status != "running":
            return None
        return self._strike(part, kind, seconds, draw // len(self._workers))

    def _strike(self, part: ProcessContainer, kind: str, seconds: float, draw: int) -> Undo:
        match kind:
            case "pool process":
                if children := part.children():
                    with suppress(psutil.NoSuchProcess):
                        _among(children, draw).kill()
                return do_nothing
            case "redis frozen" | "worker frozen":
                part.pause()
                return partial(_if_still, part, part.pid, part.unpause)
            case "worker, by SIGTERM":
                self._back_at[part.id] = 0
                part.kill("SIGTERM")
                return partial(_if_still, part, part.pid, part.kill)
            case "worker's main process":
                part.kill_main()
            case _:
                part.kill()
        self._back_at[part.id] = time.monotonic() + seconds
        return do_nothing  # the supervisor starts it again


def _among(candidates: Sequence[Any], draw: int) -> Any:
    return candidates[draw % len(candidates)]


def _if_still(part: ProcessContainer, pid: int, undo: Undo) -> None:
    """Undo a fault of a part, unless it was killed meanwhile."""
    if part.pid == pid and part.status == "running":
        with suppress(ProcessLookupError):
            undo()
