"""Workers, messages and Redis lost at the worst moments: the event is finished all the same."""

import os
import signal
from collections.abc import Iterator

import pytest
from pytest_celery import CeleryTestSetup

from embedded.stubs.sinks import SampleSinks
from tasks.claims import Claim
from tests.support.envelopes import SINKS, Envelope, assert_chain_holds, envelope
from tests.support.nodes import running
from tests.support.short_settings import (
    FREQUENT_SWEEPS,
    LONG_LEASE,
    LONG_VISIBILITY,
    ONE_SHORT_ATTEMPT,
    SHORT_LEASE,
    SHORT_VISIBILITY,
)
from tests.support.system import System, TaskEvents
from tests.support.waiting import eventually
from tests.support.wiretap import lose_the_answer

from .conftest import MakeSystem

#: What recovers an event whose worker is lost, by the settings that rule the rest out.
RECOVERIES = {
    "sweep": SHORT_LEASE | LONG_VISIBILITY,
    "redelivery": LONG_LEASE | SHORT_VISIBILITY,
    "both": SHORT_LEASE | SHORT_VISIBILITY,
    "neither": LONG_LEASE | LONG_VISIBILITY,
}


@pytest.fixture(scope="module")
def recovery(request: pytest.FixtureRequest) -> str:
    """What recovers events: the sweep, unless a test is parametrised with others."""
    return getattr(request, "param", "sweep")


@pytest.fixture(scope="module")
def module_system(recovery: str, make_system: MakeSystem) -> Iterator[System]:
    """A system with beat, in which only ``recovery`` can recover an event."""
    settings = ONE_SHORT_ATTEMPT | FREQUENT_SWEEPS | RECOVERIES[recovery]
    with make_system(recovery, beat=True, REDRIVE_SCHEDULE_SECONDS="1", **settings) as system:
        yield system


@pytest.fixture
def system(module_system: System, sinks: SampleSinks) -> System:
    """The same, with its worker running and no faults left."""
    module_system.worker.restart_unless_running()
    module_system.dynamodb.forget()
    return module_system


def hang_in_crm(system: System, sinks: SampleSinks) -> tuple[Envelope, str]:
    """Bring an event to where the CRM does not answer, and every other sink was called."""
    event = envelope()
    sinks.behave("crm", "hang", seconds=20, times=1)
    key = system.accept(event)
    eventually(lambda: all(system.calls(event).values()), what="every sink was called")
    return event, key


def be_slow_in_crm(system: System, sinks: SampleSinks) -> tuple[Envelope, str]:
    """Bring an event to where the CRM takes its time to answer, and every other sink was called."""
    event = envelope()
    sinks.behave("crm", "slow", seconds=1, times=1)
    key = system.accept(event)
    eventually(lambda: all(system.calls(event).values()), what="every sink was called")
    return event, key


def assert_finished(system: System, event: Envelope, claim: Claim) -> None:
    """Every sink has it, under the same key however often; and nothing is due."""
    assert claim.status == "completed"
    for sink in SINKS:
        assert {request.key for request in system.calls(event)[sink]} == {f"{claim.id}:{sink}"}
    assert len(claim.audit) == 1
    assert_chain_holds(claim.audit)
    assert claim.id not in system.due()
    assert "holder" not in system.item(claim.id)


