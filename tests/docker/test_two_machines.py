"""Workers on another machine, which shares only Redis, the table and the sinks with the first."""

from collections.abc import Iterator

import pytest

from tests.integration.test_lost_workers import assert_finished
from tests.support.envelopes import Envelope, envelope

from .machine import Machine
from .parts import WorkerPart
from .system import ContainerSystem

WORKERS = ("worker", "worker-analytics", "worker-crm", "worker-compliance")


@pytest.fixture
def there(system: ContainerSystem) -> Iterator[Machine]:
    """The second machine."""
    with Machine(system.project) as machine:
        yield machine


def accept(system: ContainerSystem, number: int) -> list[Envelope]:
    events = [envelope() for _ in range(number)]
    for event in events:
        system.accept(event)
    return events


def finished(worker: WorkerPart) -> int:
    """Count the tasks that a worker has done, as it logs them."""
    return worker.logs().count(" succeeded in ")


def test_the_other_machine_reaches_only_what_is_shared(there: Machine) -> None:
    worker = there.start_worker("-c", "2")
    lookup = "import socket, sys; socket.gethostbyname(sys.argv[1])"
    worker.execute("python", "-c", lookup, "redis")
    for service in ("ingest", "worker", "flower"):
        code, _ = worker.container.exec_run(["python", "-c", lookup, service])
        assert code != 0, service


def test_a_machine_that_is_lost_is_replaced_by_the_other(
    system: ContainerSystem, there: Machine
) -> None:
    for service in WORKERS:
        system.part(service).kill()
    worker = there.start_worker("-c", "2")
    for event in accept(system, 10):
        assert_finished(system, event, system.settled(event["id"]))

    for service in WORKERS:
        system.part(service).restart()
    worker.kill()
    for event in accept(system, 10):
        assert_finished(system, event, system.settled(event["id"]))


def test_both_machines_share_the_work_and_one_is_cut_off(
    system: ContainerSystem, there: Machine
) -> None:
    here = system.part("worker-crm")
    worker = there.start_worker("-c", "2", "-Q", "deliver.crm")
    before = finished(here)
    system.sinks.behave("crm", "slow", seconds=0.3)
    events = accept(system, 40)
    for event in events:
        system.settled(event["id"])
    assert finished(here) - before >= 5
    assert finished(worker) >= 5

    events += accept(system, 10)
    there.cut_off(worker)
    events += accept(system, 10)
    there.join(worker)
    for event in events:
        assert_finished(system, event, system.settled(event["id"]))
