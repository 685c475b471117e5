"""The sample events, and what is expected of each."""

import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tasks.claims import Status
from tasks.clock import now, to_rfc3339
from tasks.events import EventType
from tasks.settings import settings

#: How often the CRM fails for the sample that it fails for.
CRM_FAILURES = 2


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One event for the bus, and what is expected of it."""

    title: str
    type: EventType
    detail: Mapping[str, Any]
    typed: Mapping[str, Any]  # the whole typed event, as the CRM receives it
    #: The field that makes it invalid and that its audit record names; no sink receives it.
    invalid_field: str | None = None
    crm_failures: int = 0  # how often the CRM answers 503 before it accepts the event
    duplicated: bool = False  # whether it is sent twice
    without_context: bool = False  # whether CXone has no context for it

    @property
    def status(self) -> Status:
        """The status that it reaches."""
        return Status.FAILED if self.invalid_field else Status.COMPLETED

    @property
    def sinks(self) -> Sequence[str]:
        """The sinks that receive it."""
        return () if self.invalid_field else settings().wanted_by(self.type)


class _Kind(NamedTuple):
    channels: Sequence[str]
    status: str
    metadata: Mapping[str, Any]


_ALL_CHANNELS = ("voice", "chat", "email", "sms", "webchat")
_KINDS: Mapping[EventType, _Kind] = {
    EventType.CREATED: _Kind(_ALL_CHANNELS, "queued", {"queue": "billing"}),
    EventType.ROUTED: _Kind(_ALL_CHANNELS, "routed", {"agentId": "agent-7", "skill": "billing"}),
    EventType.TRANSFER: _Kind(
        ("voice", "chat"),
        "in-progress",
        {"toQueue": "complaints", "fromAgentId": "agent-7", "reason": "escalation"},
    ),
    EventType.COMPLETED: _Kind(
        _ALL_CHANNELS,
        "completed",
        {"disposition": "resolved", "durationMs": 184_000, "agentId": "agent-7"},
    ),
    # An email or a text message cannot be abandoned.
    EventType.ABANDONED: _Kind(
        ("voice", "chat", "webchat"), "abandoned", {"queue": "billing", "waitMs": 95_000}
    ),
}


def make_sample(
    kind: EventType,
    channel: str,
    environment: str,
    *,
    title: str = "",
    invalid: Mapping[str, Any] = {},
    **expectations: Any,
) -> Sample:
    """Make a sample with a new interaction id; ``invalid`` has a wrong value for its metadata."""
    _, status, added = _KINDS[kind]
    common = {
        "interactionId": f"sample-{secrets.token_hex(6)}",
        "timestamp": to_rfc3339(now()),
        "accountId": "account-42",
    }
    detail = common | {
        "channel": channel,
        "status": status,
        "lifecycleStage": kind.value,
        "metadata": {
            "environment": environment,
            "region": "us-east-1",
            "pipelineVersion": "1.4.2",
            **added,
            **invalid,
        },
    }
    if kind is EventType.CREATED:
        del detail["lifecycleStage"]  # then the status decides which event it is
        added = {"channel": channel, "initialQueue": added["queue"]}
    return Sample(
        title=title or f"{kind.value} {channel}",
        type=kind,
        detail=detail,
        typed={"type": kind.value, **common, **added},
        invalid_field=next((f"detail.metadata.{name}" for name in invalid), None),
        **expectations,
    )


def all_samples(environment: str) -> list[Sample]:
    """Make one of each type on each channel that has it, and the special cases."""

    def special(kind: EventType, title: str, **options: Any) -> Sample:
        return make_sample(kind, "voice", environment, title=title, **options)

    return [
        special(EventType.CREATED, "created, sent twice", duplicated=True),
        special(EventType.COMPLETED, "completed, CRM fails twice", crm_failures=CRM_FAILURES),
        special(EventType.CREATED, "created, CXone has no context", without_context=True),
        *(
            make_sample(kind, channel, environment)
            for kind, (channels, _, _) in _KINDS.items()
            for channel in channels
        ),
        special(EventType.ROUTED, "invalid: unknown region", invalid={"region": "us-east-1x"}),
        special(EventType.COMPLETED, "invalid: duration is a text", invalid={"durationMs": "12"}),
    ]


def envelope(sample: Sample, source: str) -> dict[str, Any]:
    """Wrap a sample as EventBridge would, under a new id."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": detail_type(sample),
        "source": source,
        "account": "000000000000",
        "time": to_rfc3339(now()),
        "region": "us-east-1",
        "resources": [],
        "detail": sample.detail,
    }


def detail_type(sample: Sample) -> str:
    """Return the ``detail-type`` under which the sample is put on the bus."""
    return f"Interaction {sample.type.value.capitalize()}"
