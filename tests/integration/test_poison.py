"""An event that kills whoever handles it ends as failed, with that reason; the others go on.

It kills at the same point each time: a process of the pool, whose message goes back to Redis at
once, or the whole worker, which is started again as a supervisor would.
"""

from collections.abc import Iterator

import pytest

from embedded.stubs.sinks import SampleSinks
from tasks.claims import Claim, Status
from tests.support.envelopes import SINKS, Envelope, assert_chain_holds, envelope
from tests.support.nodes import WorkerContainer, running
from tests.support.system import ONE_TRY, System
from tests.support.waiting import eventually

#: How often an event is started, at most.
STARTS = 3

#: What brings back a message whose worker died; a child's comes back without.
BY_NOTHING = {"VISIBILITY_TIMEOUT_SECONDS": "3600", "CLAIM_LEASE_SECONDS": "3600"}
BY_REDIS = {**BY_NOTHING, "VISIBILITY_TIMEOUT_SECONDS": "2"}
BY_SWEEP = {**BY_NOTHING, "CLAIM_LEASE_SECONDS": "4"}


@pytest.fixture(scope="module")
def beating_system(
    aws_url: str, sample_sinks: SampleSinks, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """A system with beat and without a worker."""
    folder = tmp_path_factory.mktemp("poison")
    settings = {"SWEEP_INTERVAL_SECONDS": "1", **ONE_TRY}
    with System(folder, aws_url=aws_url, sinks=sample_sinks, beat=True, **settings) as system:
        system.worker.teardown()
        yield system


@pytest.fixture
def system(beating_system: System, sinks: SampleSinks) -> System:
    """The same, with nothing in Redis."""
    beating_system.broker.client.flushall()
    return beating_system


def finish(
    system: System, point: str, victim: str, rescue: dict[str, str]
) -> tuple[Envelope, Claim, int]:
    """Let a worker finish a poisonous event among others; tell how often the worker died of it."""
    poison, *others = events = [envelope() for _ in range(4)]
    fault = {"FAULT_POINT": point, "FAULT_VICTIM": victim, "FAULT_KEY": poison["id"]}
    settings = {"MAX_DISPATCHES": str(STARTS), **rescue, **fault}
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


@pytest.mark.parametrize(("victim", "rescue"), [("child", BY_NOTHING), ("worker", BY_REDIS)])
def test_before_the_claim(system: System, victim: str, rescue: dict[str, str]) -> None:
    event, claim, deaths = finish(system, "process: received", victim, rescue)
    assert claim.status == "failed"
    [record] = claim.audit
    assert record["validationErrors"] == [
        {"field": "event", "message": "Given up: it kept killing its worker."}
    ]
    assert claim.payload, "an operator may look into it, and redrive it"
    assert system.calls(event) == {sink: [] for sink in SINKS}
    assert deaths == (STARTS if victim == "worker" else 0)


@pytest.mark.parametrize(
    ("victim", "rescue", "reason"),
    [
        ("child", BY_NOTHING, "given up: it kept killing its worker"),
        ("worker", BY_SWEEP, f"given up: {STARTS} dispatches did not live to settle it"),
    ],
)
def test_in_a_delivery(system: System, victim: str, rescue: dict[str, str], reason: str) -> None:
    point = "deliver: called, before its result"
    event, claim, deaths = finish(system, point, victim, rescue)
    calls = {sink: len(calls) for sink, calls in system.calls(event).items()}
    results = {result["service"]: result for result in claim.audit[-1]["downstreamResults"]}
    assert (results["crm"]["success"], results["crm"]["error"]) == (False, reason)
    if victim == "child":
        assert claim.status == "partial_failure"
        assert calls == {"analytics": 1, "crm": STARTS, "compliance": 1}
    else:  # on a busy machine, a lease may run out before the delivery has begun
        assert 1 <= calls["crm"] <= STARTS
        assert deaths == calls["crm"]
