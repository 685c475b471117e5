"""When a settled event is due again: the long schedule of deliveries that may yet get through.

The quick tries of a delivery wait in a worker's memory, so they end within minutes. What they did
not bring about is tried again on a schedule of minutes to hours, which is kept on the claim as
``due_at`` in the index ``due``, until the event is older than the age limit. Pure.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from tasks.clock import from_rfc3339
from tasks.outcomes import Delivery, Outcome, waiting
from tasks.settings import Settings


class Appointment(NamedTuple):
    """An entry of the index ``due``: which partition, and when, in seconds since the epoch."""

    bucket: str | None
    """None for the one that follows from the claim's id."""
    at: int


def parked_bucket(sink: str) -> str:
    """The partition of what waits for nothing but this sink's recovery, oldest event first."""
    return f"parked.{sink}"


def next_appointment(
    deliveries: Mapping[str, Delivery],
    received_at: str,
    redrives: int,
    moment: datetime,
    settings: Settings,
) -> Appointment | None:
    """Tell when to try again what is transient; None if nothing is, or the event is too old.

    ``redrives`` is how often the schedule has come round for it. The last try is at the age limit.
    """
    sinks = waiting(deliveries)
    received = from_rfc3339(received_at)
    too_old = received + timedelta(seconds=settings.redrive_max_age)
    if not sinks or moment >= too_old:
        return None
    if all(deliveries[sink].outcome is Outcome.PARKED for sink in sinks):
        return Appointment(parked_bucket(min(sinks)), int(received.timestamp()))
    schedule = settings.redrive_schedule
    wait = schedule[min(redrives, len(schedule) - 1)]
    return Appointment(None, int(min(moment + timedelta(seconds=wait), too_old).timestamp()))
