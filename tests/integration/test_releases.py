"""Releases side by side: what an earlier one wrote is understood, a later one's is kept."""

import time
from collections.abc import Iterator

import pytest
from pytest_celery import CeleryTestSetup

from embedded.stubs.sinks import SampleSinks
from tasks.celery import UNKNOWN_SCHEMA_DELAY
from tasks.claims.codec import ITEM_SCHEMA
from tests.support.envelopes import SINKS, envelope
from tests.support.system import System
from tests.support.waiting import PATIENCE, eventually

#: The schema of an item that only the next release can read.
LATER = {"N": str(ITEM_SCHEMA + 1)}


@pytest.fixture(scope="module")
def mixed_system(
    aws_url: str, sample_sinks: SampleSinks, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """A system with beat."""
    folder = tmp_path_factory.mktemp("releases")
    settings = {"SWEEP_INTERVAL_SECONDS": "1"}
    with System(folder, aws_url=aws_url, sinks=sample_sinks, beat=True, **settings) as system:
        yield system


@pytest.fixture
def system(mixed_system: System, sinks: SampleSinks) -> Iterator[System]:
    """The same, with this release's worker."""
    if mixed_system.worker.status != "running":
        mixed_system.worker.restart()
    yield mixed_system
    mixed_system.broker.client.delete("events")


def send(setup: CeleryTestSetup, event: dict[str, object], **headers: int) -> None:
    """Publish an event as an ingest of another release would."""
    args = [event["id"], event, "2026-11-20T09:30:02.000Z"]
    setup.app.send_task("process_event", args, task_id=f"{event['id']}.process", headers=headers)


def test_a_message_without_a_schema_is_understood(
    system: System, celery_setup: CeleryTestSetup
) -> None:
    event = envelope()
    send(celery_setup, event)
    assert system.settled(str(event["id"])).status == "completed"


def test_a_message_of_a_later_release_is_kept_and_done_by_its_workers(
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
        assert system.settled(key, seconds=UNKNOWN_SCHEMA_DELAY + PATIENCE).status == "completed"
    finally:
        later.teardown()


def test_a_message_of_a_later_release_uses_up_no_try(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    """A delivery has five tries; its message may be put back more often than that."""
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
    [told] = system.task_events.wait_for(f"{key}.crm.1", "retried", "failed")
    assert told["type"] == "task-retried"


def test_an_item_of_a_later_release_is_left_to_its_workers_and_holds_up_nothing(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    """Both are overdue; this release's sweep takes over what it can read."""
    sinks.behave("crm", "status", status=400)
    theirs, ours = (system.settle(envelope()).id for _ in range(2))
    sinks.behave("crm")
    system.change(theirs, "item_schema", LATER)
    as_it_was = system.item(theirs)
    for key in (theirs, ours):
        system.change(key, "status", {"S": "processing"})
        system.change(key, "due_bucket", {"S": "0"})
        system.change(key, "due_at", {"N": str(int(time.time()) - 5)})

    celery_setup.worker.wait_for_log(f"claim of {theirs}: item schema {ITEM_SCHEMA + 1}")
    eventually(lambda: ours not in system.due(), what="the sweep goes on to ours")
    assert theirs in system.due(), "kept"
    for attribute in ("version", "dispatches"):
        assert system.item(theirs)[attribute] == as_it_was[attribute], (
            "this release did not touch it"
        )
    assert system.claim(ours).status == "partial_failure"
    assert set(SINKS) == set(system.claim(ours).deliveries)


def test_an_item_of_a_later_release_is_settled_by_its_workers(
    system: System, sinks: SampleSinks
) -> None:
    event = envelope()
    sinks.behave("crm", "slow", seconds=1, times=1)
    key = system.accept(event)
    eventually(lambda: system.calls(event)["crm"], what="it is under way")
    system.change(key, "item_schema", LATER)

    system.task_events.wait_for(f"{key}.settle.1", "retried")
    assert system.item(key)["version"] == {"N": "1"}

    system.change(key, "item_schema", {"N": str(ITEM_SCHEMA)})  # a worker comes that can read it
    assert system.settled(key).status == "completed"
    assert {sink: len(calls) for sink, calls in system.calls(event).items()} == dict.fromkeys(
        SINKS, 1
    )
