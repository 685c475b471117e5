"""The kill-point matrix: whichever process dies where, the event is finished (docs/reliability.md).

A cell kills a process of the pool, a whole worker or Redis at a named point of the code, and
restarts what a supervisor would. In the end the status is final, each sink has the event under
one key, the audit chain verifies and nothing is due.
"""

import http.client
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded.stubs.sinks import SampleSinks
from tasks.claims import Status
from tasks.claims.intake import read_event
from tasks.events import MetadataRules
from tasks.events.metadata import SHIPPED
from tests.support.envelopes import SINKS, Envelope, assert_chain_holds, envelope
from tests.support.faults import POINTS
from tests.support.nodes import ProcessContainer
from tests.support.short_settings import (
    FREQUENT_SWEEPS,
    LONG_VISIBILITY,
    ONE_SHORT_ATTEMPT,
    SHORT_LEASE,
    SHORT_VISIBILITY,
)
from tests.support.system import System
from tests.support.waiting import eventually

from .conftest import MakeSystem

#: The sweep alone recovers events; with such short leases, a busy machine may need many dispatches.
SETTINGS = ONE_SHORT_ATTEMPT | SHORT_LEASE | FREQUENT_SWEEPS | LONG_VISIBILITY
SETTINGS |= {"MAX_DISPATCHES": "100"}

ON_THE_WAY = [
    point for point in POINTS if point.split(":")[0] in ("process", "deliver", "chord", "settle")
]
RESERVING = "reserve: an event, before it is noted"
BEFORE_THE_CLAIM = (RESERVING, "process: received", "process: before the claim")


@pytest.fixture(scope="module")
def module_system(make_system: MakeSystem) -> Iterator[System]:
    """A system with beat, whose worker each test starts with a fault of its own."""
    with make_system("kills", beat=True, **SETTINGS) as system:
        system.worker.stop()
        yield system


@pytest.fixture
def system(module_system: System, sinks: SampleSinks) -> Iterator[System]:
    """The same, with everything running but a worker."""
    for part in (module_system.broker, module_system.ingest, module_system.beat):
        assert part is not None
        part.restart_unless_running()
    module_system.broker.client.flushall()
    yield module_system
    module_system.worker.teardown()


def start_worker(system: System, point: str, victim: str, **settings: str) -> Path:
    """Start the system's worker with a fault in it; return the file that exists once it struck."""
    flag = system.folder / f"struck-{secrets.token_hex(4)}"
    fault = {"FAULT_POINT": point, "FAULT_VICTIM": victim, "FAULT_FLAG": str(flag)}
    with_faults = ("-I", "tests.support.faults")
    system.worker = system.make_worker("worker", *with_faults, **fault, **settings)
    system.worker.start()
    system.worker.ready()
    return flag


def restart_victim(flag: Path, victim: ProcessContainer | None) -> None:
    """Wait until the fault struck, and restart what died, as a supervisor would."""
    eventually(flag.exists, what="the fault strikes")
    if victim:  # Celery itself replaces a process of the pool
        eventually(lambda: victim.status == "exited", what="it dies")
        victim.restart()


def assert_finished(system: System, event: Envelope, key: str, revisions: int = 1) -> None:
    """Every sink has it, under the same key however often; and nothing is due."""

    def settled() -> bool:
        # A worker that loses Redis at the wrong moment may end: a supervisor starts it again.
        if system.worker.status == "exited":
            system.worker.restart()
        claim = system.claims.get(key)
        return claim is not None and claim.status is not Status.PROCESSING

    eventually(settled, 40, what=f"{key} has settled")
    claim = system.claim(key)
    assert claim.status == "completed"
    for sink in SINKS:
        assert {request.key for request in system.calls(event)[sink]} == {f"{key}:{sink}"}
    assert len(claim.audit) == revisions
    assert_chain_holds(claim.audit)
    assert key not in system.due()


@pytest.mark.parametrize("point", ON_THE_WAY)
def test_an_event_survives_a_kill_of_a_pool_process(system: System, point: str) -> None:
    flag = start_worker(system, point, "child")
    event = envelope()
    key = system.accept(event)
    restart_victim(flag, None)
    assert_finished(system, event, key)


