"""Envelopes as EventBridge sends them, and what must become of them (docs/interface.md)."""

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

Envelope = dict[str, Any]

SINKS = ("analytics", "crm", "compliance")

#: type → the status it comes with, what its metadata must have, what its typed event adds.
TYPES: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    "created": ("queued", {"queue": "billing"}, {"channel": "voice", "initialQueue": "billing"}),
    "routed": (
        "routed",
        {"agentId": "agent-7", "skill": "loans"},
        {"agentId": "agent-7", "skill": "loans"},
    ),
    "transfer": (
        "in-progress",
        {"toQueue": "complaints", "fromAgentId": "agent-7", "reason": "asked for"},
        {"toQueue": "complaints", "fromAgentId": "agent-7", "reason": "asked for"},
    ),
    "completed": (
        "completed",
        {"disposition": "resolved", "durationMs": 184_000, "agentId": "agent-7"},
        {"disposition": "resolved", "durationMs": 184_000, "agentId": "agent-7"},
    ),
    "abandoned": (
        "abandoned",
        {"queue": "billing", "waitMs": 95_000},
        {"queue": "billing", "waitMs": 95_000},
    ),
}


def envelope(
    kind: str = "completed",
    *,
    metadata: Mapping[str, Any] | None = None,
    detail: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Envelope:
    """Make a valid envelope with ids of its own, then change it; None takes a field away."""
    status, added, _ = TYPES[kind]
    common = {"environment": "prod", "region": "eu-west-1", "pipelineVersion": "1.4.2"}
    whole = {
        "interactionId": f"interaction-{uuid.uuid4().hex[:12]}",
        "channel": "voice",
        "status": status,
        "timestamp": "2026-11-20T09:30:00.250Z",
        "accountId": "account-42",
        "lifecycleStage": kind,
        "metadata": _changed({**common, **added}, metadata or {}),
    }
    return _changed(
        {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": "CXone Interaction Event",
            "source": "nice.cxone",
            "account": "123456789012",
            "time": "2026-11-20T09:30:01Z",
            "region": "eu-west-1",
            "resources": [],
            "detail": _changed(whole, detail or {}),
        },
        {name.replace("_", "-"): value for name, value in changes.items()},
    )


def _changed(whole: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**whole, **changes}.items() if value is not None}


def typed_event(event: Envelope, kind: str) -> dict[str, Any]:
    """The whole typed event of an unchanged envelope, as the CRM must get it."""
    common = {name: event["detail"][name] for name in ("interactionId", "timestamp", "accountId")}
    return {"type": kind, **common, **TYPES[kind][2]}


def lineage_hash(record: Mapping[str, Any]) -> str:
    """The hash of docs/interface.md: SHA-256 over canonical JSON of all but the clock readings."""
    clock = {"receivedAt", "processedAt", "lagMs"}
    stated = {k: v for k, v in record.items() if k not in clock and k != "lineageHash"}
    canonical = json.dumps(stated, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def assert_chain_holds(audit: list[dict[str, Any]]) -> None:
    """Verify a chain of audit records by its definition, without the product's code."""
    previous = None
    for revision, record in enumerate(audit, start=1):
        assert record["revision"] == revision
        assert record["previousHash"] == previous
        assert record["lineageHash"] == lineage_hash(record)
        previous = record["lineageHash"]
