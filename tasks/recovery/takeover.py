"""The one way on for a claim whose lease was acquired: by a sweep, a drain or a redrive."""

import logging

from tasks.claims import Claim, Claims, Due, Outcome, Report, Status
from tasks.claims.settlement import settle_claim
from tasks.clock import now, to_rfc3339
from tasks.counters import COUNTERS
from tasks.dispatch import fan_out
from tasks.errors import InvalidEventError, UnknownSchemaError
from tasks.events import InteractionEvent
from tasks.recovery.decision import GiveUp, Resume, next_step
from tasks.settings import settings
from tasks.sinks import SINKS

_log = logging.getLogger(__name__)


def take_over(claims: Claims, due: Due, holder: str) -> bool:
    """Acquire the lease of one claim that is due or parked, and go on with it.

    False if another was faster, or if this release cannot read it: it stays due then.
    """
    settled = due.status is not Status.PROCESSING
    try:
        claim = claims.take_over(due.key, due.version, holder, settled=settled, parked=due.parked)
    except UnknownSchemaError as error:
        _log.error("left for workers of another release: %s", error)
        return False
    if claim is None:
        return False
    COUNTERS.add("takeovers", of="parked" if due.parked else "settled" if settled else "overdue")
    if not settled:
        _log.warning(
            "took over %s, overdue: generation %d, to deliver: %s",
            claim.id,
            claim.generation,
            ", ".join(claim.to_deliver) or "nothing, only to settle",
        )
    try:
        go_on(claims, claim)
    except InvalidEventError as error:
        # Valid when it was claimed, so by the code of another release. It stays due, and must not
        # keep the sweep from the claims behind it.
        _log.error("cannot read %s any more: %s", due.key, error)
        return False
    return True


def go_on(claims: Claims, claim: Claim, event: InteractionEvent | None = None) -> None:
    """Do what a claim needs next, whose lease the caller holds.

    Raises:
        InvalidEventError: no ``event`` is given, and the claim's is not valid in this release.
    """
    match next_step(claim, SINKS, settings().max_dispatches):
        case Resume():
            fan_out(claim, event)
        case GiveUp() as step:
            _give_up(claims, claim, step)


def _give_up(claims: Claims, claim: Claim, step: GiveUp) -> None:
    at, error = to_rfc3339(now()), f"given up: {step.reason}"
    reports = [
        Report(sink=sink, outcome=Outcome.FAILED, attempts=0, at=at, error=error)
        for sink in step.sinks
    ]
    status = settle_claim(claims, claim.id, claim.snapshot, reports, claim.generation)
    _log.error("gave up %s for %s, %s: %s", claim.id, ", ".join(step.sinks), step.reason, status)
