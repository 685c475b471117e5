"""What an event is: the EventBridge envelope and the interaction event inside it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar

from tasks.events.canonical import canonical_json


class EventType(StrEnum):
    """The lifecycle stages an interaction event can report."""

    CREATED = "created"
    ROUTED = "routed"
    TRANSFER = "transfer"
    COMPLETED = "completed"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The EventBridge envelope of one event: the fields that this system reads."""

    id: str
    source: str
    detail_type: str
    time: str
    detail: Mapping[str, Any]
    replay_name: str | None = None

    @property
    def replay_key(self) -> str:
        """The deduplication key where each replay of an event is an event of its own."""
        return f"{self.id}@{self.replay_name}" if self.replay_name else self.id

    @property
    def payload(self) -> bytes:
        """Canonical JSON of the event, the same in every replay."""
        envelope = self.to_json()
        envelope.pop("replay-name", None)
        return canonical_json(envelope)

    def to_json(self) -> dict[str, Any]:
        """Return the envelope as received, without the fields that this system does not read."""
        envelope: dict[str, Any] = {
            "id": self.id,
            "source": self.source,
            "detail-type": self.detail_type,
            "time": self.time,
            "detail": self.detail,
        }
        if self.replay_name:
            envelope["replay-name"] = self.replay_name
        return envelope


def payload_hash(payload: bytes) -> str:
    """Return the SHA-256, in hex, of an envelope's canonical JSON."""
    return hashlib.sha256(payload).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractionEvent:
    """What all typed interaction events have. ``timestamp`` is RFC 3339, as CXone sent it."""

    type: ClassVar[EventType]

    interaction_id: str
    timestamp: str
    account_id: str

    def to_json(self) -> dict[str, Any]:
        """Return the event as sinks and messages have it: camelCase, without absent fields."""
        values = ((camel_case(field.name), getattr(self, field.name)) for field in fields(self))
        return {"type": self.type.value} | {k: v for k, v in values if v is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Created(InteractionEvent):
    """A customer asked for contact and waits in a queue."""

    type = EventType.CREATED

    channel: str
    initial_queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed(InteractionEvent):
    """An agent was found."""

    type = EventType.ROUTED

    agent_id: str
    skill: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred(InteractionEvent):
    """The interaction goes on with another queue or agent; at least one of them is named."""

    type = EventType.TRANSFER

    to_queue: str | None = None
    to_agent_id: str | None = None
    from_agent_id: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed(InteractionEvent):
    """The interaction ended with an agent, after ``duration_ms`` milliseconds."""

    type = EventType.COMPLETED

    disposition: str
    duration_ms: int
    agent_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned(InteractionEvent):
    """The customer gave up, after ``wait_ms`` milliseconds where that is known."""

    type = EventType.ABANDONED

    queue: str | None = None
    wait_ms: int | None = None


EVENT_CLASSES: Mapping[EventType, type[InteractionEvent]] = {
    cls.type: cls for cls in (Created, Routed, Transferred, Completed, Abandoned)
}


def event_from_json(data: Mapping[str, Any]) -> InteractionEvent:
    """Return the event that ``InteractionEvent.to_json`` wrote; unknown keys are ignored."""
    cls = EVENT_CLASSES[EventType(data["type"])]
    names = {camel_case(field.name): field.name for field in fields(cls)}
    return cls(**{names[key]: value for key, value in data.items() if key in names})


def camel_case(name: str) -> str:
    """Return the name that a field has in JSON."""
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)
