"""Analytics: counts events by type and time."""

from typing import Any

from tasks.events import InteractionEvent
from tasks.sinks.base import Sink


def _body(event: InteractionEvent, _received_at: str) -> dict[str, Any]:
    return {
        "eventType": event.type.value,
        "interactionId": event.interaction_id,
        "timestamp": event.timestamp,
    }


SINK = Sink(name="analytics", body=_body)
