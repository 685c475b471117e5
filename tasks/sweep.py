"""``sweep``: take over what is overdue, and do what its holder did not live to do."""

import logging
import time
from typing import Any

from celery import Task

from tasks.celery import app
from tasks.claims import Claim, Claims, claims
from tasks.clock import now, to_rfc3339
from tasks.dispatch import fan_out
from tasks.errors import ClaimNotFoundError, InvalidEventError, UnknownSchemaError
from tasks.outcomes import Outcome, Report
from tasks.settings import Settings, settings
from tasks.settle import settle_claim

_log = logging.getLogger(__name__)


@app.task(name="sweep", bind=True, send_events=False)  # not a line in Flower every few seconds
def sweep(self: Task[Any, Any], key: str | None = None) -> dict[str, int]:
    """Take over every overdue claim, or that of ``key`` alone; beat runs it.

    Several may run at once: each claim goes to one of them.
    """
    if key is not None:
        claim = claims().get(key)
        if claim is None:
            raise ClaimNotFoundError(f"no claim of {key}")
        return {"takenOver": int(take_over(claims(), key, claim.version, str(self.request.id)))}
    return {"takenOver": sweep_due(claims(), settings(), holder=str(self.request.id))}


def sweep_due(claims: Claims, settings: Settings, holder: str) -> int:
    """Take over what is overdue, up to one interval's share; the next sweep goes on from there."""
    deadline = time.monotonic() + settings.sweep_interval
    share = settings.sweep_rate * settings.sweep_interval
    taken = 0
    for due in claims.due():
        if taken == share or time.monotonic() > deadline:
            _log.warning("took over %d claims; more are overdue, for the next sweep", taken)
            break
        try:
            taken += take_over(claims, due.key, due.version, holder)
        except UnknownSchemaError as error:
            _log.error("left for workers of another release: %s", error)
    return taken


def give_up(claims: Claims, claim: Claim) -> None:
    """Settle a claim whose every dispatch died: what has no outcome yet is failed."""
    reports = [
        Report(
            sink=sink,
            outcome=Outcome.FAILED,
            attempts=0,
            at=to_rfc3339(now()),
            error=f"given up: {claim.dispatches - 1} dispatches did not live to settle it",
        )
        for sink in claim.undelivered
    ]
    status = settle_claim(claims, claim.id, claim.head, reports, claim.generation)
    _log.error("gave up %s after %d dispatches: %s", claim.id, claim.dispatches - 1, status)


def take_over(claims: Claims, key: str, version: int, holder: str) -> bool:
    """Take over one claim and fan out what it lacks; False if somebody else was faster."""
    claim = claims.take_over(key, version, holder)
    if claim is None:
        return False
    if claim.dispatches > settings().max_dispatches:
        give_up(claims, claim)
        return True
    try:
        fan_out(claim)
    except InvalidEventError as error:
        # Valid when it was claimed, so by the code of another release. It stays due, and must
        # not keep the sweep from the claims behind it.
        _log.error("cannot read %s any more: %s", key, error)
        return False
    _log.warning(
        "took over %s, overdue: generation %d, to deliver: %s",
        key,
        claim.generation,
        ", ".join(claim.undelivered) or "nothing, only to settle",
    )
    return True
