"""Compliance: archives that an interaction took place, and when its event was received."""

from typing import Any

from tasks.events import InteractionEvent
from tasks.sinks.base import Sink


def _body(event: InteractionEvent, received_at: str) -> dict[str, Any]:
    return {"interactionId": event.interaction_id, "archivedAt": received_at}


SINK = Sink(name="compliance", body=_body)
