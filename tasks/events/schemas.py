"""Validation: from parsed JSON to frozen typed events; every error names its field.

Two steps in two processes: ``load_envelope`` in ingest, whose refusal is the client's answer, and
``parse_detail`` in ``process_event``, whose refusal is kept as a failed claim.
"""

import re
from collections.abc import Callable, Iterator, Mapping
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

#: A transfer has no status of its own, since the interaction continues.
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


def _text(
    key: str | None = None, *rules: Callable[[str], Any], longest: int = 1024, required: bool = True
) -> fields.String:
    return fields.String(
        data_key=key,
        required=required,
        allow_none=not required,
        validate=[validate.Length(1, longest), *rules],
    )


def _milliseconds(key: str, *, required: bool = True) -> fields.Integer:
    return fields.Integer(
        data_key=key,
        required=required,
        allow_none=not required,
        strict=True,  # 12, not "12" and not 12.0
        validate=validate.Range(0, 2**53 - 1),  # what every JSON reader holds exactly
    )


class _EventSchema(Schema):
    class Meta:
        unknown = EXCLUDE  # CXone and EventBridge may add fields


_ID = validate.Regexp(
    r"[A-Za-z0-9][A-Za-z0-9._:-]*\Z", error="Not an id: letters, digits and . _ : - only."
)
_REPLAY_NAME = validate.Regexp(r"[A-Za-z0-9._-]+\Z", error="Not a replay's name.")


class EnvelopeSchema(_EventSchema):
    """EventBridge's envelope (docs/facts.md, E10 and E14); what becomes a key has bounds."""

    id = _text("id", _ID, longest=128)
    source = _text(longest=256)
    detail_type = _text("detail-type", longest=256)
    time = _text("time", _rfc3339)
    detail = fields.Dict(required=True, keys=fields.String())
    replay_name = _text("replay-name", _REPLAY_NAME, longest=64, required=False)


class DetailSchema(_EventSchema):
    """What every CXone interaction event has, whatever its type."""

    interaction_id = _text("interactionId", longest=256)
    channel = fields.String(required=True, validate=validate.OneOf(CHANNELS))
    status = fields.String(required=True, validate=validate.OneOf(list(TYPE_OF_STATUS)))
    timestamp = _text("timestamp", _rfc3339)
    account_id = _text("accountId", longest=256)
    lifecycle_stage = fields.String(
        data_key="lifecycleStage",
        allow_none=True,
        load_default=None,
        validate=validate.OneOf(list(EventType)),
    )
    metadata = fields.Dict(required=True, keys=fields.String())


class TransferMetadata(_EventSchema):
    """``metadata`` of a transfer: its target is required, as a queue or as an agent."""

    to_queue = _text("toQueue", required=False)
    to_agent_id = _text("toAgentId", required=False)
    from_agent_id = _text("fromAgentId", required=False)
    reason = _text(required=False)

    @validates_schema
    def _check_target(self, data: dict[str, Any], **_: Any) -> None:
        if not data.get("to_queue") and not data.get("to_agent_id"):
            raise ValidationError("Missing data: toQueue or toAgentId is required.", "toQueue")


def _schema(**columns: fields.Field[Any]) -> Schema:
    return _EventSchema.from_dict(columns)()


_ENVELOPE = EnvelopeSchema()
_DETAIL = DetailSchema()
_METADATA: Mapping[EventType, Schema] = {
    EventType.CREATED: _schema(initial_queue=_text("queue")),
    EventType.ROUTED: _schema(agent_id=_text("agentId"), skill=_text()),
    EventType.TRANSFER: TransferMetadata(),
    EventType.COMPLETED: _schema(
        disposition=_text(), duration_ms=_milliseconds("durationMs"), agent_id=_text("agentId")
    ),
    EventType.ABANDONED: _schema(
        queue=_text(required=False), wait_ms=_milliseconds("waitMs", required=False)
    ),
}


class ParsedDetail(NamedTuple):
    """A typed event, and notes for its audit record on how it was read."""

    event: InteractionEvent
    notes: tuple[str, ...]


def load_envelope(raw: object) -> Envelope:
    """Return an EventBridge envelope, checked.

    Raises:
        InvalidEventError: It names each field that is missing or wrong.
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
    """Return the typed event of an envelope's detail.

    Raises:
        InvalidEventError: It names each field that is missing or wrong, of the detail and of the
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
    """Return the lifecycle stage where it is given, else the type that the status stands for."""
    stage, status = common.get("lifecycle_stage"), common.get("status")
    if stage is None:
        # A stage that was given and refused must not be replaced by a guess.
        absent = "lifecycle_stage" in common
        return TYPE_OF_STATUS.get(status or "") if absent else None, ()
    if stage == EventType.TRANSFER:
        agree = status in STATUSES_OF_A_TRANSFER
    else:
        agree = TYPE_OF_STATUS.get(status or "") == stage
    notes = (f"lifecycleStage {stage} taken over status {status}",)
    return EventType(stage), () if agree or status is None else notes


def _flatten(messages: Any, path: str = "") -> Iterator[FieldError]:
    """Turn marshmallow's nested messages into one error per field."""
    if isinstance(messages, dict):
        for name, inner in messages.items():
            yield from _flatten(inner, f"{path}.{name}" if path else str(name))
    else:
        yield FieldError(path, " ".join(messages))
