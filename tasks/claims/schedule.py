"""When a settled event is due again: the delayed retries. Pure.

The in-worker retries of a delivery wait in a worker's memory, so they end within minutes. What they
did not deliver is retried on a schedule of minutes to hours, until the event is older than the age
limit. The next of these delayed retries is kept on the claim, as ``due_at`` in the index ``due``.

What only waits for sinks to recover is also in the index ``parked``, in the partition of just these
sinks; a drain finds it there long before it is due.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from tasks.claims.codec import parked_partition
from tasks.claims.model import NextRetry
from tasks.claims.outcomes import Delivery, Outcome, waiting
from tasks.clock import from_rfc3339
from tasks.settings import Settings


def next_retry(
    deliveries: Mapping[str, Delivery],
    received_at: str,
    redrives: int,
    moment: datetime,
    settings: Settings,
) -> NextRetry | None:
    """Return when to retry what failed for now; None if nothing did, or the event is too old.

    ``redrives`` is how many delayed retries it has had. What is parked is due after the longest
    wait, in case no drain comes first. The last retry is at the age limit.
    """
    sinks = waiting(deliveries)
    too_old = from_rfc3339(received_at) + timedelta(seconds=settings.redrive_max_age)
    if not sinks or moment >= too_old:
        return None
    parked = all(deliveries[sink].outcome is Outcome.PARKED for sink in sinks)
    schedule = settings.redrive_schedule
    wait = max(schedule) if parked else schedule[min(redrives, len(schedule) - 1)]
    at = min(moment + timedelta(seconds=wait), too_old)
    return NextRetry(int(at.timestamp()), parked_partition(sinks) if parked else None)
