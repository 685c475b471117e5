"""From an envelope to the claim of its event: valid, or failed with the reasons."""

import json
import zlib
from dataclasses import replace
from typing import Any

from tasks.claims import audit
from tasks.claims.model import MAX_ID_LENGTH, Claim
from tasks.claims.outcomes import Delivery, Status
from tasks.clock import now, to_rfc3339
from tasks.errors import FieldError, InvalidEventError
from tasks.events import (
    Envelope,
    InteractionEvent,
    MetadataRules,
    load_envelope,
    parse_detail,
    payload_hash,
)
from tasks.settings import settings

#: Largest compressed payload kept. An item may have 400 KB, audit records included.
MAX_PAYLOAD_BYTES = 300_000


def read_event(
    rules: MetadataRules, key: str, raw: Any, received_at: str, holder: str
) -> tuple[Claim, InteractionEvent | None]:
    """Make the claim of an event, and its typed event if it is valid.

    Raises:
        InvalidEventError: it does not even have a key to be stored under.
    """
    if not isinstance(key, str) or not key.isprintable() or not 0 < len(key) <= MAX_ID_LENGTH:
        raise InvalidEventError([FieldError("key", "Not a dedup key.")])
    try:
        envelope = load_envelope(raw)
    except InvalidEventError as error:
        return _failed(key, _raw_payload(raw), received_at, None, error), None
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


def given_up_claim(key: str, raw: Any, received_at: str) -> Claim:
    """Make the failed claim of an event that keeps killing its worker, without looking into it."""
    error = InvalidEventError([FieldError("event", "Given up: it kept killing its worker.")])
    return _failed(key, _raw_payload(raw), received_at, None, error)


def _raw_payload(raw: Any) -> bytes:
    """Return what can be kept of something that is not an envelope."""
    try:
        return json.dumps(raw, sort_keys=True).encode()
    except RecursionError:
        return b""


def _parse(
    rules: MetadataRules, envelope: Envelope, payload: bytes
) -> tuple[InteractionEvent, tuple[str, ...]]:
    """Parse and check everything, so that all errors show at once."""
    errors = []
    if (size := _compressed(payload)) > MAX_PAYLOAD_BYTES:
        message = f"Compresses to {size} bytes; at most {MAX_PAYLOAD_BYTES} can be kept."
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
    return len(payload) if len(payload) <= MAX_PAYLOAD_BYTES else len(zlib.compress(payload))


def _failed(
    key: str, payload: bytes, received_at: str, envelope: Envelope | None, error: InvalidEventError
) -> Claim:
    """Make the claim of an invalid event: final at once, with the reasons in its audit record."""
    detail = envelope.detail if envelope else {}
    interaction_id = detail.get("interactionId")
    if not isinstance(interaction_id, str) or not 0 < len(interaction_id) <= MAX_ID_LENGTH:
        interaction_id = None  # it could not be a key of the index ``interaction``
    processed_at = to_rfc3339(now())
    claim = Claim(
        id=key,
        status=Status.FAILED,
        received_at=received_at,
        processed_at=processed_at,
        event_time=envelope.time if envelope else None,
        interaction_id=interaction_id,
        event_type=None,
        payload=payload if _compressed(payload) <= MAX_PAYLOAD_BYTES else b"",
        payload_sha256=payload_hash(payload),
        deliveries={},
    )
    record = audit.make_record(
        claim.snapshot, processed_at, claim.status, claim.deliveries, errors=error.errors
    )
    return replace(claim, audit=[record])
