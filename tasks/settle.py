"""``settle``: merge outcomes into the claim, set the status, write the audit record."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from celery import Task

from tasks import audit
from tasks.celery import app
from tasks.claims import Claims, Head, claims
from tasks.clock import elapsed_ms, now, to_rfc3339
from tasks.errors import ClaimNotFoundError, StoreError, UnknownSchemaError
from tasks.metrics import counters
from tasks.outcomes import Delivery, Report, Status, merge, status_of, undelivered, waiting
from tasks.schedule import Appointment, next_appointment
from tasks.settings import settings

#: How often a settle may find that another changed the claim under it before it backs off.
CONTENTIONS = 10


@app.task(
    name="settle",
    bind=True,
    autoretry_for=(StoreError, UnknownSchemaError),  # the latter until a later release takes it
    # About ten minutes. The claim stays due, so the sweep goes on should they be too few; but it
    # does not know the outcomes, and delivers again.
    max_retries=40,
    retry_backoff=1,
    retry_backoff_max=30,
)
def settle(
    _self: Task[Any, Any],
    key: str,
    head: Mapping[str, Any] | None = None,
    generation: int = 0,
    reports: Sequence[Mapping[str, Any]] = (),
) -> dict[str, str]:
    """Settle one event with what its delivery tasks reported; answer its status.

    With the key alone it states anew what the claim's outcomes come to.
    """
    known = Head.from_json(head) if head else None
    reported = [Report.from_json(report) for report in reports]
    return {"status": settle_claim(claims(), key, known, reported, generation).value}


def settle_claim(
    claims: Claims, key: str, head: Head | None, reports: Sequence[Report], generation: int
) -> Status:
    """Merge ``reports`` into a claim until the write goes through or there is nothing to write.

    ``head`` is the claim as last seen; where it is out of date, the refused write says so and
    brings the present one.

    Raises:
        ClaimNotFoundError: there is no such claim.
        StoreError: DynamoDB does not answer, or too many others settle the same claim.
    """
    if head is None:
        claim = claims.get(key)
        if claim is None:
            raise ClaimNotFoundError(f"no claim of {key}")
        head = claim.head
    written = None
    for _ in range(CONTENTIONS):
        deliveries = merge(head.deliveries, reports, generation)
        status = status_of(deliveries.values())
        settled = head.status is not Status.PROCESSING
        late = generation < head.generation  # and a later dispatch is to settle it
        if deliveries == head.deliveries and (settled or late or status is Status.PROCESSING):
            if written and head.lineage_hash == written["lineageHash"]:
                break  # the write of the round before went through; its answer was lost
            return head.status  # nothing new; an invalid event stays failed
        moment = now()
        appointment = (
            None
            if status is Status.PROCESSING
            else next_appointment(deliveries, head.received_at, head.redrives, moment, settings())
        )
        notes = list(_notes(head, deliveries, status, appointment, reports))
        written = None
        if notes or head.actor or not _same_ends(head, deliveries):
            written = audit.make_record(
                event_id=key,
                interaction_id=head.interaction_id,
                event_type=head.event_type,
                received_at=head.received_at,
                processed_at=to_rfc3339(moment),
                status=status,
                deliveries=deliveries,
                previous=(head.revision, head.lineage_hash),
                notes=[*head.notes, *notes],
                actor=head.actor,
            )
        newer = claims.settle(head, deliveries, status, written, appointment)
        if newer is None:
            break
        head = newer
    else:
        raise StoreError(f"the claim of {key} changed {CONTENTIONS} times while it was settled")
    if written:
        audit.log_records([written])
    _count(head, status, reports)
    return status


def _count(head: Head, status: Status, reports: Sequence[Report]) -> None:
    """Count what was settled; the lag where it is the first final status."""
    for report in reports:
        counters().add("deliveries", sink=report.sink, outcome=report.outcome.value)
        counters().add("attempts", report.attempts, sink=report.sink)
    if status is not Status.PROCESSING:
        counters().add("settled", status=status.value)
    if status is not Status.PROCESSING and head.revision == 0:
        counters().lag(elapsed_ms(head.received_at, to_rfc3339(now())))


def _same_ends(head: Head, deliveries: Mapping[str, Delivery]) -> bool:
    """Tell whether the newest audit record says all there is to say, but for attempts and times."""
    return head.revision > 0 and all(
        sink in head.deliveries and delivery.same_end(head.deliveries[sink])
        for sink, delivery in deliveries.items()
    )


def _notes(
    head: Head,
    deliveries: Mapping[str, Delivery],
    status: Status,
    appointment: Appointment | None,
    reports: Sequence[Report],
) -> Iterator[str]:
    """Tell what the outcomes do not."""
    yield from (f"{report.sink}: {report.note}" for report in reports if report.note)
    if forced := [s for s in head.targets or () if s not in undelivered(head.deliveries)]:
        yield f"sent again to who had it: {', '.join(forced)}"
    if status is not Status.PROCESSING and appointment is None and (left := waiting(deliveries)):
        yield f"given up, past its age limit: {', '.join(left)}"
