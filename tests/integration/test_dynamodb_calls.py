"""What an event costs in DynamoDB, counted between the workers and the table."""

import pytest
from celery import Celery

from embedded.stubs.sinks import SampleSinks
from tests.support.envelopes import envelope
from tests.support.system import IngestContainer, System, TaskEvents


@pytest.fixture(autouse=True)
def _forget_earlier_calls(system: System) -> None:
    system.dynamodb.forget()


def test_an_event_costs_two_writes_and_no_read(
    system: System, ingest: IngestContainer, task_events: TaskEvents
) -> None:
    claim = system.settle(envelope())
    task_events.wait_for(f"{claim.id}.settle.1")
    assert system.dynamodb.calls(claim.id) == ["PutItem", "UpdateItem"]


def test_retried_deliveries_cost_nothing_more(
    system: System, sinks: SampleSinks, task_events: TaskEvents
) -> None:
    sinks.behave("crm", "status", status=503, retry_after=0)
    sinks.behave("analytics", "status", status=400)
    claim = system.settle(envelope())
    task_events.wait_for(f"{claim.id}.settle.1")
    assert system.dynamodb.calls(claim.id) == ["PutItem", "UpdateItem"]


def test_a_duplicate_costs_one_write(
    system: System, ingest: IngestContainer, task_events: TaskEvents
) -> None:
    event = envelope()
    claim = system.settle(event)
    for _ in range(3):
        system.accept(event)
    task_events.wait_for(f"{claim.id}.process.", count=4)
    assert system.dynamodb.calls(claim.id) == ["PutItem", "UpdateItem", *["PutItem"] * 3]


def test_a_conflict_costs_one_write(
    system: System, ingest: IngestContainer, task_events: TaskEvents
) -> None:
    event = envelope()
    claim = system.settle(event)
    system.accept(envelope(id=event["id"]))
    task_events.wait_for(f"{claim.id}.process.", count=2)
    assert system.dynamodb.calls(claim.id) == ["PutItem", "UpdateItem", "PutItem"]


def test_an_invalid_event_costs_one_write(
    system: System, ingest: IngestContainer, task_events: TaskEvents
) -> None:
    claim = system.settle(envelope(metadata={"region": "mars-1"}))
    task_events.wait_for(f"{claim.id}.process.")
    assert system.dynamodb.calls(claim.id) == ["PutItem"]


def test_a_delivery_by_hand_costs_one_read_and_two_writes(
    system: System, sinks: SampleSinks, app: Celery, task_events: TaskEvents
) -> None:
    sinks.behave("crm", "status", status=400)
    claim = system.settle(envelope())
    sinks.behave("crm")
    system.dynamodb.forget()
    app.send_task("deliver.crm", [claim.id], task_id=f"{claim.id}.crm.by-hand")
    task_events.wait_for(f"{claim.id}.settle.2")
    assert system.dynamodb.calls(claim.id) == ["GetItem", "UpdateItem", "UpdateItem"]
