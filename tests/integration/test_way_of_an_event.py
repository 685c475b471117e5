"""From a POST to the audit record: what each sink receives, and what is kept."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from celery import Celery

from embedded.stubs.sinks import SampleSinks
from tasks.clock import from_rfc3339, now, to_rfc3339
from tests.support.envelopes import (
    SINKS,
    TYPES,
    assert_chain_holds,
    envelope,
    lineage_hash,
    typed_event,
)
from tests.support.system import IngestContainer, System, TaskEvents
from tests.support.waiting import eventually


@pytest.mark.parametrize("kind", TYPES)
def test_each_type_reaches_every_sink(system: System, ingest: IngestContainer, kind: str) -> None:
    event = envelope(kind)
    interaction, timestamp = event["detail"]["interactionId"], event["detail"]["timestamp"]

    claim = system.settle(event)

    assert (claim.status, claim.event_type) == ("completed", kind)
    got = {sink: [(r.key, r.body) for r in calls] for sink, calls in system.calls(event).items()}
    bodies = {
        "analytics": {"eventType": kind, "interactionId": interaction, "timestamp": timestamp},
        "crm": typed_event(event, kind),
        "compliance": {"interactionId": interaction, "archivedAt": claim.received_at},
    }
    assert got == {sink: [(f"{event['id']}:{sink}", body)] for sink, body in bodies.items()}
    assert system.calls(event)["crm"][0].headers["Content-Type"] == "application/json"


def test_the_audit_record_states_the_outcome(system: System, ingest: IngestContainer) -> None:
    event = envelope("routed")
    posted = to_rfc3339(now())

    claim = system.settle(event)

    [record] = claim.audit
    lag = from_rfc3339(record["processedAt"]) - from_rfc3339(record["receivedAt"])
    assert record == {
        "eventId": event["id"],
        "interactionId": event["detail"]["interactionId"],
        "eventType": "routed",
        "receivedAt": claim.received_at,
        "processedAt": claim.processed_at,
        "lagMs": lag / timedelta(milliseconds=1),
        "status": "completed",
        "downstreamResults": [
            {"service": sink, "success": True, "attempts": 1} for sink in sorted(SINKS)
        ],
        "revision": 1,
        "previousHash": None,
        "lineageHash": lineage_hash(record),
    }
    assert posted <= record["receivedAt"] <= record["processedAt"] <= to_rfc3339(now())
    assert eventually(lambda: system.audit_log(claim.id)) == [record]


def test_a_settled_event_is_not_due(system: System, ingest: IngestContainer) -> None:
    claim = system.settle(envelope())
    item = system.item(claim.id)
    assert not {"due_at", "due_bucket", "holder"} & item.keys()
    assert claim.id not in system.due()
    kept = datetime.fromtimestamp(int(item["expires_at"]["N"]), tz=now().tzinfo) - now()
    assert timedelta(days=29) < kept < timedelta(days=31)


def test_archived_at_is_the_same_on_every_attempt(system: System, sinks: SampleSinks) -> None:
    event = envelope()
    sinks.behave("compliance", "status", status=503, retry_after=1, times=2)

    claim = system.settle(event)

    archived = [request.body["archivedAt"] for request in system.calls(event)["compliance"]]
    assert archived == [claim.received_at] * 3
    assert claim.deliveries["compliance"].attempts == 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("queued", "created"),
        ("routed", "routed"),
        ("in-progress", "routed"),
        ("completed", "completed"),
        ("abandoned", "abandoned"),
    ],
)
def test_without_a_stage_the_status_decides(
    system: System, ingest: IngestContainer, status: str, kind: str
) -> None:
    claim = system.settle(envelope(kind, detail={"lifecycleStage": None, "status": status}))
    assert (claim.status, claim.event_type, claim.notes) == ("completed", kind, [])


@pytest.mark.parametrize(
    ("stage", "status"), [("completed", "routed"), ("transfer", "abandoned"), ("created", "routed")]
)
def test_a_stage_wins_over_the_status_and_is_noted(
    system: System, ingest: IngestContainer, stage: str, status: str
) -> None:
    event = envelope(stage, detail={"status": status})
    claim = system.settle(event)
    [record] = claim.audit
    [note] = record["notes"]
    assert (claim.status, record["eventType"]) == ("completed", stage)
    assert stage in note
    assert status in note
    assert system.calls(event)["analytics"][0].body["eventType"] == stage
    assert_chain_holds(claim.audit)


def test_a_foreign_source_is_ignored(
    system: System, ingest: IngestContainer, app: Celery, task_events: TaskEvents
) -> None:
    foreign = envelope(source="somebody.else")
    answer = ingest.post(foreign)
    assert (answer.status, answer.json) == (
        202,
        {"accepted": 0, "ignored": 1, "batchItemFailures": []},
    )
    # Also if it was not published by ingest.
    app.send_task("process_event", (foreign["id"], foreign), task_id=f"{foreign['id']}.process")
    [ended] = task_events.wait_for(f"{foreign['id']}.process")
    assert "ignored" in ended["result"]
    assert system.claims.get(foreign["id"]) is None
    assert task_events.of(f"{foreign['id']}.process.") == []


INVALID: list[tuple[str, dict[str, Any], str]] = [
    ("completed", {"metadata": {"region": "mars-1"}}, "detail.metadata.region"),
    ("completed", {"metadata": {"environment": "dev"}}, "detail.metadata.environment"),
    ("completed", {"metadata": {"pipelineVersion": None}}, "detail.metadata.pipelineVersion"),
    ("completed", {"metadata": {"pipelineVersion": "1.4"}}, "detail.metadata.pipelineVersion"),
    ("completed", {"metadata": {"durationMs": "184000"}}, "detail.metadata.durationMs"),
    ("completed", {"metadata": {"durationMs": -1}}, "detail.metadata.durationMs"),
    ("completed", {"metadata": {"durationMs": True}}, "detail.metadata.durationMs"),
    ("created", {"metadata": {"queue": None}}, "detail.metadata.queue"),
    ("routed", {"metadata": {"skill": 7}}, "detail.metadata.skill"),
    ("transfer", {"metadata": {"toQueue": None}}, "detail.metadata.toQueue"),
    ("abandoned", {"metadata": {"waitMs": 1.5}}, "detail.metadata.waitMs"),
    ("completed", {"detail": {"channel": "fax"}}, "detail.channel"),
    ("completed", {"detail": {"status": "gone"}}, "detail.status"),
    ("completed", {"detail": {"lifecycleStage": "ended"}}, "detail.lifecycleStage"),
    ("completed", {"detail": {"interactionId": None}}, "detail.interactionId"),
    ("completed", {"detail": {"accountId": ["a"]}}, "detail.accountId"),
    ("completed", {"detail": {"timestamp": "2026-11-20 09:30"}}, "detail.timestamp"),
    ("completed", {"detail": {"metadata": None}}, "detail.metadata"),
]


@pytest.mark.parametrize("case", INVALID, ids=[field for _, _, field in INVALID])
def test_an_invalid_event_fails_and_is_not_delivered(
    system: System,
    ingest: IngestContainer,
    task_events: TaskEvents,
    case: tuple[str, Mapping[str, Any], str],
) -> None:
    kind, changes, field = case

    claim = system.settle(envelope(kind, **changes))

    [record] = claim.audit
    [error] = record["validationErrors"]
    assert (record["status"], record["downstreamResults"]) == ("failed", [])
    assert error["field"] == field
    assert error["message"]
    assert_chain_holds(claim.audit)
    assert claim.id not in system.due()
    assert eventually(lambda: system.audit_log(claim.id)) == [record]
    task_events.wait_for(f"{claim.id}.process.", "succeeded")
    assert {e["uuid"].split(".")[1] for e in task_events.of(f"{claim.id}.")} == {"process"}


def test_every_invalid_field_is_reported_at_once(system: System, ingest: IngestContainer) -> None:
    claim = system.settle(
        envelope(detail={"channel": "fax"}, metadata={"region": "mars-1", "agentId": None})
    )
    assert {error["field"] for error in claim.audit[0]["validationErrors"]} == {
        "detail.channel",
        "detail.metadata.region",
        "detail.metadata.agentId",
    }


def test_an_invalid_event_cannot_be_delivered_by_hand(
    system: System, ingest: IngestContainer, app: Celery, task_events: TaskEvents
) -> None:
    event = envelope(metadata={"region": "mars-1"})
    claim = system.settle(event)
    app.send_task("deliver.crm", [claim.id], task_id=f"{claim.id}.by-hand")
    [ended] = task_events.wait_for(f"{claim.id}.by-hand")
    assert ended["type"] == "task-failed"
    assert system.calls(event)["crm"] == []
    assert system.claim(claim.id) == claim


def test_personal_data_is_only_in_the_claim_and_the_sinks(
    system: System, sinks: SampleSinks, app: Celery, task_events: TaskEvents
) -> None:
    marker = "Jane-Roe-0175-555"
    private = {"toQueue": marker, "reason": marker, "customer": {marker: marker}}
    account = {"accountId": marker, "customerName": marker}
    valid = envelope("transfer", metadata=private, detail=account)
    refused = envelope("transfer", metadata=private, detail=account)
    invalid = envelope("transfer", metadata={**private, "region": marker, "toAgentId": [marker]})
    mistyped = envelope(detail={"channel": marker, "timestamp": marker, "lifecycleStage": marker})

    key = system.settle(valid).id
    assert marker in json.dumps(system.calls(valid)["crm"][0].body), "it did travel"
    sinks.behave("crm", "status", status=400)
    sinks.behave("analytics", "status", status=503, retry_after=0)
    sinks.behave("compliance", "close", times=1)
    assert system.settle(refused).status == "partial_failure"
    assert system.settle(invalid).status == "failed"
    assert system.settle(mistyped).status == "failed"
    system.accept({**valid, "time": "2026-11-20T09:30:02Z"})  # the same id, another payload
    system.ingest.post(envelope(detail={"x": marker}, source=None, time=marker, **{marker: marker}))
    system.ingest.post([{"id": marker, "detail": marker}, marker])
    system.ingest.post(f'{{"id": "{marker}", {marker}'.encode())
    app.send_task("deliver.crm", [key], task_id=f"{key}.crm.again")
    broken = {"task_id": f"{key}.process.broken", "argsrepr": "()"}  # a message that shows no key
    app.send_task("process_event", [key, {"detail": marker}], **broken)
    task_events.wait_for(f"{key}.process.", count=3)
    task_events.wait_for(f"{key}.crm.again")

    assert marker not in system.worker.logs()
    assert marker not in system.ingest.logs()
    assert marker not in json.dumps(task_events.all())
    results = system.broker.client
    for name in results.scan_iter("celery-task-meta-*"):
        assert marker not in str(results.get(name))
