"""When a settled event is due again: the long schedule of deliveries that may yet get through.

The quick tries of a delivery wait in a worker's memory, so they end within minutes. What they did
not bring about is tried again on a schedule of minutes to hours, which is kept on the claim as
``due_at`` in the index ``due``, until the event is older than the age limit. Pure.

What waits for nothing but the recovery of sinks that are down is also in the index ``parked``, in
the partition of just these sinks; a drain finds it there long before it is due.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import combinations
from typing import NamedTuple

from tasks.clock import from_rfc3339
from tasks.outcomes import Delivery, Outcome, waiting
from tasks.settings import Settings
from tasks.sinks import SINKS


class Appointment(NamedTuple):
    """When an event is due again, in seconds since the epoch.

    ``parked_for`` is the partition of the index ``parked`` it is in as well, if it is in one.
    """

    at: int
    parked_for: str | None = None


def partition_of(sinks: Iterable[str]) -> str:
    """Name the partition of what waits for all of these sinks to recover."""
    return "+".join(sorted(sinks))


def partitions_with(sink: str) -> Iterator[str]:
    """Name every partition with something for this sink: twice as many with each further sink."""
    others = [name for name in SINKS if name != sink]
    for size in range(len(others) + 1):
        for some in combinations(others, size):
            yield partition_of([sink, *some])


def next_appointment(
    deliveries: Mapping[str, Delivery],
    received_at: str,
    redrives: int,
    moment: datetime,
    settings: Settings,
) -> Appointment | None:
    """Tell when to try again what is transient; None if nothing is, or the event is too old.

    ``redrives`` is how often the schedule has come round for it. What is parked comes round after
    the longest wait, should no drain have come first. The last try is at the age limit.
    """
    sinks = waiting(deliveries)
    too_old = from_rfc3339(received_at) + timedelta(seconds=settings.redrive_max_age)
    if not sinks or moment >= too_old:
        return None
    parked = all(deliveries[sink].outcome is Outcome.PARKED for sink in sinks)
    schedule = settings.redrive_schedule
    wait = max(schedule) if parked else schedule[min(redrives, len(schedule) - 1)]
    at = min(moment + timedelta(seconds=wait), too_old)
    return Appointment(int(at.timestamp()), partition_of(sinks) if parked else None)
