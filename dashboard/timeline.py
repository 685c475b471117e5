"""What happened to one event, in order, from its claim. Pure.

The claim has the state of each delivery, its newest calls, and an audit record for every time the
event settled; the difference between two records is what happened between them.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from dashboard.formatting import plural
from tasks.claims import AuditRecord, Claim, Delivery, Outcome, Status
from tasks.claims.outcomes import waiting
from tasks.clock import from_rfc3339, to_rfc3339

#: How something is displayed: success, failure, pending, or neutral.
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
    """Something that happened or will happen; ``at`` is RFC 3339."""

    at: str | None
    text: str
    tone: Tone = "plain"
    details: tuple[str, ...] = ()


def timeline(claim: Claim) -> list[Entry]:
    """Return what happened to an event, oldest first, and what will happen next."""
    calls = deque(_calls(claim.deliveries))
    return [*_beginning(claim), *_settled(claim.audit, calls), *calls, *_next(claim)]


def _beginning(claim: Claim) -> Iterator[Entry]:
    with suppress(ValueError):  # an invalid event may have anything in its place
        from_rfc3339(claim.event_time or "")
        yield Entry(at=claim.event_time, text="occurred, according to its source")
    kind = claim.event_type or "an invalid event"
    sinks = ", ".join(sorted(claim.deliveries))
    details = (f"for {sinks}",) if sinks else ()
    yield Entry(at=claim.received_at, text=f"received: {kind}", details=details)


def _calls(deliveries: Mapping[str, Delivery]) -> list[Entry]:
    """Return the known calls, oldest first."""
    made = sorted((call, sink) for sink, delivery in deliveries.items() for call in delivery.calls)
    return [
        Entry(at=call.begun, text=f"{sink}: {call}", tone="bad" if call.error else "good")
        for call, sink in made
    ]


def _settled(records: Sequence[AuditRecord], calls: deque[Entry]) -> Iterator[Entry]:
    """Yield each time it settled, after the calls that led to it, which are removed."""
    before: Mapping[str, Mapping[str, Any]] = {}
    for record in records:
        results = {result["service"]: result for result in record["downstreamResults"]}
        if actor := record.get("actor"):
            yield Entry(at=None, text=f"delivered again, requested by {actor}")
        elif before:
            yield Entry(at=None, text="retried automatically")
        while calls and (calls[0].at or "") <= record["processedAt"]:
            yield calls.popleft()
        yield Entry(
            at=record["processedAt"],
            text=f"settled: {record['status'].replace('_', ' ')}",
            tone=TONES.get(record["status"], "plain"),
            details=(*_changes(before, results), *_remarks(record)),
        )
        before = results


def _changes(
    before: Mapping[str, Mapping[str, Any]], results: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    for sink, result in results.items():
        known = before.get(sink, {})
        if result == known:
            continue
        attempts = plural(result["attempts"] - known.get("attempts", 0), "attempt")
        outcome = "delivered" if result["success"] else result.get("error") or "not delivered yet"
        yield f"{sink}: {outcome}, {attempts}"


def _remarks(record: AuditRecord) -> Iterator[str]:
    for error in record.get("validationErrors", ()):
        yield f"{error['field']}: {error['message']}"
    yield from record.get("notes", ())


def _next(claim: Claim) -> Iterator[Entry]:
    due = to_rfc3339(datetime.fromtimestamp(claim.due_at, tz=UTC)) if claim.due_at else None
    if claim.status is Status.PROCESSING:
        by = f", requested by {claim.actor}" if claim.actor else ""
        sinks = ", ".join(claim.to_deliver)
        yield Entry(
            at=to_rfc3339(datetime.fromtimestamp(claim.dispatched_at, tz=UTC)),
            text=f"being delivered to {sinks}{by}" if sinks else "about to settle",
            tone="wait",
        )
        if due:
            yield Entry(at=due, text="a sweep takes over if it has not settled by then")
    elif due:
        pending = waiting(claim.deliveries)
        sinks = ", ".join(pending)
        if all(claim.deliveries[sink].outcome is Outcome.PARKED for sink in pending):
            yield Entry(at=None, text=f"parked until {sinks} recovers", tone="wait")
        else:
            yield Entry(at=due, text=f"next automatic retry: {sinks}", tone="wait")


def generations(delivery: Delivery) -> list[tuple[int, int]]:
    """Return the attempts of a delivery by dispatch: pairs of generation and count."""
    return sorted((int(generation), count) for generation, count in delivery.tries.items())
