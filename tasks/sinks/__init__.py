"""The registry of sinks. A new one is a file beside these and a line here (docs/sinks.md)."""

from collections.abc import Mapping

from tasks.sinks import analytics, compliance, crm
from tasks.sinks.base import Policy, Sink

__all__ = ["SINKS", "Policy", "Sink"]

SINKS: Mapping[str, Sink] = {
    module.SINK.name: module.SINK
    for module in (
        analytics,
        crm,
        compliance,
    )
}
