"""How a delivery task ended, as the report that ``settle`` gets."""

from typing import Any

from celery import states

from tasks.claims import Call, Outcome, Report
from tasks.claims.outcomes import calls_from_plain, newest
from tasks.clock import now, to_rfc3339
from tasks.errors import ContextMissingError, DeliveryError, ParkedError, TransientDeliveryError
from tasks.routing import sink_of_task

#: The header of a delivery's message that lists the calls it has made.
_CALLS_HEADER = "calls"


def note_call(request: Any, call: Call) -> None:
    """Add a call to the headers of a running task, for its next attempt and its report."""
    calls = newest([*calls_of(request), call])
    request.headers = {**(request.headers or {}), _CALLS_HEADER: calls}


def calls_of(request: Any) -> tuple[Call, ...]:
    """Return the calls that a delivery task has made, on this and earlier attempts."""
    return calls_from_plain((request.headers or {}).get(_CALLS_HEADER, ()))


def delivered(request: Any, *, attempts: int, note: str | None = None) -> dict[str, Any]:
    """Return the report of a successful delivery, as the task's result."""
    return Report(
        sink=sink_of_task(str(request.task)),
        outcome=Outcome.DELIVERED,
        attempts=attempts,
        at=to_rfc3339(now()),
        note=note,
        calls=calls_of(request),
    ).to_json()


def report_of(request: Any, state: str, result: Any) -> Report:
    """Return the report of a delivery task, from the state and result that Celery has."""
    if state == states.SUCCESS:
        return Report.from_json(result)
    failed, revoked = state == states.FAILURE, state == states.REVOKED
    called = failed and not isinstance(result, ParkedError | ContextMissingError)
    if revoked:
        outcome, reason = Outcome.REVOKED, "revoked by an operator"
    else:
        outcome = Outcome.PARKED if isinstance(result, ParkedError) else Outcome.FAILED
        reason = _reason(result)
    return Report(
        sink=sink_of_task(str(request.task)),
        outcome=outcome,
        attempts=int(request.retries or 0) + called,
        at=to_rfc3339(now()),
        error=reason,
        transient=failed and _is_transient(result),
        response=getattr(result, "response", None),
        calls=calls_of(request),
    )


def _is_transient(error: Any) -> bool:
    """Whether a delayed retry may succeed: after any error except a sink's refusal.

    Other errors are not about the event: DynamoDB or Redis was unavailable, a time limit passed,
    or this code has a bug that the next release fixes.
    """
    refused = isinstance(error, DeliveryError)
    return not refused or isinstance(error, ParkedError | TransientDeliveryError)


def _reason(error: Any) -> str:
    # Only the messages of this project's errors are known to contain nothing of the event.
    return str(error) if isinstance(error, DeliveryError) else type(error).__name__
