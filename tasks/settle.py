"""``settle``: merge outcomes into the claim, set the status, write the audit record."""

from collections.abc import Mapping, Sequence
from typing import Any

from celery import Task

from tasks import routing
from tasks.celery import app
from tasks.claims import ClaimSnapshot, Report
from tasks.claims.settlement import settle_claim
from tasks.errors import StoreError, UnknownSchemaError
from tasks.runtime import claims


@app.task(
    name=routing.SETTLE,
    bind=True,
    autoretry_for=(StoreError, UnknownSchemaError),  # the latter until a later release takes it
    # About ten minutes. If they are too few, the claim is still due, so a sweep takes it over; but
    # the sweep does not know the outcomes, and delivers again.
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
    """Settle one event with what its delivery tasks reported; return its status.

    ``head`` is the claim's snapshot when it was dispatched. With the key alone there is nothing to
    merge, so it returns the status that the claim has.
    """
    snapshot = ClaimSnapshot.from_json(head) if head else None
    reported = [Report.from_json(report) for report in reports]
    return {"status": settle_claim(claims(), key, snapshot, reported, generation).value}
