"""The audit record: what is stated of an event when it settles, and the hash chain of its records.

Each record's ``lineageHash`` covers the record before it, so none can be changed, dropped or
inserted without breaking the chain there; what the newest states is compared with the claim
(``verify_claim``). Clock readings are left out of the hash: the same history gives the same hash,
at whatever time and on whatever host it is computed.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tasks.claims.model import AuditRecord, Claim, ClaimSnapshot
from tasks.claims.outcomes import Delivery, Outcome, Status
from tasks.clock import elapsed_ms
from tasks.errors import FieldError
from tasks.events import canonical_json, payload_hash

#: What the lineage hash does not cover: readings of a clock, and itself.
UNHASHED_FIELDS = frozenset({"receivedAt", "processedAt", "lagMs", "lineageHash"})

_log = logging.getLogger("audit")


def lineage_hash(record: Mapping[str, Any]) -> str:
    """SHA-256, in hex, over the canonical JSON of what a record states and its ``previousHash``."""
    stated = {name: value for name, value in record.items() if name not in UNHASHED_FIELDS}
    return hashlib.sha256(canonical_json(stated)).hexdigest()


def make_record(
    of: ClaimSnapshot,
    processed_at: str,
    status: Status,
    deliveries: Mapping[str, Delivery],
    *,
    notes: Sequence[str] = (),
    errors: Sequence[FieldError] = (),
    actor: str | None = None,
) -> AuditRecord:
    """Make the record of an event's new state; it follows the newest one ``of`` its claim."""
    record: AuditRecord = {
        "eventId": of.id,
        "interactionId": of.interaction_id,
        "eventType": of.event_type,
        "receivedAt": of.received_at,
        "processedAt": processed_at,
        "lagMs": elapsed_ms(of.received_at, processed_at),
        "status": status.value,
        "downstreamResults": [
            downstream_result(sink, delivery) for sink, delivery in sorted(deliveries.items())
        ],
        "revision": of.revision + 1,
        "previousHash": of.lineage_hash,
    }
    if errors:
        record["validationErrors"] = [asdict(error) for error in errors]
    if notes:
        record["notes"] = list(notes)
    if actor:
        record["actor"] = actor
    return record | {"lineageHash": lineage_hash(record)}


def downstream_result(sink: str, delivery: Delivery) -> dict[str, Any]:
    """Return what a record states of one delivery."""
    result: dict[str, Any] = {
        "service": sink,
        "success": delivery.outcome is Outcome.DELIVERED,
        "attempts": delivery.attempts,
    }
    return result | ({"error": delivery.error} if delivery.error else {})


def _hash_or_none(record: Mapping[str, Any]) -> str | None:
    try:
        return lineage_hash(record)
    except (ValueError, TypeError, RecursionError):  # not a record that this project wrote
        return None


def verify_chain(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is wrong with a chain of records, oldest first; nothing if it is intact."""
    problems = []
    previous: str | None = None
    for number, record in enumerate(records, start=1):
        if not isinstance(record, Mapping):
            problems.append(f"revision {number}: is no record")
            previous = None
            continue
        if record.get("revision") != number:
            problems.append(f"revision {number}: says it is revision {record.get('revision')}")
        if record.get("previousHash") != previous:
            problems.append(f"revision {number}: does not follow the record before it")
        if record.get("lineageHash") != _hash_or_none(record):
            problems.append(f"revision {number}: does not match its own hash")
        previous = record.get("lineageHash")
    return problems


def verify_claim(claim: Claim) -> list[str]:
    """Return what a claim's audit records contradict: themselves, or the claim; else nothing.

    Records dropped from the end together with a claim changed to match show only against the
    records that were logged. Times are not covered.
    """
    problems = verify_chain(claim.audit)
    if problems:
        return problems
    if any(record.get("eventId") != claim.id for record in claim.audit):
        problems.append("has records of another event")
    if claim.payload and payload_hash(claim.payload) != claim.payload_sha256:
        problems.append("its payload is not the one that was claimed")
    if claim.status is not Status.PROCESSING and not _is_recorded(claim):
        problems.append("its newest record does not say how it stands")
    return problems


def _is_recorded(claim: Claim) -> bool:
    """Whether a claim's newest record has its status and results.

    Attempts are left out: they grow without a record.
    """

    def without_attempts(results: Iterable[AuditRecord]) -> list[AuditRecord]:
        return [{k: v for k, v in result.items() if k != "attempts"} for result in results]

    newest = claim.audit[-1] if claim.audit else {}
    results = (downstream_result(sink, d) for sink, d in sorted(claim.deliveries.items()))
    return newest.get("status") == claim.status.value and without_attempts(
        newest.get("downstreamResults", [])
    ) == without_attempts(results)


def log_records(records: Iterable[AuditRecord]) -> None:
    """Write records to the log, one JSON object a line."""
    for record in records:
        _log.info(json.dumps(record, ensure_ascii=False))
