"""``process_event``: parse, validate, claim; then fan out."""

import logging
from typing import Any

from celery import Task

from tasks import routing
from tasks.celery import app
from tasks.claims import Acquired, Claim, Claims, Conflict, Duplicate, audit
from tasks.claims.intake import given_up_claim, read_event
from tasks.clock import now, to_rfc3339
from tasks.counters import COUNTERS
from tasks.errors import InvalidEventError
from tasks.events import InteractionEvent
from tasks.recovery.redeliveries import exceeds_max_receives
from tasks.recovery.takeover import go_on
from tasks.runtime import claims, rules
from tasks.settings import settings

_log = logging.getLogger(__name__)


@app.task(
    name=routing.PROCESS,
    bind=True,
    # Whatever goes wrong before the claim, the event must not be lost: ingest returned 202.
    autoretry_for=(Exception,),
    dont_autoretry_for=(InvalidEventError,),
    max_retries=None,
    retry_backoff=1,
    retry_backoff_max=60,
)
def process_event(
    self: Task[Any, Any], key: str, envelope: Any, received_at: str | None = None
) -> dict[str, str]:
    """Claim one event and start its deliveries; return what became of it.

    ``received_at`` is when ingest accepted it, RFC 3339.
    """
    answer = _process(self, key, envelope, received_at or to_rfc3339(now()))
    COUNTERS.add("processed", answer=answer)
    return {"answer": answer}


def _process(task: Task[Any, Any], key: str, envelope: Any, received_at: str) -> str:
    if exceeds_max_receives(task, claims(), settings().max_dispatches):
        if claims().get(key):
            return "duplicate"  # it was claimed before its worker died; a sweep takes it over
        return claim_event(claims(), given_up_claim(key, envelope, received_at), None)
    source = envelope.get("source") if isinstance(envelope, dict) else None
    if isinstance(source, str) and source != settings().event_source:
        return "ignored"
    new, event = read_event(rules(), key, envelope, received_at, holder=str(task.request.id))
    return claim_event(claims(), new, event)


def claim_event(claims: Claims, new: Claim, event: InteractionEvent | None) -> str:
    """Claim an event, and go on with it if the claim is acquired and the event a valid one."""
    match claims.claim(new):
        case Acquired(claim) if event:
            go_on(claims, claim, event)
            return "claimed"
        case Acquired(claim):
            audit.log_records(claim.audit)
            COUNTERS.add("settled", status=claim.status.value)
            COUNTERS.lag(claim.audit[0]["lagMs"])
            return "invalid"
        case Duplicate():
            return "duplicate"
        case Conflict(claim):
            _log.error(
                "event %s came with another payload: refused (sha256 %s, claimed with %s)",
                new.id,
                new.payload_sha256,
                claim.payload_sha256,
            )
            return "conflict"
