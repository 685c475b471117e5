"""``drain``: once a sink has recovered, deliver what was parked, oldest first, ever faster."""

from typing import Any

from celery import Task
from redis import Redis

from tasks.breaker import Breaker, Look, State
from tasks.celery import app
from tasks.claims import Claims, claims
from tasks.deliver import breaker_of
from tasks.redis import client as redis
from tasks.settings import settings
from tasks.sinks import SINKS
from tasks.sweep import take_over

#: Seconds between two steps of a drain.
STEP = 1.0

#: Seconds in which the pace of a drain doubles.
DOUBLING = 5.0


@app.task(name="drain", bind=True, send_events=False)  # not a line in Flower every second
def drain(self: Task[Any, Any], sink: str) -> dict[str, int]:
    """Take one step for ``sink``, and come back as long as there is more; beat begins it.

    However many begin it, there is one step a second.
    """
    if not redis().set(f"drain.{sink}", str(self.request.id), nx=True, px=int(STEP * 900)):
        return {"drained": 0}
    taken, more = step(claims(), redis(), breaker_of(sink), sink, str(self.request.id))
    if more:
        self.apply_async((sink,), countdown=STEP)
    return {"drained": taken}


def step(
    claims: Claims, redis: Redis, breaker: Breaker, sink: str, holder: str
) -> tuple[int, bool]:
    """Dispatch as many parked events as the sink should take in a second.

    Fresh events go first: what waits for the sink already counts as part of that second. Returns
    how many were dispatched, and whether there is more that the sink is well enough for.
    """
    look = breaker.look()
    room = pace(look, settings().sweep_rate) - int(redis.llen(SINKS[sink].task_name))
    taken = 0
    for due in claims.parked(sink):
        if taken >= room:
            return taken, look.state is State.CLOSED
        taken += take_over(claims, due, holder)
    return taken, False


def pace(look: Look, ceiling: int) -> int:
    """Events a second that a sink should get of what was parked.

    None while its breaker is open, one to probe it, then doubling up to ``ceiling``.
    """
    if look.state is State.OPEN:
        return 0
    if look.state is State.HALF_OPEN:
        return 1
    if look.closed_for is None:  # nothing is known of an outage
        return ceiling
    return int(min(ceiling, 2 ** min(look.closed_for / DOUBLING, 30)))
