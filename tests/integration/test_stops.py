"""Workers that are told to stop: what they do is done once, what they hold goes to others."""

import itertools
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from embedded.sinks import SampleSinks

from .envelopes import SINKS, Envelope, assert_chain_holds, envelope
from .nodes import running
from .system import System
from .waiting import eventually


@pytest.fixture(scope="module")
def stopping_system(
    aws_url: str, sample_sinks: SampleSinks, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """A system of two workers, in which nothing is redelivered or taken over in time."""
    folder = tmp_path_factory.mktemp("stops")
    with (
        System(folder, aws_url=aws_url, sinks=sample_sinks) as system,
        running(system.make_worker("worker-2")) as second,
    ):
        system.second = second  # type: ignore[attr-defined] # known to this module alone
        yield system


@pytest.fixture
def system(stopping_system: System, sinks: SampleSinks) -> System:
    """The same."""
    return stopping_system


def calls_of(system: System, event: Envelope) -> dict[str, int]:
    """How often each sink was called about an event, by key."""
    return dict(Counter(call.key for calls in system.calls(event).values() for call in calls))


def test_a_rolling_restart_under_load_repeats_nothing_and_loses_nothing(
    system: System, sinks: SampleSinks
) -> None:
    workers = [system.worker, system.second]  # type: ignore[attr-defined]
    sinks.behave("crm", "slow", seconds=0.05)
    events: list[Envelope] = []
    over = threading.Event()

    def load() -> None:
        for _ in itertools.takewhile(lambda _: not over.is_set(), itertools.count()):
            event = envelope()
            system.accept(event)
            events.append(event)
            over.wait(0.05)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for worker in workers * 2:
            accepted = len(events)
            eventually(lambda n=accepted: len(events) > n + 5)  # type: ignore[misc]
            assert worker.stop() == 0
            worker.start()
            worker.ready()
    finally:
        over.set()
        thread.join()

    for event in events:
        claim = system.settled(event["id"], seconds=60)
        assert claim.status == "completed"
        assert_chain_holds(list(claim.audit))
        assert claim.generation == 1
        assert calls_of(system, event) == {f"{claim.id}:{sink}": 1 for sink in SINKS}


def test_a_retry_that_a_stopped_worker_held_is_made_by_another(
    system: System, sinks: SampleSinks
) -> None:
    first, second = system.worker, system.second  # type: ignore[attr-defined]
    second.stop()
    event = envelope()
    sinks.behave("crm", "status", status=503, retry_after=3, times=1)
    key = system.accept(event)
    system.task_events.wait_for(f"{key}.crm.1", "retried")
    assert first.stop() == 0
    second.start()
    try:
        second.ready()
        claim = system.settled(key)
    finally:
        first.start()
        first.ready()
    assert (claim.status, claim.deliveries["crm"].attempts) == ("completed", 2)
    assert calls_of(system, event)[f"{key}:crm"] == 2
