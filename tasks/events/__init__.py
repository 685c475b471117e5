"""Events: EventBridge's envelope, the typed interaction event in it, and their validation."""

from tasks.events.canonical import canonical_json
from tasks.events.metadata import MetadataRules
from tasks.events.model import Envelope, EventType, InteractionEvent, event_from_json, payload_hash
from tasks.events.schemas import load_envelope, parse_detail

__all__ = [
    "Envelope",
    "EventType",
    "InteractionEvent",
    "MetadataRules",
    "canonical_json",
    "event_from_json",
    "load_envelope",
    "parse_detail",
    "payload_hash",
]
