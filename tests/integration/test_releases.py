"""Releases side by side: an earlier one's messages are processed, a later one's are kept for it."""

import time
from collections.abc import Iterator

import pytest
from pytest_celery import CeleryTestSetup

from embedded.stubs.sinks import SampleSinks
from tasks.celery import UNKNOWN_SCHEMA_DELAY
from tasks.claims.codec import ITEM_SCHEMA
from tests.support.envelopes import SINKS, envelope
from tests.support.short_settings import FREQUENT_SWEEPS
from tests.support.system import System
from tests.support.waiting import TIMEOUT, eventually

from .conftest import MakeSystem

#: The schema of an item that only the next release can read.
LATER = {"N": str(ITEM_SCHEMA + 1)}


@pytest.fixture(scope="module")
def module_system(make_system: MakeSystem) -> Iterator[System]:
    """A system with beat."""
    with make_system("releases", beat=True, **FREQUENT_SWEEPS) as system:
        yield system


@pytest.fixture
def system(module_system: System, sinks: SampleSinks) -> Iterator[System]:
    """The same, with this release's worker running and no events left."""
    module_system.worker.restart_unless_running()
    yield module_system
    module_system.broker.client.delete("events")


def send(setup: CeleryTestSetup, event: dict[str, object], **headers: int) -> None:
    """Publish an event as an ingest of another release would."""
    args = [event["id"], event, "2026-11-20T09:30:02.000Z"]
    setup.app.send_task("process_event", args, task_id=f"{event['id']}.process", headers=headers)


def test_a_message_without_a_schema_is_processed(
    system: System, celery_setup: CeleryTestSetup
) -> None:
    event = envelope()
    send(celery_setup, event)
    assert system.settled(str(event["id"])).status == "completed"


def test_a_message_of_a_later_release_is_kept_for_its_workers(
    system: System, celery_setup: CeleryTestSetup
) -> None:
    event = envelope()
    key = str(event["id"])
    send(celery_setup, event, message_schema=2)
    celery_setup.worker.wait_for_log(f"{key}.process is kept for workers of another release")
    assert system.claims.get(key) is None

    system.worker.stop()
    with_schema_2 = ("-I", "tests.support.later_release")
    later = system.make_worker("later", *with_schema_2)
    later.start()
    try:
        assert system.settled(key, seconds=UNKNOWN_SCHEMA_DELAY + TIMEOUT).status == "completed"
    finally:
        later.teardown()


def test_a_message_of_a_later_release_uses_up_no_attempt(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    """A delivery has five attempts; its message may be put back more often than that."""
    event = envelope()
    payload = {"event": {"type": "nonsense"}, "receivedAt": "2026-11-20T09:30:02.000Z"}
    key = str(event["id"])
    celery_setup.app.send_task(
        "deliver.crm",
        [key, payload],
        task_id=f"{key}.crm.1",
        headers={"message_schema": 2},
        retries=4,
    )
    celery_setup.worker.wait_for_log(f"{key}.crm.1 is kept for workers of another release")
    [event] = system.task_events.wait_for(f"{key}.crm.1", "retried", "failed")
    assert event["type"] == "task-retried"


def test_an_item_of_a_later_release_is_kept_and_blocks_nothing(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    """Both are overdue; this release's sweep takes over what it can read."""
    sinks.behave("crm", "status", status=400)
    newer, readable = (system.settle(envelope()).id for _ in range(2))
    sinks.behave("crm")
    system.change(newer, "item_schema", LATER)
    as_it_was = system.item(newer)
    for key in (newer, readable):
        system.change(key, "status", {"S": "processing"})
        system.change(key, "due_bucket", {"S": "0"})
        system.change(key, "due_at", {"N": str(int(time.time()) - 5)})

    celery_setup.worker.wait_for_log(f"claim of {newer}: item schema {ITEM_SCHEMA + 1}")
    eventually(lambda: readable not in system.due(), what="the sweep goes on to the readable one")
    assert newer in system.due(), "kept"
    for attribute in ("version", "dispatches"):
        assert system.item(newer)[attribute] == as_it_was[attribute], (
            "this release did not touch it"
        )
    assert system.claim(readable).status == "partial_failure"
    assert set(SINKS) == set(system.claim(readable).deliveries)


def test_an_item_of_a_later_release_is_settled_by_its_workers(
    system: System, sinks: SampleSinks
) -> None:
    event = envelope()
    sinks.behave("crm", "slow", seconds=1, times=1)
    key = system.accept(event)
    eventually(lambda: system.calls(event)["crm"], what="it is in progress")
    system.change(key, "item_schema", LATER)

    system.task_events.wait_for(f"{key}.settle.1", "retried")
    assert system.item(key)["version"] == {"N": "1"}

    system.change(key, "item_schema", {"N": str(ITEM_SCHEMA)})  # a worker comes that can read it
    assert system.settled(key).status == "completed"
    assert {sink: len(calls) for sink, calls in system.calls(event).items()} == dict.fromkeys(
        SINKS, 1
    )
