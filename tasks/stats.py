"""How the whole stands: queues, claims, sinks, lag and throughput; all of it as JSON.

``collect`` looks everywhere. Every sweep does, and leaves what it saw in Redis, so that those who
look often (the dashboard, Prometheus) need not.
"""

import json
import logging
from typing import Any

from redis import Redis

from tasks import metrics
from tasks.bound import settled_within
from tasks.celery import app
from tasks.claims import Claims
from tasks.clock import now, to_rfc3339
from tasks.deliver import breaker_of
from tasks.settings import settings
from tasks.sinks import SINKS

#: Where the last sweep left what it saw.
_KEY = "stats"

_log = logging.getLogger("backlog")

_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def collect(claims: Claims, redis: Redis) -> dict[str, Any]:
    """Look everywhere; counts the whole index of what is due."""
    epoch = int(now().timestamp())
    due, processing = claims.count_due()
    overdue = [entry.at for entry in claims.due()]
    return {
        "at": to_rfc3339(now()),
        "backlog": {q.name: int(redis.llen(q.name)) for q in app.conf.task_queues},
        "due": due,
        "processing": processing,
        "overdue": len(overdue),
        "oldestOverdueSeconds": epoch - min(overdue, default=epoch),
        "sinks": {name: _sink(name, claims.count_parked(name)) for name in SINKS},
        **recent(redis),
        "settledWithinSeconds": settled_within(settings()),
    }


def recent(redis: Redis) -> dict[str, Any]:
    """Return lag and throughput of the last hour; a percentile is the bound of a bucket."""
    series = metrics.minutes(redis, 60)
    hour = metrics.added_up(series)
    last = metrics.added_up(series[-2:-1])  # the last minute that is over
    return {
        "lagSeconds": {name: metrics.lag_percentile(hour, of) for name, of in _SHARES.items()},
        "throughput": {"lastMinute": _settled(last), "lastHour": _settled(hour)},
    }


def _settled(counts: dict[str, int]) -> int:
    """Events that reached their first final status."""
    return sum(count for name, count in counts.items() if name.startswith("lag{"))


def _sink(name: str, parked: int) -> dict[str, Any]:
    look = breaker_of(name).look()
    return {
        "state": look.state.value,
        "parked": parked,
        "failures": look.failures,
        "opened": look.opened,
        "probeInSeconds": look.probe_in,
    }


def publish(redis: Redis, collected: dict[str, Any]) -> None:
    """Leave what was seen for those who look often, and log the backlog, which workers scale by.

    A queue's dot becomes an underscore there: CloudWatch would take it for a path.
    """
    redis.set(_KEY, json.dumps(collected))
    backlog = {queue.replace(".", "_"): count for queue, count in collected["backlog"].items()}
    _log.info(json.dumps({"at": collected["at"], "backlog": backlog}))


def published(redis: Redis) -> dict[str, Any] | None:
    """Return what the last sweep saw; ``at`` tells when. None before the first."""
    text = redis.get(_KEY)
    seen: dict[str, Any] | None = json.loads(text) if text else None
    return seen
