"""DynamoDB behind a bad network, or failing: tasks retry, and each event is processed once.

Every fault lasts longer than the SDK's own retries, so that Celery's have to succeed.
"""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial

import pytest
from pytest_celery import CeleryTestSetup

from embedded.stubs.sinks import SampleSinks
from tests.support.envelopes import SINKS, Envelope, assert_chain_holds, envelope
from tests.support.system import System, TaskEvents
from tests.support.waiting import eventually
from tests.support.wiretap import (
    Action,
    Wiretap,
    answer_with,
    break_the_answer_off,
    lose_the_answer,
)

from .conftest import MakeSystem

#: One more than the SDK makes.
ATTEMPTS = 5

#: What happens to a call on its way there, and to an answer on its way back.
ON_THE_WAY_THERE: dict[str, Action] = {
    "dropped": lose_the_answer,
    "500": answer_with(500, "InternalServerError"),
    "503": answer_with(503, "ServiceUnavailable"),
    "throttled": answer_with(400, "ThrottlingException"),
    "over capacity": answer_with(400, "ProvisionedThroughputExceededException"),
}
ON_THE_WAY_BACK: dict[str, Action] = {"lost": lose_the_answer, "cut": break_the_answer_off}

#: The answer comes after the client has timed out; once, since each time takes a while.
TOO_LATE = "too late"

FAULTS = [*ON_THE_WAY_THERE, *ON_THE_WAY_BACK, TOO_LATE]

#: The writes of an event, and the task that makes each.
WRITES = {"PutItem": "process", "UpdateItem": "settle"}


@pytest.fixture(scope="module")
def module_system(make_system: MakeSystem) -> Iterator[System]:
    """A system in which nothing but the tasks themselves retries."""
    with make_system("faults", worker_options=("--concurrency", "8")) as system:
        yield system


@pytest.fixture(scope="module")
def faulted(module_system: System) -> dict[tuple[str, str], Envelope]:
    """An event for each fault of each write: all in progress at once."""
    events = {(write, fault): envelope() for write in WRITES for fault in FAULTS}
    for (write, fault), event in events.items():
        arm(module_system.dynamodb, write, fault, event["id"])
        module_system.accept(event)
    return events


def arm(dynamodb: Wiretap, write: str, fault: str, key: str) -> None:
    """Make a fault happen to this write of an event."""
    if fault in ON_THE_WAY_THERE:
        dynamodb.before_call(write, key, ON_THE_WAY_THERE[fault], ATTEMPTS)
    elif fault in ON_THE_WAY_BACK:
        dynamodb.before_answer(write, key, ON_THE_WAY_BACK[fault], ATTEMPTS)
    else:
        dynamodb.before_answer(write, key, partial(time.sleep, 6))


def assert_done_once(system: System, event: Envelope) -> None:
    """One claim, one call of each sink, one record; nothing due."""
    claim = system.settled(event["id"], 60)
    assert (claim.status, claim.generation) == ("completed", 1)
    assert {sink: len(calls) for sink, calls in system.calls(event).items()} == dict.fromkeys(
        SINKS, 1
    )
    assert len(claim.audit) == 1
    assert_chain_holds(list(claim.audit))
    assert claim.id not in system.due()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("write", WRITES)
def test_a_failed_write_is_retried_and_done_once(
    system: System, faulted: dict[tuple[str, str], Envelope], write: str, fault: str
) -> None:
    event = faulted[write, fault]
    task_id = f"{event['id']}.{WRITES[write]}."
    system.task_events.wait_for(task_id, "succeeded")
    assert_done_once(system, event)
    assert ("retried" in system.task_events.types(task_id)) == (fault != TOO_LATE)


def test_an_outage_loses_and_repeats_nothing(
    system: System, sinks: SampleSinks, task_events: TaskEvents
) -> None:
    sinks.behave("crm", "slow", seconds=1)
    claimed = [envelope() for _ in range(4)]
    for event in claimed:
        system.accept(event)
    eventually(lambda: all(system.calls(event)["crm"] for event in claimed))
    with system.dynamodb.away():
        new = [envelope() for _ in range(4)]
        for event in new:
            system.accept(event)
        for task, waiting in (("settle", claimed), ("process", new)):
            for event in waiting:
                task_events.wait_for(f"{event['id']}.{task}.", "retried")
        assert [system.calls(event)["crm"] for event in new] == [[]] * 4
    for event in claimed + new:
        assert_done_once(system, event)


def test_a_delivery_killed_during_an_outage_is_redelivered(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    event = envelope()
    sinks.behave("crm", "hang", seconds=60, times=1)
    key = system.accept(event)
    eventually(lambda: system.calls(event)["crm"])
    with system.dynamodb.away():  # so that the redelivery cannot be counted
        child = system.pool_process_of(celery_setup.app, f"{key}.crm.1")
        os.kill(child, signal.SIGKILL)
        eventually(lambda: len(system.calls(event)["crm"]) == 2, what="it is delivered again")
    assert system.settled(key, 60).status == "completed"
