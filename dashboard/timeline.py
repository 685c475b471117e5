"""One event's life in the order in which it happened, from its claim. Pure.

The claim keeps how each delivery stands, its newest calls, and an audit record for every time the
event settled: what a record says that the one before it did not is what happened in between.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from tasks.claims import AuditRecord, Claim, Delivery, Outcome, Status
from tasks.claims.outcomes import waiting
from tasks.clock import from_rfc3339, to_rfc3339

#: How something looks: well done, wrong, not over, or neither.
Tone = Literal["good", "bad", "wait", "plain"]

TONES: Mapping[str, Tone] = {
    Outcome.DELIVERED: "good",
    Outcome.FAILED: "bad",
    Outcome.REVOKED: "bad",
    Outcome.PARKED: "wait",
    Outcome.PENDING: "wait",
    Status.COMPLETED: "good",
    Status.PARTIAL_FAILURE: "bad",
    # Status.FAILED is written as Outcome.FAILED is
    Status.PROCESSING: "wait",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something that happened, or is to happen; ``at`` is RFC 3339."""

    at: str | None
    what: str
    tone: Tone = "plain"
    details: tuple[str, ...] = ()


def timeline(claim: Claim) -> list[Entry]:
    """Tell an event's life, oldest first, and what comes next."""
    calls = deque(_calls(claim.deliveries))
    return [*_beginning(claim), *_settled(claim.audit, calls), *calls, *_next(claim)]


def _beginning(claim: Claim) -> Iterator[Entry]:
    if claim.event_time and _is_time(claim.event_time):
        yield Entry(at=claim.event_time, what="happened, as its source says")
    kind = claim.event_type or "an event that is not valid"
    sinks = ", ".join(sorted(claim.deliveries))
    details = (f"for {sinks}",) if sinks else ()
    yield Entry(at=claim.received_at, what=f"received: {kind}", details=details)


def _calls(deliveries: Mapping[str, Delivery]) -> list[Entry]:
    """Tell of each call that is remembered, oldest first."""
    made = sorted((call, sink) for sink, delivery in deliveries.items() for call in delivery.calls)
    return [
        Entry(
            at=call.begun,
            what=f"{sink}: {call}",
            tone="bad" if call.error else "good",
        )
        for call, sink in made
    ]


def _settled(records: Sequence[AuditRecord], calls: deque[Entry]) -> Iterator[Entry]:
    """Tell of each time it settled, after the calls that led to it, which are taken out."""
    before: Mapping[str, Mapping[str, Any]] = {}
    for record in records:
        results = {result["service"]: result for result in record["downstreamResults"]}
        if actor := record.get("actor"):
            yield Entry(at=None, what=f"sent again, as {actor} asked")
        elif before:
            yield Entry(at=None, what="tried again by itself")
        while calls and (calls[0].at or "") <= record["processedAt"]:
            yield calls.popleft()
        yield Entry(
            at=record["processedAt"],
            what=f"settled: {record['status'].replace('_', ' ')}",
            tone=TONES.get(record["status"], "plain"),
            details=(*_changes(before, results), *_said(record)),
        )
        before = results


def _changes(
    before: Mapping[str, Mapping[str, Any]], results: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    for sink, result in results.items():
        known = before.get(sink, {})
        if result == known:
            continue
        made = result["attempts"] - known.get("attempts", 0)
        tries = f"{made} attempt{'' if made == 1 else 's'}"
        how = "delivered" if result["success"] else result.get("error") or "not delivered yet"
        yield f"{sink}: {how}, {tries}"


def _said(record: AuditRecord) -> Iterator[str]:
    for error in record.get("validationErrors", ()):
        yield f"{error['field']}: {error['message']}"
    yield from record.get("notes", ())


def _next(claim: Claim) -> Iterator[Entry]:
    due = to_rfc3339(datetime.fromtimestamp(claim.due_at, tz=UTC)) if claim.due_at else None
    if claim.status is Status.PROCESSING:
        by = f", as {claim.actor} asked" if claim.actor else ""
        sinks = ", ".join(claim.to_deliver)
        yield Entry(
            at=to_rfc3339(datetime.fromtimestamp(claim.dispatched_at, tz=UTC)),
            what=f"on its way to {sinks}{by}" if sinks else "about to settle",
            tone="wait",
        )
        if due:
            yield Entry(at=due, what="a sweep takes over, if it has not settled by then")
    elif due:
        left = waiting(claim.deliveries)
        sinks = ", ".join(left)
        if all(claim.deliveries[sink].outcome is Outcome.PARKED for sink in left):
            yield Entry(at=None, what=f"waits until {sinks} has recovered", tone="wait")
        else:
            yield Entry(at=due, what=f"is tried again by itself: {sinks}", tone="wait")


def _is_time(text: str) -> bool:
    try:
        from_rfc3339(text)
    except ValueError:
        return False
    return True


def generations(delivery: Delivery) -> list[tuple[int, int]]:
    """Return the dispatches that a delivery was part of, and the attempts made in each."""
    return sorted((int(generation), count) for generation, count in delivery.tries.items())
