"""An event that kills every process that handles it fails, with that reason; others are processed.

It kills at the same point each time: a process of the pool, whose message goes back to Redis at
once, or the whole worker, which is restarted as a supervisor would.
"""

from collections.abc import Iterator

import pytest

from embedded.stubs.sinks import SampleSinks
from tasks.claims import Claim, Status
from tests.support.envelopes import SINKS, Envelope, assert_chain_holds, envelope
from tests.support.nodes import WorkerContainer, running
from tests.support.short_settings import (
    FREQUENT_SWEEPS,
    LONG_LEASE,
    LONG_VISIBILITY,
    ONE_SHORT_ATTEMPT,
    SHORT_LEASE,
    SHORT_VISIBILITY,
)
from tests.support.system import System
from tests.support.waiting import eventually

from .conftest import MakeSystem

#: How often an event is started, at most.
STARTS = 3

#: What redelivers the message of a worker that died; that of a pool process needs nothing.
BY_NOTHING = LONG_LEASE | LONG_VISIBILITY
BY_REDIS = LONG_LEASE | SHORT_VISIBILITY
BY_SWEEP = SHORT_LEASE | LONG_VISIBILITY


@pytest.fixture(scope="module")
def module_system(make_system: MakeSystem) -> Iterator[System]:
    """A system with beat and without a worker."""
    with make_system("poison", beat=True, **ONE_SHORT_ATTEMPT, **FREQUENT_SWEEPS) as system:
        system.worker.teardown()
        yield system


@pytest.fixture
def system(module_system: System, sinks: SampleSinks) -> System:
    """The same, with nothing in Redis."""
    module_system.broker.client.flushall()
    return module_system


def finish(
    system: System, point: str, victim: str, recovery: dict[str, str]
) -> tuple[Envelope, Claim, int]:
    """Let a worker finish a poisonous event among others; return how often the worker died too."""
    poison, *others = events = [envelope() for _ in range(4)]
    fault = {"FAULT_POINT": point, "FAULT_VICTIM": victim, "FAULT_KEY": poison["id"]}
    settings = {"MAX_DISPATCHES": str(STARTS), **recovery, **fault}
    deaths = 0

    def settled(worker: WorkerContainer) -> bool:
        nonlocal deaths
        if worker.status == "exited":
            deaths += 1
            worker.restart()
        claims = [system.claims.get(event["id"]) for event in events]
        return all(claim and claim.status is not Status.PROCESSING for claim in claims)

    with running(system.make_worker("w", "-I", "tests.support.faults", **settings)) as worker:
        for event in events:
            system.accept(event)
        eventually(lambda: settled(worker), 60, what="all have settled")
    for event in others:
        assert system.claim(event["id"]).status == "completed"
        for sink, calls in system.calls(event).items():
            assert {call.key for call in calls} == {f"{event['id']}:{sink}"}
    claim = system.claim(poison["id"])
    assert_chain_holds(list(claim.audit))
    assert system.due() == set()
    return poison, claim, deaths


@pytest.mark.parametrize(("victim", "recovery"), [("child", BY_NOTHING), ("worker", BY_REDIS)])
def test_an_event_that_kills_before_its_claim_fails(
    system: System, victim: str, recovery: dict[str, str]
) -> None:
    event, claim, deaths = finish(system, "process: received", victim, recovery)
    assert claim.status == "failed"
    [record] = claim.audit
    assert record["validationErrors"] == [
        {"field": "event", "message": "Given up: it kept killing its worker."}
    ]
    assert claim.payload, "an operator can read and redrive it"
    assert system.calls(event) == {sink: [] for sink in SINKS}
    assert deaths == (STARTS if victim == "worker" else 0)


@pytest.mark.parametrize(
    ("victim", "recovery", "reason"),
    [
        ("child", BY_NOTHING, "given up: it kept killing its worker"),
        ("worker", BY_SWEEP, f"given up: {STARTS} dispatches did not live to settle it"),
    ],
)
def test_an_event_that_kills_in_a_delivery_fails(
    system: System, victim: str, recovery: dict[str, str], reason: str
) -> None:
    point = "deliver: called, before its result"
    event, claim, deaths = finish(system, point, victim, recovery)
    calls = {sink: len(calls) for sink, calls in system.calls(event).items()}
    results = {result["service"]: result for result in claim.audit[-1]["downstreamResults"]}
    assert (results["crm"]["success"], results["crm"]["error"]) == (False, reason)
    if victim == "child":
        assert claim.status == "partial_failure"
        assert calls == {"analytics": 1, "crm": STARTS, "compliance": 1}
    else:  # on a busy machine, a lease may run out before the delivery has begun
        assert 1 <= calls["crm"] <= STARTS
        assert deaths == calls["crm"]
