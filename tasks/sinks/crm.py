"""CRM: keeps the customer's history, so it gets the whole typed event and the context."""

from typing import Any

from tasks.events import InteractionEvent
from tasks.sinks.base import Sink


def _body(event: InteractionEvent, _received_at: str) -> dict[str, Any]:
    return event.to_json()


SINK = Sink(name="crm", body=_body, context=True)
