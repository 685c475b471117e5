"""Settling: merge what delivery tasks reported into a claim until the write goes through."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from tasks.claims import audit
from tasks.claims.model import AuditRecord, ClaimSnapshot, NextRetry
from tasks.claims.outcomes import (
    Delivery,
    Outcome,
    Report,
    Status,
    merge,
    status_of,
    undelivered,
    waiting,
)
from tasks.claims.queries import get_or_raise
from tasks.claims.schedule import next_retry
from tasks.claims.store import Claims
from tasks.clock import now, to_rfc3339
from tasks.counters import COUNTERS
from tasks.errors import StoreError
from tasks.settings import settings

#: How often a settle may find that another changed the claim under it before it backs off.
MAX_CONTENTIONS = 10


def settle_claim(
    claims: Claims,
    key: str,
    snapshot: ClaimSnapshot | None,
    reports: Sequence[Report],
    generation: int,
) -> Status:
    """Merge ``reports`` of a dispatch into a claim until that is written; return its status.

    ``snapshot`` is the claim as last seen; where it is out of date, the refused write brings the
    present one. While a later dispatch is in progress, the reports of an earlier ``generation`` are
    merged and nothing else: the claim stays in progress, and due at the end of its lease, until
    the later dispatch settles it or a sweep takes it over.

    Raises:
        ClaimNotFoundError: there is no such claim.
        StoreError: DynamoDB does not answer, or too many others settle the same claim.
    """
    if snapshot is None:
        snapshot = get_or_raise(claims, key).snapshot
    record = None
    for _ in range(MAX_CONTENTIONS):
        in_progress = snapshot.status is Status.PROCESSING
        late = in_progress and generation < snapshot.generation
        deliveries = merge(snapshot.deliveries, reports, generation)
        status = Status.PROCESSING if late else status_of(deliveries.values())
        if deliveries == snapshot.deliveries and (not in_progress or status is Status.PROCESSING):
            if record and snapshot.lineage_hash == record["lineageHash"]:
                break  # the write of the round before went through; its answer was lost
            return snapshot.status  # nothing new; an invalid event stays failed
        moment = now()
        retry = (
            None
            if status is Status.PROCESSING
            else next_retry(deliveries, snapshot.received_at, snapshot.redrives, moment, settings())
        )
        notes = [f"{report.sink}: {report.note}" for report in reports if report.note]
        if not late:
            notes += _notes(snapshot, deliveries, status, retry)
        record = _record(snapshot, deliveries, moment=moment, notes=notes, late=late)
        newer = claims.settle(snapshot, deliveries, status, record, retry)
        if newer is None:
            break
        snapshot = newer
    else:
        raise StoreError(f"the claim of {key} changed {MAX_CONTENTIONS} times while it was settled")
    if record:
        audit.log_records([record])
    _count(record, status, reports)
    return status


def _record(
    snapshot: ClaimSnapshot,
    deliveries: Mapping[str, Delivery],
    *,
    moment: datetime,
    notes: Sequence[str],
    late: bool,
) -> AuditRecord | None:
    """Make the record of a settle; None where the newest one states the same.

    It states the status that follows from the outcomes, also where the settle is ``late`` and the
    claim itself stays in progress: so equal outcomes mean an equal status, and whatever settles
    last agrees with the newest record. A late settle is not what the present ``actor`` asked for;
    and it never makes the first record of an event, which is that of its first final status.
    """
    actor = None if late else snapshot.actor
    if not notes and not actor and _same_outcomes(snapshot, deliveries):
        return None
    if late and snapshot.revision == 0:
        return None
    notes = [*snapshot.notes, *notes]
    status = status_of(deliveries.values())
    return audit.make_record(
        snapshot, to_rfc3339(moment), status, deliveries, notes=notes, actor=actor
    )


def _same_outcomes(snapshot: ClaimSnapshot, deliveries: Mapping[str, Delivery]) -> bool:
    """Whether the newest audit record states these outcomes; attempts and times do not count."""

    def ends(of: Mapping[str, Delivery]) -> dict[str, tuple[Outcome, str | None]]:
        return {sink: (delivery.outcome, delivery.error) for sink, delivery in of.items()}

    return snapshot.revision > 0 and ends(snapshot.deliveries) == ends(deliveries)


def _notes(
    snapshot: ClaimSnapshot,
    deliveries: Mapping[str, Delivery],
    status: Status,
    retry: NextRetry | None,
) -> Iterator[str]:
    """Return notes on what the outcomes do not show."""
    targets = snapshot.targets or ()
    if forced := [sink for sink in targets if sink not in undelivered(snapshot.deliveries)]:
        yield f"sent again to who had it: {', '.join(forced)}"
    if status is not Status.PROCESSING and retry is None and (left := waiting(deliveries)):
        yield f"given up, past its age limit: {', '.join(left)}"


def _count(record: AuditRecord | None, status: Status, reports: Sequence[Report]) -> None:
    """Count what was settled; the lag where it is the first final status."""
    for report in reports:
        COUNTERS.add("deliveries", sink=report.sink, outcome=report.outcome.value)
        COUNTERS.add("attempts", report.attempts, sink=report.sink)
    if status is Status.PROCESSING:
        return
    COUNTERS.add("settled", status=status.value)
    if record and record["revision"] == 1:
        COUNTERS.lag(record["lagMs"])
