"""Workers that get SIGTERM: what they run is done once, what they hold goes to other workers."""

import threading
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus

import pytest
from celery import Celery

from embedded.stubs.sinks import SampleSinks
from tests.support.envelopes import SINKS, Envelope, assert_chain_holds, envelope
from tests.support.nodes import WorkerContainer, running
from tests.support.system import System
from tests.support.waiting import eventually

from .conftest import MakeSystem

#: Seconds that may pass on a loaded machine: until a worker has stopped, until an event settles.
STOP, SETTLE = 90.0, 120.0


@pytest.fixture(scope="module")
def module_system(make_system: MakeSystem) -> Iterator[System]:
    """A system in which nothing is redelivered or taken over during a test."""
    with make_system("stops") as system:
        yield system


@pytest.fixture(scope="module")
def shared_second(module_system: System) -> Iterator[WorkerContainer]:
    """Its second worker."""
    with running(module_system.make_worker("worker-2")) as second:
        yield second


@pytest.fixture
def second(shared_second: WorkerContainer) -> WorkerContainer:
    """The second worker, running."""
    shared_second.restart_unless_running()
    return shared_second


@pytest.fixture
def system(module_system: System, sinks: SampleSinks) -> System:
    """The same, with its first worker running."""
    module_system.worker.restart_unless_running()
    return module_system


def calls_of(system: System, event: Envelope) -> dict[str, int]:
    """How often each sink was called about an event, by key."""
    return dict(Counter(call.key for calls in system.calls(event).values() for call in calls))


def jobs_handed_out(app: Celery) -> int:
    """How many jobs the only running worker has handed to its processes."""
    [stats] = eventually(lambda: app.control.inspect(limit=1).stats()).values()
    written: int = stats["pool"]["writes"]["total"]
    return written


def test_a_rolling_restart_under_load_repeats_and_loses_nothing(
    system: System, second: WorkerContainer, sinks: SampleSinks
) -> None:
    workers = [system.worker, second]
    sinks.behave("crm", "slow", seconds=0.05)
    events: list[Envelope] = []
    over = threading.Event()

    def load() -> None:
        while not over.wait(0.2):
            event = envelope()
            if system.ingest.post(event).status == HTTPStatus.ACCEPTED:
                events.append(event)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for worker in workers * 2:
            enough = len(events) + 5
            eventually(lambda n=enough: len(events) > n, SETTLE)  # type: ignore[misc]
            assert worker.stop(STOP) == 0
            worker.start()
            worker.ready()
    finally:
        over.set()
        thread.join()

    for event in events:
        claim = system.settled(event["id"], SETTLE)
        assert claim.status == "completed"
        assert_chain_holds(list(claim.audit))
        assert claim.generation == 1
        assert calls_of(system, event) == {f"{claim.id}:{sink}": 1 for sink in SINKS}


def test_a_retry_that_a_stopped_worker_held_is_made_by_another(
    system: System, second: WorkerContainer, sinks: SampleSinks
) -> None:
    first = system.worker
    second.stop(STOP)
    event = envelope()
    sinks.behave("crm", "status", status=503, retry_after=3, times=1)
    key = system.accept(event)
    system.task_events.wait_for(f"{key}.crm.1", "retried")
    assert first.stop(STOP) == 0
    second.start()
    second.ready()
    claim = system.settled(key, SETTLE)
    assert (claim.status, claim.deliveries["crm"].attempts) == ("completed", 2)
    assert calls_of(system, event)[f"{key}:crm"] == 2


def test_a_job_handed_to_a_process_before_a_stop_is_done_once(
    system: System, second: WorkerContainer, app: Celery
) -> None:
    first = system.worker
    redis = system.broker.client
    second.stop(STOP)
    processes = first.children()
    handed_out, listeners = jobs_handed_out(app), redis.pubsub_numpat()
    for process in processes:
        process.suspend()
    key = system.accept(envelope())
    eventually(lambda: jobs_handed_out(app) > handed_out, what="a process has the job")
    first.kill("SIGTERM")
    eventually(lambda: redis.pubsub_numpat() < listeners, STOP, "the worker listens no more")
    for process in processes:
        process.resume()
    eventually(lambda: first.status == "exited", STOP, "the worker has stopped")

    assert (redis.llen("events"), redis.hlen("unacked")) == (0, 0)
    second.start()
    second.ready()
    assert system.settled(key, SETTLE).status == "completed"
