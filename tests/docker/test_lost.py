"""Containers killed, cut off and restarted: every accepted event is finished all the same."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pytest_celery import CeleryTestSetup

from tests.integration import test_lost_workers as with_processes
from tests.integration.test_lost_workers import assert_finished, hang_in_crm
from tests.support.envelopes import SINKS, Envelope, assert_chain_holds, envelope
from tests.support.waiting import eventually

from .parts import TIMEOUT, WorkerPart
from .system import ContainerSystem, PublishedSinks


def test_pytest_celery_accepts_the_setup(celery_setup: CeleryTestSetup) -> None:
    assert celery_setup.ready(docker=True)
    answers = celery_setup.app.control.ping([celery_setup.worker.hostname()], timeout=30, limit=1)
    assert answers == [{celery_setup.worker.hostname(): {"ok": "pong"}}]
    assert celery_setup.worker.version.startswith("5.")
    assert celery_setup.broker.config()["host_url"] == celery_setup.app.conf.broker_url


@pytest.mark.parametrize(
    "story",
    [
        with_processes.test_a_worker_killed_during_a_delivery,
        with_processes.test_a_stopping_worker_finishes_its_deliveries,
        with_processes.test_redis_killed_with_accepted_events_in_it,
        with_processes.test_redis_killed_during_a_delivery,
        with_processes.test_all_of_redis_lost,
    ],
    ids=lambda story: story.__name__.removeprefix("test_"),
)
def test_the_same_as_with_processes(
    story: Callable[..., None],
    system: ContainerSystem,
    sinks: PublishedSinks,
    celery_setup: CeleryTestSetup,
) -> None:
    story(system, sinks, celery_setup)


@pytest.fixture
def joined_again(system: ContainerSystem) -> Iterator[None]:
    """Bring back to the network whatever a test cut off, also when it fails."""
    yield
    for service in ("worker", "worker-crm"):
        container = system.part(service).container
        if not container.attrs["NetworkSettings"]["Networks"]:
            system.project.join(container)


def test_a_worker_cut_off_during_a_delivery(
    system: ContainerSystem, sinks: PublishedSinks, joined_again: None
) -> None:
    event, key = hang_in_crm(system, sinks)
    crm = system.part("worker-crm")

    system.project.cut_off(crm.container)
    others = [envelope() for _ in range(10)]
    for other in others:
        system.accept(other)
    eventually(lambda: all(system.calls(other)["compliance"] for other in others), TIMEOUT)
    assert not any(system.calls(other)["crm"] for other in others)
    system.project.join(crm.container)

    for each in (event, *others):
        assert_finished(system, each, system.settled(each["id"]))
    assert system.claim(key).id == key


def test_the_worker_of_events_cut_off(system: ContainerSystem, joined_again: None) -> None:
    worker = system.part("worker")
    before, meanwhile = [envelope() for _ in range(10)], [envelope() for _ in range(10)]
    for event in before:
        system.accept(event)

    system.project.cut_off(worker.container)
    for event in meanwhile:
        system.accept(event)
    system.project.join(worker.container)

    for event in (*before, *meanwhile):
        assert_finished(system, event, system.settled(event["id"]))


class Load:
    """A steady stream of events, from ``with`` to its end."""

    def __init__(self, system: ContainerSystem, rate: float) -> None:
        """Send so many a second."""
        self.events: list[Envelope] = []
        self._system = system
        self._rate = rate
        self._end = threading.Event()
        self._sender = ThreadPoolExecutor(1)

    def __enter__(self) -> "Load":
        """Start to send."""
        self._sending = self._sender.submit(self._send)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._end.set()
        self._sender.shutdown()
        self._sending.result()

    def _send(self) -> None:
        while not self._end.wait(1 / self._rate):
            event = envelope()
            self._system.accept(event)
            self.events.append(event)


def test_workers_restarted_one_after_another_under_load(system: ContainerSystem) -> None:
    project = system.project
    project.run("up", "--detach", "--no-recreate", "--scale", "worker=3")
    try:
        events_workers = [WorkerPart(container) for container in project.containers("worker")]
        assert len(events_workers) == 3
        sinks_workers = [system.part(f"worker-{sink}") for sink in SINKS]
        with Load(system, rate=5) as load:
            for part in (*events_workers, *sinks_workers):
                part.restart()
    finally:
        project.run("up", "--detach", "--no-recreate", "--scale", "worker=1")

    assert len(load.events) > 20
    for event in load.events:
        claim = system.settled(event["id"])
        assert claim.status == "completed"
        assert_chain_holds(claim.audit)
    for sink in SINKS:
        got = {request.key for request in system.sinks.received(sink)}
        assert got >= {f"{event['id']}:{sink}" for event in load.events}
