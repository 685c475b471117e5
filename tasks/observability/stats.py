"""A snapshot of the whole system as JSON: queues, claims, sinks, lag and throughput.

``collect`` reads everything. Every sweep calls it and stores the result in Redis, so that frequent
readers (the dashboard, Prometheus) need not: they call ``latest``.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from redis import Redis

from tasks import counters, routing
from tasks.claims import Claims
from tasks.clock import epoch, now, to_rfc3339
from tasks.delivery import circuit_breaker
from tasks.settings import settings
from tasks.settings.settlement_bound import worst_case_settlement_seconds
from tasks.sinks import SINKS

#: The Redis key of the last sweep's snapshot.
_KEY = "stats"

_log = logging.getLogger("backlog")

_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def collect(claims: Claims, redis: Redis) -> dict[str, Any]:
    """Read everything; counts the whole index of what is due."""
    moment = epoch()
    due, processing = claims.count_due()
    overdue = [entry.at for entry in claims.due()]
    return {
        "at": to_rfc3339(now()),
        "due": due,
        "processing": processing,
        "overdue": len(overdue),
        "oldestOverdueSeconds": moment - min(overdue, default=moment),
        **present(redis, {name: claims.count_parked(name) for name in SINKS}),
        "sweepIntervalSeconds": settings().sweep_interval,
        "settledWithinSeconds": worst_case_settlement_seconds(settings()),
    }


def latest(redis: Redis) -> dict[str, Any]:
    """Return the last sweep's snapshot, with the present values of what is in Redis.

    Before the first sweep, what only DynamoDB knows is None.
    """
    unknown = dict.fromkeys(("at", "due", "processing", "overdue", "oldestOverdueSeconds"))
    snapshot = published(redis) or {**unknown, "sinks": {}}
    parked = {name: sink["parked"] for name, sink in snapshot["sinks"].items()}
    return {
        "sweepIntervalSeconds": settings().sweep_interval,
        "settledWithinSeconds": worst_case_settlement_seconds(settings()),
        **snapshot,
        **present(redis, parked),
    }


def present(redis: Redis, parked: Mapping[str, int]) -> dict[str, Any]:
    """Return what can be read from Redis; ``parked`` is how many events wait for each sink."""
    waiting = queues(redis, routing.queues(SINKS))
    return {
        "backlog": {name: queue.length for name, queue in waiting.items()},
        "waitSeconds": {name: round(queue.wait, 3) for name, queue in waiting.items()},
        "sinks": {name: _sink(redis, name, parked.get(name)) for name in SINKS},
        **recent(redis),
    }


class Queue(NamedTuple):
    """How many messages wait in a queue, and for how many seconds the next one has waited."""

    length: int
    wait: float


def queues(redis: Redis, names: Iterable[str]) -> dict[str, Queue]:
    """Read the queues with these names."""
    names = list(names)
    pipe = redis.pipeline(transaction=False)
    for name in names:
        pipe.llen(name)
        pipe.lindex(name, -1)
    answers = iter(pipe.execute())
    moment = now().timestamp()
    return {
        name: Queue(length, max(0.0, moment - (_published_at(text) or moment)))
        for name, length, text in zip(names, answers, answers, strict=True)
    }


def _published_at(text: str | None) -> float | None:
    try:
        return float(json.loads(text or "")["headers"]["published_at"])
    except (ValueError, KeyError, TypeError):  # no message, or one of another program
        return None


def recent(redis: Redis) -> dict[str, Any]:
    """Return lag and throughput of the last hour; a percentile is the bound of a bucket."""
    series = counters.minutes(redis, 60)
    hour = counters.added_up(series)
    last = counters.added_up(series[-2:-1])  # the last whole minute
    return {
        "lagSeconds": {name: counters.lag_percentile(hour, of) for name, of in _SHARES.items()},
        "throughput": {"lastMinute": settled(last), "lastHour": settled(hour)},
    }


def settled(counts: Mapping[str, int]) -> int:
    """Events that reached their first final status."""
    return counters.lag_buckets(counts)[-1][1]


def _sink(redis: Redis, name: str, parked: int | None) -> dict[str, Any]:
    breaker = circuit_breaker.status_of(redis, name)
    return {
        "state": breaker.state.value,
        "parked": parked,
        "failures": breaker.failures,
        "opened": breaker.opened,
        "probeInSeconds": breaker.probe_in,
    }


def publish(redis: Redis, collected: dict[str, Any]) -> None:
    """Store a snapshot for frequent readers, and log the backlog, which workers scale by.

    A queue's dot becomes an underscore there: CloudWatch would take it for a path.
    """
    redis.set(_KEY, json.dumps(collected))
    backlog = {queue.replace(".", "_"): count for queue, count in collected["backlog"].items()}
    _log.info(json.dumps({"at": collected["at"], "backlog": backlog}))


def published(redis: Redis) -> dict[str, Any] | None:
    """Return the last sweep's snapshot, taken ``at``; None before the first."""
    text = redis.get(_KEY)
    snapshot: dict[str, Any] | None = json.loads(text) if text else None
    return snapshot