@pytest.mark.parametrize("point", [RESERVING, *ON_THE_WAY])
def test_an_event_survives_a_kill_of_a_worker(system: System, point: str) -> None:
    # Before there is a claim, only Redis has the event, and has to redeliver it.
    redelivery = SHORT_VISIBILITY if point in BEFORE_THE_CLAIM else {}
    flag = start_worker(system, point, "worker", **redelivery)
    event = envelope()
    key = system.accept(event)
    restart_victim(flag, system.worker)
    assert_finished(system, event, key)


@pytest.mark.parametrize("point", [RESERVING, *ON_THE_WAY])
def test_an_event_survives_a_kill_of_redis(system: System, point: str) -> None:
    flag = start_worker(system, point, str(system.broker.pid), **SHORT_VISIBILITY)
    event = envelope()
    key = system.accept(event)
    restart_victim(flag, system.broker)
    assert_finished(system, event, key)


@pytest.mark.parametrize("victim", ["child", "worker"])
@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("sweep")])
def test_an_event_survives_a_kill_during_a_sweep(system: System, point: str, victim: str) -> None:
    event = envelope()
    key = str(event["id"])
    rules = MetadataRules.from_file(SHIPPED, "prod")
    claim, _ = read_event(rules, key, event, "2026-11-20T09:30:02.000Z", holder="gone")
    flag = start_worker(system, point, victim)
    system.claims.claim(claim)
    system.change(key, "due_at", {"N": "1"})
    restart_victim(flag, system.worker if victim == "worker" else None)
    assert_finished(system, event, key)


@pytest.mark.parametrize("victim", ["child", "worker"])
def test_an_event_survives_a_kill_during_a_redrive(
    system: System, sinks: SampleSinks, victim: str
) -> None:
    flag = start_worker(system, "redrive: reopened, before the call", victim)
    event = envelope()
    sinks.behave("crm", "status", status=400)
    key = system.accept(event)
    assert system.settled(key).status == "partial_failure"
    sinks.behave("crm")
    assert system.celery("call", "deliver.crm", "--args", json.dumps([key])).returncode == 0
    restart_victim(flag, system.worker if victim == "worker" else None)
    eventually(lambda: system.claim(key).status == "completed", what="the redrive gets through")
    assert_finished(system, event, key, revisions=2)


def test_an_event_survives_a_kill_of_ingest(system: System) -> None:
    flag = system.folder / "struck-ingest"
    point = "ingest: published, before 202"
    faulty = system.make_ingest(
        "tests.support.faulty_ingest",
        FAULT_POINT=point,
        FAULT_VICTIM="child",
        FAULT_FLAG=str(flag),
    )
    start_worker(system, "", "")
    event = envelope()
    try:
        faulty.start()
        faulty.ready()
        with pytest.raises((http.client.HTTPException, OSError)):
            faulty.post(event)
        assert flag.exists()
        assert faulty.post(event).status == 202  # EventBridge tries again
    finally:
        faulty.teardown()
    assert_finished(system, event, event["id"])
    assert {sink: len(calls) for sink, calls in system.calls(event).items()} == dict.fromkeys(
        SINKS, 1
    )


def test_an_event_survives_a_kill_of_beat(system: System) -> None:
    assert system.beat is not None
    system.beat.kill()
    flag = start_worker(system, "process: claimed, before the chord", "worker")
    event = envelope()
    key = system.accept(event)
    other = system.make_beat("beat-2")
    try:
        system.beat.restart()
        other.start()
        restart_victim(flag, system.worker)
        assert_finished(system, event, key)
    finally:
        other.teardown()
    assert system.claim(key).generation == 2, "two sweeps, one of which took it over"


@pytest.mark.parametrize(
    "point",
    [
        "deliver: result, before the chord's count",
        "chord: complete, before settle is published",
    ],
)
def test_a_lost_part_strands_its_chord_without_a_sweep(system: System, point: str) -> None:
    assert system.beat is not None
    system.beat.kill()
    flag = start_worker(system, point, "worker")
    event = envelope()
    key = system.accept(event)
    restart_victim(flag, system.worker)

    def overdue() -> bool:
        return any(due.key == key for due in system.claims.due())

    eventually(overdue, what="the lease runs out")
    assert system.claim(key).status == "processing"
    system.beat.restart()
    assert_finished(system, event, key)
