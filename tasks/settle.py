"""``settle``: merge outcomes into the claim, set the status, write the audit record."""

from collections.abc import Mapping, Sequence
from typing import Any

from celery import Task

from tasks import audit
from tasks.celery import app
from tasks.claims import Claims, Head, claims
from tasks.clock import now, to_rfc3339
from tasks.errors import ClaimNotFoundError, StoreError
from tasks.outcomes import Report, Status, merge, status_of

#: How often a settle may find that another changed the claim under it before it backs off.
CONTENTIONS = 10


@app.task(
    name="settle",
    bind=True,
    autoretry_for=(StoreError,),
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
        if deliveries == head.deliveries and (settled or status is Status.PROCESSING):
            if written and head.lineage_hash == written["lineageHash"]:
                break  # the write of the round before went through; its answer was lost
            return head.status  # nothing new; an invalid event stays failed
        written = audit.make_record(
            event_id=key,
            interaction_id=head.interaction_id,
            event_type=head.event_type,
            received_at=head.received_at,
            processed_at=to_rfc3339(now()),
            status=status,
            deliveries=deliveries,
            previous=(head.revision, head.lineage_hash),
            notes=head.notes,
        )
        newer = claims.settle(head, deliveries, status, written)
        if newer is None:
            break
        head = newer
    else:
        raise StoreError(f"the claim of {key} changed {CONTENTIONS} times while it was settled")
    audit.log_records([written])
    return status
