"""The registry of sinks. A new one is a file beside these and a line here (docs/sinks.md)."""

from collections.abc import Mapping

from tasks.events import EventType
from tasks.sinks import analytics, compliance, crm
from tasks.sinks.base import Policy, Sink

__all__ = ["SINKS", "Policy", "Sink", "wanted_by"]

SINKS: Mapping[str, Sink] = {
    module.SINK.name: module.SINK
    for module in (
        analytics,
        crm,
        compliance,
    )
}


def wanted_by(event_type: EventType) -> list[str]:
    """Name the sinks that an event of this type goes to."""
    return [sink.name for sink in SINKS.values() if event_type in sink.wants]
