"""Counters of all processes, summed in Redis: what ``stats``, the dashboard and Prometheus show.

A process counts in its memory and adds that to Redis once a second, so counting costs an event
nothing; a process that is killed loses up to a second's counts. They are kept twice: in total, and
by minute for a day.

A counter is named as Prometheus names it, with its labels: ``settled{status="failed"}``.
"""

import bisect
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

#: Upper bounds of the lag histogram, in seconds; beyond the last, there is ``inf``.
LAG_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0, 86400.0)

#: Seconds between two writes to Redis.
FLUSH_INTERVAL = 1.0

#: Minutes whose counts are kept one by one.
MINUTES_KEPT = 24 * 60

_BOUNDS = (*LAG_BOUNDS, math.inf)

_TOTAL = "metrics.total"

_log = logging.getLogger(__name__)


def name_of(counter: str, **labels: str) -> str:
    """Name a counter with its labels."""
    inside = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{counter}{{{inside}}}" if inside else counter


def labels_of(name: str) -> tuple[str, dict[str, str]]:
    """Return the counter and the labels of a name that ``name_of`` made."""
    counter, _, inside = name.partition("{")
    pairs = (label.partition("=") for label in inside.rstrip("}").split(",") if label)
    return counter, {label: value.strip('"') for label, _, value in pairs}


def lag_bucket(seconds: float) -> str:
    """Name the counter of the histogram that a lag belongs to."""
    return _bucket(_BOUNDS[bisect.bisect_left(LAG_BOUNDS, seconds)])


class Counters:
    """The counts of this process that are not in Redis yet."""

    def __init__(self) -> None:
        """Count; nothing goes to Redis before ``connect``."""
        self._redis: Callable[[], Redis] | None = None
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def connect(self, redis: Callable[[], Redis]) -> None:
        """Send counts to the Redis that ``redis`` returns, from the next one on."""
        self._redis = redis

    def add(self, counter: str, amount: int = 1, **labels: str) -> None:
        """Add to a counter; never blocks, never fails."""
        with self._lock:
            self._counts[name_of(counter, **labels)] += amount
            if self._redis and self._thread is None:
                self._thread = threading.Thread(
                    target=self._flush_regularly, name="metrics", daemon=True
                )
                self._thread.start()

    def lag(self, milliseconds: int) -> None:
        """Count the time from an event's receipt to its final status."""
        self.add(lag_bucket(milliseconds / 1000))
        self.add("lag_milliseconds", milliseconds)

    def flush(self) -> None:
        """Send what there is to Redis now; where it does not answer, the next time."""
        if self._redis is None:
            return
        with self._lock:
            counts, self._counts = self._counts, Counter()
        if not counts:
            return
        minute = _minute_key(_this_minute())
        pipe = self._redis().pipeline(transaction=True)  # both or neither
        for name, amount in counts.items():
            pipe.hincrby(_TOTAL, name, amount)
            pipe.hincrby(minute, name, amount)
        pipe.expire(minute, (MINUTES_KEPT + 5) * 60)
        try:
            pipe.execute()
        except RedisError as error:
            _log.debug("counts wait for Redis: %s", type(error).__name__)
            with self._lock:
                self._counts.update(counts)

    def _flush_regularly(self) -> None:
        while True:
            time.sleep(FLUSH_INTERVAL)
            self.flush()


#: The counters of this process; ``tasks.runtime`` connects them.
COUNTERS = Counters()


def totals(redis: Redis) -> dict[str, int]:
    """Return every counter since the beginning."""
    return _read(redis.hgetall(_TOTAL))


def minutes(redis: Redis, last: int) -> list[dict[str, int]]:
    """Return the counters of each of the last minutes, oldest first; the last is incomplete."""
    now = _this_minute()
    pipe = redis.pipeline(transaction=False)
    for minute in range(now - last + 1, now + 1):
        pipe.hgetall(_minute_key(minute))
    return [_read(counts) for counts in pipe.execute()]


def added_up(series: Iterable[Mapping[str, int]]) -> Counter[str]:
    """Add the counters of several minutes up."""
    total: Counter[str] = Counter()
    for counts in series:
        total.update(counts)
    return total


def lag_percentile(counts: Mapping[str, int], share: float) -> float | None:
    """Return the upper bound, in seconds, of the bucket that holds this share of the events.

    None where nothing was counted.
    """
    buckets = lag_buckets(counts)
    wanted = share * buckets[-1][1]
    return (
        next((bound for bound, count in buckets if count >= wanted), math.inf) if wanted else None
    )


def lag_buckets(counts: Mapping[str, int]) -> list[tuple[float, int]]:
    """Return the upper bounds of the histogram, in seconds, and how many lags are within each."""
    within = accumulate(counts.get(_bucket(bound), 0) for bound in _BOUNDS)
    return list(zip(_BOUNDS, within, strict=True))


def _bucket(bound: float) -> str:
    return name_of("lag", le=f"{bound:g}")


def _this_minute() -> int:
    return int(time.time() // 60)


def _minute_key(minute: int) -> str:
    return f"metrics.{minute}"


def _read(counts: Mapping[Any, Any]) -> dict[str, int]:
    return {str(name): int(count) for name, count in counts.items()}
