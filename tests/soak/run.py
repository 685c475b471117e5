"""One soak, from its first event to its verdict."""

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from redis.exceptions import RedisError

from tasks.settings import load
from tasks.settings.settlement_bound import worst_case_settlement_seconds
from tasks.sweep import longest_wait
from tests.support.nodes import running
from tests.support.short_settings import for_every_sink
from tests.support.system import System

from .chaos import FAULTS, KILLS, Chaos, Disruption, plan
from .ledger import Ledger
from .load import Load, events
from .verdict import MAX_TIMESTAMP, Verdict, rest

#: Short waits, so that a recovery takes seconds. They satisfy ``tasks/settings/checks.py``.
SETTINGS = {
    "CLAIM_LEASE_SECONDS": "10",
    "SWEEP_INTERVAL_SECONDS": "5",
    "VISIBILITY_TIMEOUT_SECONDS": "6",
    "REDRIVE_SCHEDULE_SECONDS": "2,4",
    "INGEST_MAX_BACKLOG": "100",  # a machine that cannot keep up slows the load down
    **for_every_sink(
        MAX_TRIES="2",
        BACKOFF_CAP_SECONDS="1",
        RETRY_AFTER_CAP_SECONDS="1",
        CONNECT_TIMEOUT_SECONDS="1",
        READ_TIMEOUT_SECONDS="2",
        BREAKER_FAILURES="5",
        BREAKER_SECONDS="2",
    ),
}

#: Processes of each worker's pool. There are two workers, each of which takes from every queue.
CONCURRENCY = ("--concurrency", "4")

#: Queues that an event waits in, one after the other: of events, of its sinks, of settle.
STAGES = 3

#: Seconds between two lines of progress.
TICK = 5.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much load, and how many disruptions: one every ``pause`` seconds on average."""

    seed: int
    events: int | None
    rate: float
    seconds: float = float("inf")
    pause: float = 6.0


class Soak:
    """A system that is started, its sinks' ledger, and the options of a run."""

    def __init__(
        self,
        system: System,
        ledger: Ledger,
        options: Options,
        write: Callable[[str], object] = print,
    ) -> None:
        """Describe it; ``run`` does it. ``write`` gets each line of progress."""
        rng = random.Random(options.seed)
        self.options = options
        self.system = system
        self.ledger = ledger
        self.bound = worst_case_settlement_seconds(load(system.settings))
        self.queued = 0  # the longest that the next message of a queue was seen to have waited
        self.verdict = Verdict()
        self._write = write
        self._events = events(random.Random(rng.getrandbits(64)), options.events)
        self._plan = plan(random.Random(rng.getrandbits(64)), options.pause)

    def run(
        self, disruptions: Iterator[Disruption] | None = None, timeout: float | None = None
    ) -> bool:
        """Do it; return whether nothing was lost and nothing stuck.

        ``disruptions`` replace the random ones. ``timeout`` (in seconds, for what is not settled
        when the load has ended and every fault is undone) replaces the documented bound.
        """
        system, options = self.system, self.options
        with ExitStack() as stack:
            other = system.make_worker("other", *CONCURRENCY)
            stack.enter_context(running(other))
            self.chaos = Chaos(system, [system.worker, other], disruptions or self._plan)
            stack.enter_context(self.chaos)
            self.load = Load(system.ingest, self._events, options.rate, options.seconds)
            begun = time.monotonic()
            with self.load:
                while not self.load.is_over():
                    self._wait_until_over(TICK)
                    self._progress(time.monotonic() - begun)
            self.seconds = time.monotonic() - begun
            self.chaos.calm()
            self.verdict = rest(
                system.claims,
                self.load.accepted,
                self.ledger,
                self.bound if timeout is None else timeout,
                self._report_rest,
            )
            self.chaos.check()
        return self.holds

    @property
    def holds(self) -> bool:
        """Whether nothing was lost and nothing stuck, and all of it in time.

        Time in the queues comes on top of the bound (docs/reliability.md).
        """
        in_time = self.verdict.percentile(1) <= self.bound + STAGES * self.queued
        return in_time and not self.verdict.problems and not self.load.refused

    def _wait_until_over(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.load.is_over():
            self.chaos.check()
            time.sleep(0.1)

    def _progress(self, seconds: float) -> None:
        self.system.dynamodb.forget()
        accepted = len(self.load.accepted)
        left = [entry.at for entry in self.system.claims.due(until=MAX_TIMESTAMP)]
        overdue = sum(at < time.time() for at in left)
        kills, faults = self._count(KILLS), self._count(FAULTS)
        self._write(
            f"{seconds:5.0f} s  accepted {accepted} ({accepted / seconds:.1f}/s)"
            f"  settled {accepted - len(left) - self._measure_queues()}  overdue {overdue}"
            f"  kills {kills.total()}  faults {faults.total()}"
        )

    def _measure_queues(self) -> int:
        """Count the events that wait to be claimed; record how long messages wait."""
        redis = self.system.broker.client
        try:
            self.queued = max(self.queued, longest_wait(redis))
            return int(redis.llen("events"))
        except RedisError:
            return 0

    def _report_rest(self, left: int) -> None:
        self._write(f"at rest: {len(self.load.accepted) - left} checked, {left} not completed yet")

    def _count(self, kinds: Collection[str]) -> Counter[str]:
        return Counter({kind: n for kind, n in self.chaos.done.items() if kind in kinds})

    def report(self) -> Iterator[str]:
        """The numbers, and what is wrong, one line each."""
        verdict, calls = self.verdict, self.ledger.totals()
        accepted = len(self.load.accepted)
        yield (
            f"events    {accepted} accepted in {self.seconds:.0f} s"
            f" ({accepted / self.seconds:.1f}/s); posted again: {_listed(self.load.posted_again)}"
        )
        yield f"kills     {_listed(self._count(KILLS))}"
        yield f"faults    {_listed(self._count(FAULTS))}"
        yield f"restarts  of what ended by itself: {_listed(self.chaos.ended_by_themselves)}"
        yield f"calls     {calls['taken']} taken by sinks, {calls['repeated']} of them repeated"
        yield (
            f"settled   p50 {verdict.percentile(0.5):.1f} s, p99 {verdict.percentile(0.99):.1f} s,"
            f" worst {verdict.percentile(1):.1f} s; the bound is {self.bound} s,"
            f" the longest wait in a queue was {self.queued} s;"
            f" {verdict.completed_later} completed by a redrive"
        )
        for key, status in self.load.refused.items():
            yield f"✗ {key}: refused with {status}"
        for key, problems in sorted(verdict.problems.items()):
            yield f"✗ {key}: {'; '.join(problems)}"
        if self.holds:
            yield "✓ nothing lost, nothing stuck"


def _listed(counts: Counter[str]) -> str:
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
    return f"{counts.total()} ({kinds})" if kinds else "0"