@pytest.mark.parametrize("recovery", ["sweep", "redelivery", "both"], indirect=True)
def test_a_worker_killed_during_a_delivery(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    event, key = hang_in_crm(system, sinks)

    celery_setup.worker.kill()
    assert celery_setup.worker.container.children() == []
    celery_setup.worker.restart()

    claim = system.settled(key)
    assert_finished(system, event, claim)
    assert len(system.calls(event)["crm"]) >= 2


def test_another_worker_takes_over_from_a_lost_one(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    event, key = hang_in_crm(system, sinks)
    celery_setup.worker.kill()
    with running(system.make_worker("other")) as other:
        assert_finished(system, event, system.settled(key))
        assert f"took over {key}, overdue: generation 2" in other.logs()


def test_a_main_process_killed_while_its_pool_lives(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    event, key = be_slow_in_crm(system, sinks)
    celery_setup.worker.container.kill_main()
    celery_setup.worker.restart()
    assert_finished(system, event, system.settled(key))


def test_a_pool_process_killed_during_a_delivery(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    event, key = hang_in_crm(system, sinks)
    os.kill(system.pool_process_of(celery_setup.app, f"{key}.crm.1"), signal.SIGKILL)
    assert_finished(system, event, system.settled(key))
    assert len(system.calls(event)["crm"]) >= 2
    assert celery_setup.worker.container.status == "running"


@pytest.mark.parametrize("recovery", ["neither"], indirect=True)
def test_a_pool_process_killed_while_dynamodb_fails(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    event, key = hang_in_crm(system, sinks)
    for _ in range(4):  # all attempts of the client to count the redelivery
        system.dynamodb.before_answer("UpdateItem", f"redelivered:{key}.crm.1", lose_the_answer)
    os.kill(system.pool_process_of(celery_setup.app, f"{key}.crm.1"), signal.SIGKILL)
    eventually(lambda: system.claim(key).status == "completed", what="it is delivered later")
    assert [len(calls) for calls in system.calls(event).values()] == [1, 2, 1]


def test_a_worker_killed_after_the_claim_is_written(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    event = envelope()
    system.dynamodb.before_answer("PutItem", event["id"], celery_setup.worker.kill)

    key = system.accept(event)
    eventually(lambda: celery_setup.worker.container.status == "exited")
    assert system.claim(key).status == "processing"
    assert system.calls(event)["crm"] == []
    celery_setup.worker.restart()

    claim = system.settled(key)
    assert_finished(system, event, claim)
    assert claim.generation == 2


def test_a_worker_killed_after_the_status_is_written(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    event = envelope()
    system.dynamodb.before_answer("UpdateItem", event["id"], celery_setup.worker.kill)

    key = system.accept(event)
    claim = system.settled(key)
    eventually(lambda: celery_setup.worker.container.status == "exited")
    celery_setup.worker.restart()

    assert_finished(system, event, claim)
    # What is redelivered after the kill changes nothing.
    after = system.settle(envelope())
    assert after.status == "completed"
    assert system.claim(key) == claim


def test_a_lost_message_is_dispatched_again(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    queue = system.broker.client
    event = envelope()
    celery_setup.app.control.cancel_consumer("deliver.crm", reply=True, limit=1)
    key = system.accept(event)
    eventually(lambda: queue.llen("deliver.crm") == 1)
    eventually(lambda: system.calls(event)["analytics"] and system.calls(event)["compliance"])

    queue.delete("deliver.crm")
    celery_setup.app.control.add_consumer("deliver.crm", reply=True, limit=1)

    claim = system.settled(key)
    assert_finished(system, event, claim)
    assert (claim.generation, len(system.calls(event)["crm"])) == (2, 1)


def test_a_stopping_worker_finishes_its_deliveries(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    event, key = be_slow_in_crm(system, sinks)

    assert celery_setup.worker.container.stop() == 0
    system.task_events.wait_for(f"{key}.crm.1", "succeeded")
    assert [len(calls) for calls in system.calls(event).values()] == [1, 1, 1]
    celery_setup.worker.restart()

    assert_finished(system, event, system.settled(key))


def test_redis_killed_with_accepted_events_in_it(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    celery_setup.worker.kill()
    events = [envelope() for _ in range(20)]
    for event in events:
        system.accept(event)

    celery_setup.broker.kill()
    celery_setup.broker.restart()
    celery_setup.worker.restart()

    for event in events:
        assert_finished(system, event, system.settled(event["id"]))


def test_redis_killed_during_a_delivery(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    event, key = be_slow_in_crm(system, sinks)

    celery_setup.broker.kill()
    celery_setup.broker.restart()

    def settled() -> bool:
        if celery_setup.worker.container.status == "exited":  # a supervisor would
            celery_setup.worker.restart()
        return system.claim(key).status != "processing"

    eventually(settled)
    assert_finished(system, event, system.claim(key))


def test_a_worker_outlives_redis(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    be_slow_in_crm(system, sinks)

    celery_setup.broker.kill()
    celery_setup.broker.restart()

    system.settled(system.accept(envelope()), seconds=10)
    assert celery_setup.worker.container.status == "running"


def completed(system: System, key: str) -> Claim | None:
    """The claim, once every sink has the event."""
    claim = system.claims.get(key)
    return claim if claim and claim.status == "completed" else None


@pytest.mark.parametrize("recovery", ["both"], indirect=True)
def test_redis_full_for_a_while(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    events = [envelope() for _ in range(20)]
    sinks.behave("crm", "slow", seconds=0.2, times=20)
    for event in events:
        system.accept(event)
    redis = system.broker.client

    redis.config_set("maxmemory", "1")
    worker = celery_setup.worker
    worker.wait_for_log("Redis takes no writes")
    assert system.ingest.post(envelope()).status == 503
    redis.config_set("maxmemory", "0")

    for event in events:
        # A delivery has one attempt of two seconds, which a busy machine may need: then it is
        # made again, and its event has a revision more.
        claim = eventually(lambda key=event["id"]: completed(system, key), 60, what="all is done")  # type: ignore[misc]
        assert claim is not None
        assert {request.key for request in system.calls(event)["crm"]} == {f"{claim.id}:crm"}
        assert_chain_holds(list(claim.audit))
        assert claim.id not in system.due()
    assert worker.container.status == "running"


def test_all_of_redis_lost(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    event, key = hang_in_crm(system, sinks)
    celery_setup.worker.kill()
    celery_setup.broker.container.client.flushall()
    celery_setup.worker.restart()
    assert_finished(system, event, system.settled(key))


def test_a_lost_answer_to_the_claim_repeats_nothing(
    system: System, sinks: SampleSinks, task_events: TaskEvents
) -> None:
    event = envelope()
    system.dynamodb.before_answer("PutItem", event["id"], lose_the_answer)

    claim = system.settle(event)

    assert_finished(system, event, claim)
    assert claim.generation == 1, "a worker that finds its own claim continues"
    assert {sink: len(calls) for sink, calls in system.calls(event).items()} == dict.fromkeys(
        SINKS, 1
    )
    assert system.dynamodb.calls(claim.id).count("PutItem") == 2


def test_a_lost_answer_to_settling_repeats_nothing(
    system: System, sinks: SampleSinks, task_events: TaskEvents
) -> None:
    event = envelope()
    system.dynamodb.before_answer("UpdateItem", event["id"], lose_the_answer)

    claim = system.settle(event)
    task_events.wait_for(f"{claim.id}.settle.1", "succeeded")

    assert_finished(system, event, system.claim(claim.id))
    assert system.claim(claim.id) == claim
    assert system.audit_log(claim.id) == claim.audit


def test_a_sweep_does_not_wait_behind_a_backlog(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    event = envelope()
    system.dynamodb.before_answer("PutItem", event["id"], celery_setup.worker.kill)
    system.accept(event)
    eventually(lambda: celery_setup.worker.container.status == "exited")
    celery_setup.worker.restart()
    celery_setup.app.control.cancel_consumer("settle", reply=True, limit=1)

    eventually(lambda: system.claim(event["id"]).generation == 2, what="a sweep takes it over")
    celery_setup.app.control.add_consumer("settle", reply=True, limit=1)

    assert_finished(system, event, system.settled(event["id"]))


def test_a_duplicate_takes_over_an_overdue_event(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    event = envelope()
    system.dynamodb.before_answer("PutItem", event["id"], celery_setup.worker.kill)
    system.accept(event)
    eventually(lambda: celery_setup.worker.container.status == "exited")
    assert system.beat is not None
    system.beat.pause()
    try:
        system.change(event["id"], "due_at", {"N": "1"})
        celery_setup.worker.restart()
        assert_finished(system, event, system.settle(event))
    finally:
        system.beat.unpause()
