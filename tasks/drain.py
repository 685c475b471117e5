"""``drain``: once a sink has recovered, deliver what was parked, oldest first, ever faster."""

from typing import Any

from celery import Task
from redis import Redis

from tasks import routing
from tasks.celery import app
from tasks.claims import Claims
from tasks.delivery.circuit_breaker import Breaker, BreakerStatus, State
from tasks.recovery.takeover import take_over
from tasks.runtime import breaker_of, claims, redis
from tasks.settings import settings

#: Seconds between two steps of a drain.
STEP_SECONDS = 1.0

#: Seconds in which the pace of a drain doubles.
PACE_DOUBLING_SECONDS = 5.0


@app.task(name=routing.DRAIN, bind=True, send_events=False)  # else a line in Flower every second
def drain(self: Task[Any, Any], sink: str) -> dict[str, int]:
    """Take one step for ``sink``, and publish the next as long as there is more; beat starts it.

    However many are started, there is one step a second.
    """
    if not redis().set(f"drain.{sink}", str(self.request.id), nx=True, px=int(STEP_SECONDS * 900)):
        return {"drained": 0}
    taken, more = step(claims(), redis(), breaker_of(sink), sink, str(self.request.id))
    if more:
        self.apply_async((sink,), countdown=STEP_SECONDS)
    return {"drained": taken}


def step(
    claims: Claims, redis: Redis, breaker: Breaker, sink: str, holder: str
) -> tuple[int, bool]:
    """Dispatch as many parked events as the sink should get in a second.

    New events go first: what waits in the sink's queue counts as part of that second. Returns how
    many were dispatched, and whether there is more that the sink can take.
    """
    status = breaker.status()
    room = pace(status, settings().sweep_rate) - int(redis.llen(routing.delivery_task(sink)))
    taken = 0
    for due in claims.parked(sink):
        if taken >= room:
            return taken, status.state is State.CLOSED
        taken += take_over(claims, due, holder)
    return taken, False


def pace(status: BreakerStatus, ceiling: int) -> int:
    """Events a second that a sink should get of what was parked.

    0 while its breaker is open, 1 to probe it, then doubling up to ``ceiling``.
    """
    if status.state is State.OPEN:
        return 0
    if status.state is State.HALF_OPEN:
        return 1
    if status.closed_for is None:  # nothing is known of an outage
        return ceiling
    return int(min(ceiling, 2 ** min(status.closed_for / PACE_DOUBLING_SECONDS, 30)))
