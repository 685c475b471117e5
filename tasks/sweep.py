"""``sweep``: take over what is overdue, and finish what its holder did not."""

import logging
import math
import time
from typing import Any

from celery import Task
from redis import Redis

from tasks import routing
from tasks.celery import app
from tasks.claims import Claims, Due, Status
from tasks.claims.queries import get_or_raise
from tasks.clock import epoch
from tasks.observability import stats
from tasks.recovery.takeover import take_over
from tasks.runtime import claims, redis
from tasks.settings import Settings, settings
from tasks.sinks import SINKS

#: Where the messages of a dispatched event may wait.
_QUEUES = (routing.SETTLE_QUEUE, *map(routing.delivery_task, SINKS))

_log = logging.getLogger(__name__)


@app.task(name=routing.SWEEP, bind=True, send_events=False)  # else a line in Flower every second
def sweep(self: Task[Any, Any], key: str | None = None) -> dict[str, int]:
    """Take over every overdue claim, or that of ``key`` alone; beat runs it.

    Several may run at once: each claim goes to one of them.
    """
    holder = str(self.request.id)
    if key is None:
        taken = sweep_due(claims(), settings(), longest_wait(redis()), holder)
        stats.publish(redis(), stats.collect(claims(), redis()))
        return {"takenOver": taken}
    claim = get_or_raise(claims(), key)
    due = Due(claim.due_at or 0, key, claim.version, claim.status, claim.dispatched_at)
    return {"takenOver": int(take_over(claims(), due, holder))}


def longest_wait(redis: Redis) -> int:
    """Return how long the next message of the slowest queue has waited, in seconds."""
    return math.ceil(max(queue.wait for queue in stats.queues(redis, _QUEUES).values()))


def sweep_due(claims: Claims, settings: Settings, longest_wait: int, holder: str) -> int:
    """Take over what is overdue, up to one interval's share; the next sweep goes on from there.

    A lease does not count the time that messages wait in queues: where the next message has waited
    for ``longest_wait`` seconds, leases end that much later.
    """
    deadline = time.monotonic() + settings.sweep_interval
    share = settings.sweep_rate * settings.sweep_interval
    taken = extended = 0
    for due in claims.due():
        if taken + extended == share or time.monotonic() > deadline:
            _log.warning("took over %d claims; more are overdue, for the next sweep", taken)
            break
        moment = epoch()
        # Its own lease has ended; the setting may have been shorter when it began.
        lease_end = min(moment, due.dispatched_at + settings.claim_lease) + longest_wait
        if due.status is Status.PROCESSING and lease_end > moment:
            claims.extend_lease(due.key, due.version, until=lease_end)
            extended += 1
        else:
            taken += take_over(claims, due, holder)
    if extended:
        _log.warning("%d claims wait in queues past their lease: too few workers?", extended)
    return taken
