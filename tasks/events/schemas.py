"""From bytes somebody sent to frozen typed events; every error names its field.

Two steps, since two processes take them: ``load_envelope`` in ingest (what it refuses, nobody can
ever process), ``parse_detail`` in ``process_event`` (what it refuses is kept as a failed claim).
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate, validates_schema

from tasks.errors import FieldError, InvalidEventError
from tasks.events.canonical import canonical_json
from tasks.events.model import EVENT_CLASSES, Envelope, EventType, InteractionEvent

CHANNELS = ("voice", "chat", "email", "sms", "webchat")

#: The type that a status stands for where no lifecycle stage is given.
TYPE_OF_STATUS = {
    "queued": EventType.CREATED,
    "routed": EventType.ROUTED,
    "in-progress": EventType.ROUTED,
    "completed": EventType.COMPLETED,
    "abandoned": EventType.ABANDONED,
}

#: A transfer has no status of its own: the interaction is still alive.
STATUSES_OF_A_TRANSFER = ("queued", "routed", "in-progress")

_RFC3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:[0-5]\d)", re.ASCII
)


def _rfc3339(value: str) -> None:
    message = "Not an RFC 3339 time, such as 2026-01-31T12:00:00Z."
    if not _RFC3339.fullmatch(value):
        raise ValidationError(message)
    try:
        datetime.fromisoformat(value.upper())
    except ValueError:  # well-formed, but no such day or hour
        raise ValidationError(message) from None


def _text(*, required: bool = True, longest: int = 1024, **options: Any) -> fields.String:
    rules = [validate.Length(1, longest), *options.pop("validate", ())]
    return fields.String(required=required, allow_none=not required, validate=rules, **options)


def _milliseconds(data_key: str, *, required: bool = True) -> fields.Integer:
    return fields.Integer(
        data_key=data_key,
        required=required,
        allow_none=not required,
        strict=True,  # 12, not "12" and not 12.0
        validate=validate.Range(0, 2**53 - 1),  # what every JSON reader holds exactly
    )


class _EventSchema(Schema):
    class Meta:
        unknown = EXCLUDE  # CXone and EventBridge may add fields; we read those we know


class EnvelopeSchema(_EventSchema):
    """EventBridge's envelope (FACTS), with bounds on what becomes a key or a task id."""

    id = _text(
        longest=128,
        validate=[
            validate.Regexp(
                r"[A-Za-z0-9][A-Za-z0-9._:-]*\Z",
                error="Not an id: letters, digits and . _ : - only.",
            )
        ],
    )
    source = _text(longest=256)
    detail_type = _text(data_key="detail-type", longest=256)
    time = _text(validate=[_rfc3339])
    detail = fields.Dict(required=True, keys=fields.String())
    replay_name = _text(
        data_key="replay-name",
        required=False,
        longest=64,
        validate=[validate.Regexp(r"[A-Za-z0-9._-]+\Z", error="Not a replay's name.")],
    )


class DetailSchema(_EventSchema):
    """What every CXone interaction event has, whatever its type."""

    interaction_id = _text(data_key="interactionId", longest=256)
    channel = fields.String(required=True, validate=validate.OneOf(CHANNELS))
    status = fields.String(required=True, validate=validate.OneOf(list(TYPE_OF_STATUS)))
    timestamp = _text(validate=[_rfc3339])
    account_id = _text(data_key="accountId", longest=256)
    lifecycle_stage = fields.String(
        data_key="lifecycleStage",
        allow_none=True,
        load_default=None,
        validate=validate.OneOf([str(member) for member in EventType]),
    )
    metadata = fields.Dict(required=True, keys=fields.String())


class CreatedMetadata(_EventSchema):
    """``metadata`` of a created event."""

    initial_queue = _text(data_key="queue")


class RoutedMetadata(_EventSchema):
    """``metadata`` of a routed event."""

    agent_id = _text(data_key="agentId")
    skill = _text()


class TransferMetadata(_EventSchema):
    """``metadata`` of a transfer: where to is required, as a queue or as an agent."""

    to_queue = _text(data_key="toQueue", required=False)
    to_agent_id = _text(data_key="toAgentId", required=False)
    from_agent_id = _text(data_key="fromAgentId", required=False)
    reason = _text(required=False)

    @validates_schema
    def _names_where_to(self, data: dict[str, Any], **_: Any) -> None:
        if not data.get("to_queue") and not data.get("to_agent_id"):
            raise ValidationError("Missing data: toQueue or toAgentId is required.", "toQueue")


