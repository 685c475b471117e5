"""``process_event``: parse, validate, claim; then fan out."""

import json
import logging
import zlib
from functools import cache
from typing import Any

from celery import Task

from tasks import audit
from tasks.celery import app
from tasks.claims import LONGEST_ID, Claim, Claims, Conflict, Duplicate, Won, claims
from tasks.clock import now, to_rfc3339
from tasks.dispatch import fan_out
from tasks.errors import FieldError, InvalidEventError
from tasks.events import Envelope, InteractionEvent, payload_hash
from tasks.metrics import counters
from tasks.outcomes import Delivery, Status
from tasks.poison import lost_too_often
from tasks.registry import MetadataRules
from tasks.schemas import load_envelope, parse_detail
from tasks.settings import settings

#: Largest compressed payload kept. An item may have 400 KB, audit records included.
LARGEST_PAYLOAD = 300_000

_log = logging.getLogger(__name__)


@app.task(
    name="process_event",
    bind=True,
    # Whatever goes wrong before the claim, the event must not be lost: EventBridge was told 202.
    autoretry_for=(Exception,),
    dont_autoretry_for=(InvalidEventError,),
    max_retries=None,
    retry_backoff=1,
    retry_backoff_max=60,
)
def process_event(
    self: Task[Any, Any], key: str, envelope: Any, received_at: str | None = None
) -> dict[str, str]:
    """Claim one event and start its deliveries; answer what became of it.

    ``received_at`` is when ingest took it, RFC 3339.
    """
    answer = _process(self, key, envelope, received_at or to_rfc3339(now()))
    counters().add("processed", answer=answer)
    return {"answer": answer}


def _process(task: Task[Any, Any], key: str, envelope: Any, received_at: str) -> str:
    if lost_too_often(task):
        if claims().get(key):
            return "duplicate"  # it was claimed before its worker died; a sweep has it
        return claim_event(claims(), given_up(key, envelope, received_at), None)
    source = envelope.get("source") if isinstance(envelope, dict) else None
    if isinstance(source, str) and source != settings().event_source:
        return "ignored"
    new, event = read_event(rules(), key, envelope, received_at, holder=str(task.request.id))
    return claim_event(claims(), new, event)


@cache
def rules() -> MetadataRules:
    """The metadata rules of the current environment, compiled once."""
    return MetadataRules.from_file(settings().metadata_registry, settings().current_environment)


def read_event(
    rules: MetadataRules, key: str, raw: Any, received_at: str, holder: str
) -> tuple[Claim, InteractionEvent | None]:
    """Make the claim that an event deserves, and its typed event where it is a valid one.

    Raises:
        InvalidEventError: there is not even a key to keep it under.
    """
    if not isinstance(key, str) or not key.isprintable() or not 0 < len(key) <= LONGEST_ID:
        raise InvalidEventError([FieldError("key", "Not a dedup key.")])
    try:
        envelope = load_envelope(raw)
    except InvalidEventError as error:
        return _failed(key, _as_it_came(raw), received_at, None, error), None
    payload = envelope.payload
    try:
        if key not in (envelope.id, envelope.replay_key):
            raise InvalidEventError([FieldError("id", "Does not give the key it came under.")])
        event, notes = _parse(rules, envelope, payload)
    except InvalidEventError as error:
        return _failed(key, payload, received_at, envelope, error), None
    claim = Claim(
        id=key,
        status=Status.PROCESSING,
        received_at=received_at,
        event_time=envelope.time,
        interaction_id=event.interaction_id,
        event_type=event.type.value,
        payload=payload,
        payload_sha256=payload_hash(payload),
        deliveries={sink: Delivery() for sink in settings().wanted_by(event.type)},
        holder=holder,
        notes=notes,
    )
    return claim, event


def given_up(key: str, raw: Any, received_at: str) -> Claim:
    """Make the failed claim of an event that keeps killing its worker, without looking into it."""
    error = InvalidEventError([FieldError("event", "Given up: it kept killing its worker.")])
    return _failed(key, _as_it_came(raw), received_at, None, error)


def _as_it_came(raw: Any) -> bytes:
    """What can be kept of something that is not an envelope."""
    try:
        return json.dumps(raw, sort_keys=True).encode()
    except RecursionError:
        return b""


def _parse(
    rules: MetadataRules, envelope: Envelope, payload: bytes
) -> tuple[InteractionEvent, tuple[str, ...]]:
    """Parse and check everything, so that one look shows all that is wrong."""
    errors = []
    if (size := _compressed(payload)) > LARGEST_PAYLOAD:
        message = f"Compresses to {size} bytes; at most {LARGEST_PAYLOAD} can be kept."
        errors.append(FieldError("event", message))
    try:
        parsed = parse_detail(envelope.detail)
    except InvalidEventError as error:
        errors += error.errors
        parsed = None
    known = {error.field for error in errors}
    if isinstance(envelope.detail.get("metadata"), dict):
        errors += [e for e in rules.check(envelope.detail["metadata"]) if e.field not in known]
    if errors or parsed is None:
        raise InvalidEventError(errors)
    return parsed


def _compressed(payload: bytes) -> int:
    return len(payload) if len(payload) <= LARGEST_PAYLOAD else len(zlib.compress(payload))


def _failed(
    key: str, payload: bytes, received_at: str, envelope: Envelope | None, error: InvalidEventError
) -> Claim:
    """Make the claim of an invalid event: final at once, with the reasons in its audit record."""
    detail = envelope.detail if envelope else {}
    interaction_id = detail.get("interactionId")
    if not isinstance(interaction_id, str) or not 0 < len(interaction_id) <= LONGEST_ID:
        interaction_id = None  # it could not be a key of the index ``interaction``
    processed_at = to_rfc3339(now())
    record = audit.make_record(
        event_id=key,
        interaction_id=interaction_id,
        event_type=None,
        received_at=received_at,
        processed_at=processed_at,
        status=Status.FAILED,
        deliveries={},
        previous=(0, None),
        errors=error.errors,
    )
    return Claim(
        id=key,
        status=Status.FAILED,
        received_at=received_at,
        processed_at=processed_at,
        event_time=envelope.time if envelope else None,
        interaction_id=interaction_id,
        event_type=None,
        payload=payload if _compressed(payload) <= LARGEST_PAYLOAD else b"",
        payload_sha256=payload_hash(payload),
        deliveries={},
        audit=[record],
    )


def claim_event(claims: Claims, new: Claim, event: InteractionEvent | None) -> str:
    """Claim an event, and fan it out if the claim is won and the event a valid one."""
    match claims.claim(new):
        case Won(claim) if event:
            fan_out(claim, event)
            return "claimed"
        case Won(claim):
            audit.log_records(claim.audit)
            counters().add("settled", status=claim.status.value)
            counters().lag(claim.audit[0]["lagMs"])
            return "invalid"
        case Duplicate():
            return "duplicate"
        case Conflict(claim):
            _log.error(
                "event %s came with another payload: refused (sha256 %s, claimed with %s)",
                new.id,
                new.payload_sha256,
                claim.payload_sha256,
            )
            return "conflict"
