"""``sweep``: take over what is overdue, and do what its holder did not live to do."""

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

from celery import Task
from redis import Redis

from tasks import stats
from tasks.celery import app
from tasks.claims import Claim, Claims, Due, claims
from tasks.clock import now, to_rfc3339
from tasks.dispatch import fan_out
from tasks.errors import ClaimNotFoundError, InvalidEventError, UnknownSchemaError
from tasks.metrics import counters
from tasks.outcomes import Outcome, Report, Status
from tasks.redis import client as redis
from tasks.settings import Settings, settings
from tasks.settle import settle_claim
from tasks.sinks import SINKS

#: Where the messages of a dispatched event may wait.
QUEUES = ("settle", *(sink.task_name for sink in SINKS.values()))

_log = logging.getLogger(__name__)


@app.task(name="sweep", bind=True, send_events=False)  # not a line in Flower every few seconds
def sweep(self: Task[Any, Any], key: str | None = None) -> dict[str, int]:
    """Take over every overdue claim, or that of ``key`` alone; beat runs it.

    Several may run at once: each claim goes to one of them.
    """
    holder = str(self.request.id)
    if key is None:
        taken = sweep_due(claims(), settings(), longest_wait(redis()), holder)
        stats.publish(redis(), stats.collect(claims(), redis()))
        return {"takenOver": taken}
    claim = claims().get(key)
    if claim is None:
        raise ClaimNotFoundError(f"no claim of {key}")
    due = Due(claim.due_at or 0, key, claim.version, claim.status, claim.dispatched_at)
    return {"takenOver": int(take_over(claims(), due, holder))}


def longest_wait(redis: Redis) -> int:
    """Tell how long the next message of the slowest queue has waited, in seconds."""
    return math.ceil(max(queue.wait for queue in stats.queues(redis, QUEUES).values()))


def sweep_due(claims: Claims, settings: Settings, longest_wait: int, holder: str) -> int:
    """Take over what is overdue, up to one interval's share; the next sweep goes on from there.

    Time that messages spend in queues is not for the holder to answer for: where they wait long
    (seconds), a lease ends as much later.
    """
    deadline = time.monotonic() + settings.sweep_interval
    share = settings.sweep_rate * settings.sweep_interval
    taken = prolonged = 0
    for due in claims.due():
        if taken + prolonged == share or time.monotonic() > deadline:
            _log.warning("took over %d claims; more are overdue, for the next sweep", taken)
            break
        moment = int(now().timestamp())
        # It is over; the setting may have been a shorter one then.
        lease_end = min(moment, due.dispatched_at + settings.claim_lease) + longest_wait
        if due.status is Status.PROCESSING and lease_end > moment:
            claims.prolong(due.key, due.version, until=lease_end)
            prolonged += 1
        else:
            taken += take_over(claims, due, holder)
    if prolonged:
        _log.warning("%d claims wait in queues past their lease: too few workers?", prolonged)
    return taken


def give_up(claims: Claims, claim: Claim, sinks: Sequence[str], reason: str) -> None:
    """Settle a claim as failed for these sinks."""
    at = to_rfc3339(now())
    reports = [
        Report(sink=sink, outcome=Outcome.FAILED, attempts=0, at=at, error=f"given up: {reason}")
        for sink in sinks
    ]
    status = settle_claim(claims, claim.id, claim.head, reports, claim.generation)
    _log.error("gave up %s for %s, %s: %s", claim.id, ", ".join(sinks), reason, status)


def take_over(claims: Claims, due: Due, holder: str) -> bool:
    """Take over one claim and fan out what it lacks.

    False if somebody else was faster, or if this release cannot read it: it stays due then.
    """
    settled = due.status is not Status.PROCESSING
    try:
        claim = claims.take_over(due.key, due.version, holder, settled=settled, parked=due.parked)
    except UnknownSchemaError as error:
        _log.error("left for workers of another release: %s", error)
        return False
    if claim is None:
        return False
    counters().add("takeovers", of="parked" if due.parked else "settled" if settled else "overdue")
    if claim.dispatches > settings().max_dispatches:
        reason = f"{claim.dispatches - 1} dispatches did not live to settle it"
        give_up(claims, claim, claim.to_deliver, reason)
        return True
    if gone := [sink for sink in claim.to_deliver if sink not in SINKS]:
        give_up(claims, claim, gone, "there is no such sink any more")
        return True  # what else it lacks is due again
    try:
        fan_out(claim)
    except InvalidEventError as error:
        # Valid when it was claimed, so by the code of another release. It stays due, and must
        # not keep the sweep from the claims behind it.
        _log.error("cannot read %s any more: %s", due.key, error)
        return False
    if not settled:
        _log.warning(
            "took over %s, overdue: generation %d, to deliver: %s",
            due.key,
            claim.generation,
            ", ".join(claim.to_deliver) or "nothing, only to settle",
        )
    return True