class CompletedMetadata(_EventSchema):
    """``metadata`` of a completed event."""

    disposition = _text()
    duration_ms = _milliseconds("durationMs")
    agent_id = _text(data_key="agentId")


class AbandonedMetadata(_EventSchema):
    """``metadata`` of an abandoned event: all of it optional."""

    queue = _text(required=False)
    wait_ms = _milliseconds("waitMs", required=False)


_ENVELOPE = EnvelopeSchema()
_DETAIL = DetailSchema()
_METADATA: Mapping[EventType, Schema] = {
    EventType.CREATED: CreatedMetadata(),
    EventType.ROUTED: RoutedMetadata(),
    EventType.TRANSFER: TransferMetadata(),
    EventType.COMPLETED: CompletedMetadata(),
    EventType.ABANDONED: AbandonedMetadata(),
}


class ParsedDetail(NamedTuple):
    """A typed event, and what the audit record should say about how it was read."""

    event: InteractionEvent
    notes: tuple[str, ...]


def load_envelope(raw: object) -> Envelope:
    """Check one EventBridge envelope.

    Raises:
        InvalidEventError: naming each field that is missing or wrong.
    """
    if not isinstance(raw, dict):
        raise InvalidEventError([FieldError("event", "Not a JSON object.")])
    try:
        loaded = _ENVELOPE.load(raw)
        canonical_json(loaded)
    except ValidationError as error:
        raise InvalidEventError(list(_flatten(error.messages))) from None
    except RecursionError:
        raise InvalidEventError([FieldError("event", "Nests too deep.")]) from None
    except ValueError:
        message = "Holds a number or a character that JSON in UTF-8 cannot carry."
        raise InvalidEventError([FieldError("event", message)]) from None
    return Envelope(**loaded)


def parse_detail(detail: Mapping[str, Any]) -> ParsedDetail:
    """Make the typed event of an envelope's detail.

    Raises:
        InvalidEventError: naming each field that is missing or wrong, of the detail and of the
            metadata that its type requires.
    """
    errors: list[FieldError] = []
    try:
        common = _DETAIL.load(dict(detail))
    except ValidationError as error:
        errors += _flatten(error.messages, "detail")
        common = error.valid_data  # the metadata may be checked all the same
    event_type, notes = _type_of(common)
    extra = {}
    if event_type and "metadata" in common:
        try:
            extra = _METADATA[event_type].load(common["metadata"])
        except ValidationError as error:
            errors += _flatten(error.messages, "detail.metadata")
    if errors or event_type is None:
        raise InvalidEventError(errors)
    if event_type is EventType.CREATED:
        extra["channel"] = common["channel"]
    event = EVENT_CLASSES[event_type](
        interaction_id=common["interaction_id"],
        timestamp=common["timestamp"],
        account_id=common["account_id"],
        **extra,
    )
    return ParsedDetail(event, notes)


def _type_of(common: Mapping[str, Any]) -> tuple[EventType | None, tuple[str, ...]]:
    """The lifecycle stage where it is given, else what the status stands for."""
    stage: str | None = common.get("lifecycle_stage")
    status: str | None = common.get("status")
    if stage is None:
        # A stage that was given and refused must not be replaced by a guess.
        if status is None or "lifecycle_stage" not in common:
            return None, ()
        return TYPE_OF_STATUS[status], ()
    if status is None:
        return EventType(stage), ()
    at_odds = (
        status not in STATUSES_OF_A_TRANSFER
        if stage == EventType.TRANSFER
        else TYPE_OF_STATUS[status] != stage
    )
    if not at_odds:
        return EventType(stage), ()
    return EventType(stage), (f"lifecycleStage {stage} taken over status {status}",)


def _flatten(messages: Any, path: str = "") -> Iterator[FieldError]:
    """Turn marshmallow's nested messages into one line a field."""
    if isinstance(messages, dict):
        for name, inner in messages.items():
            yield from _flatten(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(messages, list) and all(isinstance(text, str) for text in messages):
        yield FieldError(path, " ".join(messages))
    else:
        yield FieldError(path, str(messages))
