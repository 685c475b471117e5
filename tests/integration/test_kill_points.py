"""The kill-point matrix: whoever dies wherever, the event is finished (docs/reliability.md).

A cell kills a process of the pool, a whole worker or Redis at a named point of the code, and
restarts what a supervisor would. In the end the status is final, each sink has the event under
one key, the audit chain verifies and nothing is left due.
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
from tests.support.system import System
from tests.support.waiting import eventually

#: Short waits, so that a rescue takes seconds. They do not contradict each other (``settings``).
QUICK = {
    "CLAIM_LEASE_SECONDS": "4",
    "SWEEP_INTERVAL_SECONDS": "1",
    "MAX_DISPATCHES": "100",  # with such short leases, a busy machine may need many
    "VISIBILITY_TIMEOUT_SECONDS": "3600",  # what only redelivery could save is saved by the sweep
    **{
        f"{sink.upper()}_{name}": value
        for sink in SINKS
        for name, value in {
            "MAX_TRIES": "1",
            "BACKOFF_CAP_SECONDS": "1",
            "RETRY_AFTER_CAP_SECONDS": "1",
            "CONNECT_TIMEOUT_SECONDS": "1",
            "READ_TIMEOUT_SECONDS": "2",
        }.items()
    },
}

ON_THE_WAY = [
    point for point in POINTS if point.split(":")[0] in ("process", "deliver", "chord", "settle")
]
TAKING = "take: an event, before it is noted"
BEFORE_THE_CLAIM = (TAKING, "process: received", "process: before the claim")


@pytest.fixture(scope="module")
def breakable_system(
    aws_url: str, sample_sinks: SampleSinks, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """A system with beat, whose worker each test starts with a fault of its own."""
    folder = tmp_path_factory.mktemp("kills")
    with System(folder, aws_url=aws_url, sinks=sample_sinks, beat=True, **QUICK) as system:
        system.worker.stop()
        yield system


@pytest.fixture
def system(breakable_system: System, sinks: SampleSinks) -> Iterator[System]:
    """The same, with everything up but a worker."""
    for part in (breakable_system.broker, breakable_system.ingest, breakable_system.beat):
        assert part is not None
        if part.status != "running":
            part.restart()
    breakable_system.broker.client.flushall()
    yield breakable_system
    breakable_system.worker.teardown()


def start_worker(system: System, point: str, victim: str, **settings: str) -> Path:
    """Start the system's worker with a fault in it; give the file that tells that it struck."""
    flag = system.folder / f"struck-{secrets.token_hex(4)}"
    fault = {"FAULT_POINT": point, "FAULT_VICTIM": victim, "FAULT_FLAG": str(flag)}
    with_faults = ("-I", "tests.support.faults")
    system.worker = system.make_worker("worker", *with_faults, **fault, **settings)
    system.worker.start()
    system.worker.ready()
    return flag


def replace_invalid(flag: Path, victim: ProcessContainer | None) -> None:
    """Wait until the fault struck, and restart what died, as a supervisor would."""
    eventually(flag.exists, what="the fault strikes")
    if victim:  # Celery itself replaces a process of the pool
        eventually(lambda: victim.status == "exited", what="it dies")
        victim.restart()


def assert_finished(system: System, event: Envelope, key: str, revisions: int = 1) -> None:
    """Every sink has it, under the same key however often; and nothing is left to do."""

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
def test_a_pool_process_dies(system: System, point: str) -> None:
    flag = start_worker(system, point, "child")
    event = envelope()
    key = system.accept(event)
    replace_invalid(flag, None)
    assert_finished(system, event, key)


@pytest.mark.parametrize("point", [TAKING, *ON_THE_WAY])
def test_a_worker_dies(system: System, point: str) -> None:
    # Before there is a claim, only Redis knows of the event, and has to hand it out again.
    patience = {"VISIBILITY_TIMEOUT_SECONDS": "2"} if point in BEFORE_THE_CLAIM else {}
    flag = start_worker(system, point, "worker", **patience)
    event = envelope()
    key = system.accept(event)
    replace_invalid(flag, system.worker)
    assert_finished(system, event, key)


@pytest.mark.parametrize("point", [TAKING, *ON_THE_WAY])
def test_redis_dies(system: System, point: str) -> None:
    flag = start_worker(system, point, str(system.broker.pid), VISIBILITY_TIMEOUT_SECONDS="2")
    event = envelope()
    key = system.accept(event)
    replace_invalid(flag, system.broker)
    assert_finished(system, event, key)


@pytest.mark.parametrize("victim", ["child", "worker"])
@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("sweep")])
def test_during_a_sweep(system: System, point: str, victim: str) -> None:
    event = envelope()
    key = str(event["id"])
    rules = MetadataRules.from_file(SHIPPED, "prod")
    claim, _ = read_event(rules, key, event, "2026-11-20T09:30:02.000Z", holder="gone")
    flag = start_worker(system, point, victim)
    system.claims.claim(claim)
    system.change(key, "due_at", {"N": "1"})
    replace_invalid(flag, system.worker if victim == "worker" else None)
    assert_finished(system, event, key)


@pytest.mark.parametrize("victim", ["child", "worker"])
def test_during_a_redrive(system: System, sinks: SampleSinks, victim: str) -> None:
    flag = start_worker(system, "redrive: reopened, before the call", victim)
    event = envelope()
    sinks.behave("crm", "status", status=400)
    key = system.accept(event)
    assert system.settled(key).status == "partial_failure"
    sinks.behave("crm")
    assert system.celery("call", "deliver.crm", "--args", json.dumps([key])).returncode == 0
    replace_invalid(flag, system.worker if victim == "worker" else None)
    eventually(lambda: system.claim(key).status == "completed", what="the redrive gets through")
    assert_finished(system, event, key, revisions=2)


def test_ingest_dies_before_it_answers(system: System) -> None:
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


def test_beat_dies_and_two_take_its_place(system: System) -> None:
    assert system.beat is not None
    system.beat.kill()
    flag = start_worker(system, "process: claimed, before the chord", "worker")
    event = envelope()
    key = system.accept(event)
    other = system.make_beat("beat-2")
    try:
        system.beat.restart()
        other.start()
        replace_invalid(flag, system.worker)
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
def test_without_the_sweep_a_lost_part_strands_its_chord(system: System, point: str) -> None:
    assert system.beat is not None
    system.beat.kill()
    flag = start_worker(system, point, "worker")
    event = envelope()
    key = system.accept(event)
    replace_invalid(flag, system.worker)

    def overdue() -> bool:
        return any(due.key == key for due in system.claims.due())

    eventually(overdue, what="the lease runs out")
    assert system.claim(key).status == "processing"
    system.beat.restart()
    assert_finished(system, event, key)
