"""Events as CXone sends them and EventBridge wraps them, and the claims they get."""

from collections.abc import Callable
from typing import Any

from tasks.claims import AuditRecord, Claim, ClaimSnapshot, Delivery, Outcome, Report, Status, audit
from tasks.errors import InvalidEventError, ProcessorError
from tasks.events import MetadataRules, canonical_json, payload_hash
from tasks.events.metadata import SHIPPED

EVENT_ID = "6a7e8feb-b491-4cf7-a9f1-bf3703467718"
RECEIVED_AT = "2026-01-31T12:00:01.000Z"
TIME = "2026-01-31T12:00:00Z"

PROD_RULES = MetadataRules.from_file(SHIPPED, "prod")

#: What the shipped rules of ``prod`` demand of any event's metadata.
RULED = {"environment": "prod", "region": "eu-west-1", "pipelineVersion": "1.12.0"}

#: Every field of metadata in docs/interface.md, by lifecycle stage.
FULL_METADATA: dict[str, dict[str, Any]] = {
    "created": {"queue": "billing"},
    "routed": {"agentId": "agent-7", "skill": "refunds"},
    "transfer": {
        "toQueue": "second-line",
        "toAgentId": "agent-8",
        "fromAgentId": "agent-7",
        "reason": "needs a specialist",
    },
    "completed": {"disposition": "resolved", "durationMs": 182_000, "agentId": "agent-7"},
    "abandoned": {"queue": "billing", "waitMs": 42_000},
}

STAGES = list(FULL_METADATA)

#: A status that goes with each lifecycle stage.
STATUS_OF_STAGE = {
    "created": "queued",
    "routed": "routed",
    "transfer": "in-progress",
    "completed": "completed",
    "abandoned": "abandoned",
}


def make_detail(stage: str = "created", **changes: Any) -> dict[str, Any]:
    """A valid detail of this stage with everything in it, and then some changes to it."""
    return {
        "interactionId": "interaction-1",
        "channel": "voice",
        "status": STATUS_OF_STAGE[stage],
        "timestamp": TIME,
        "accountId": "account-1",
        "lifecycleStage": stage,
        "metadata": RULED | FULL_METADATA[stage],
    } | changes


def make_envelope(stage: str = "created", **changes: Any) -> dict[str, Any]:
    """A valid envelope as EventBridge sends it, and then some changes to it."""
    return {
        "version": "0",
        "id": EVENT_ID,
        "detail-type": "Interaction Event",
        "source": "nice.cxone",
        "account": "123456789012",
        "time": TIME,
        "region": "eu-west-1",
        "resources": [],
        "detail": make_detail(stage),
    } | changes


def without(mapping: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name not in names}


def messages_of(error: InvalidEventError) -> dict[str, str]:
    """Field → message; a field that is reported twice would be lost here, so it may not be."""
    messages = {found.field: found.message for found in error.errors}
    assert len(messages) == len(error.errors), f"a field is reported twice: {error}"
    return messages


def delivered(attempts: int = 1, *, at: str = "2026-01-31T12:00:02.000Z") -> Delivery:
    return Delivery(outcome=Outcome.DELIVERED, tries={"1": attempts}, at=at)


def failed(error: str = "500 Internal Server Error", attempts: int = 5) -> Delivery:
    return Delivery(
        outcome=Outcome.FAILED, tries={"1": attempts}, error=error, at="2026-01-31T12:00:30.000Z"
    )


def report(sink: str, outcome: Outcome = Outcome.DELIVERED, **changes: Any) -> Report:
    defaults = {
        "attempts": 1,
        "at": "2026-01-31T12:00:02.000Z",
        "error": None if outcome is Outcome.DELIVERED else "400 Bad Request",
    }
    return Report(sink=sink, outcome=outcome, **(defaults | changes))


def make_claim(**changes: Any) -> Claim:
    """The claim of a created event that three sinks are still to get, and changes to it."""
    payload = canonical_json(without(make_envelope(), "version", "account", "region", "resources"))
    return Claim(
        **{
            "id": EVENT_ID,
            "status": Status.PROCESSING,
            "received_at": RECEIVED_AT,
            "event_time": TIME,
            "interaction_id": "interaction-1",
            "event_type": "created",
            "payload": payload,
            "payload_sha256": payload_hash(payload),
            "deliveries": {s: Delivery() for s in ("analytics", "crm", "compliance")},
            "holder": "worker-a",
            "due_at": 1_769_861_401,
            "notes": [],
            **changes,
        }
    )


def make_record(
    *,
    event_id: str,
    interaction_id: str | None,
    event_type: str | None,
    received_at: str,
    previous: tuple[int, str | None],
    **stated: Any,
) -> AuditRecord:
    """An audit record; ``previous`` is the revision and hash before it."""
    snapshot = ClaimSnapshot(
        id=event_id,
        status=Status.PROCESSING,
        version=1,
        interaction_id=interaction_id,
        event_type=event_type,
        received_at=received_at,
        deliveries={},
        revision=previous[0],
        lineage_hash=previous[1],
    )
    return audit.make_record(snapshot, **stated)


def attempt(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    """What a function returns, and the ``ProcessorError`` it raises: one of them is None."""
    try:
        return function(*arguments), None
    except ProcessorError as error:
        return None, error
