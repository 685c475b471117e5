"""Claims on a real table: races have one winner, and no late writer undoes anything."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from botocore.config import Config

from tasks.claims import (
    Acquired,
    Claim,
    Claims,
    Conflict,
    Cursor,
    Delivery,
    Duplicate,
    Outcome,
    Report,
    Status,
)
from tasks.claims.dynamodb import Table
from tasks.claims.settlement import settle_claim
from tasks.clock import now, to_rfc3339
from tasks.errors import ClaimInProgressError, ClaimNotFoundError, StoreError
from tests.support.envelopes import SINKS, assert_chain_holds
from tests.support.system import aws, create_table

THREADS = 24

T = TypeVar("T")


@pytest.fixture(scope="module")
def client(aws_url: str) -> Iterator[Any]:
    """DynamoDB, with a connection for each thread."""
    with closing(aws("dynamodb", aws_url, Config(max_pool_connections=THREADS))) as client:
        yield client


@pytest.fixture(scope="module")
def table(aws_url: str) -> str:
    """A table as ``deploy/storage.yaml`` describes it."""
    create_table(aws_url, "claims-layer")
    return "claims-layer"


@pytest.fixture
def claims(client: Any, table: str) -> Claims:
    """Claims whose lease is far from its end."""
    return Claims(client, table, lease=600, retention_days=30)


@pytest.fixture
def overdue(client: Any, table: str) -> Claims:
    """Claims whose lease is over as soon as they are claimed."""
    return Claims(client, table, lease=0, retention_days=30)


def new_claim(holder: str = "a", **changes: Any) -> Claim:
    """A claim of a new event."""
    claim = Claim(
        id=str(uuid4()),
        status=Status.PROCESSING,
        received_at=to_rfc3339(now()),
        event_time="2026-11-20T09:30:01Z",
        interaction_id="interaction-1",
        event_type="completed",
        payload=b"{}",
        payload_sha256="hash",
        deliveries={sink: Delivery() for sink in SINKS},
        holder=holder,
    )
    return replace(claim, **changes)


def reports(attempts: int = 1, **outcomes: str) -> list[Report]:
    """What delivery tasks report; sinks that are not named accepted the event."""
    return [
        Report(
            sink=sink,
            outcome=Outcome(outcomes.get(sink, "delivered")),
            attempts=attempts,
            at=to_rfc3339(now()),
            error=f"{outcomes[sink]} it has" if sink in outcomes else None,
        )
        for sink in SINKS
    ]


def at_once(action: Callable[[int], T], threads: int = THREADS) -> list[T]:
    """Do something in many threads, all at the same moment."""
    barrier = threading.Barrier(threads)

    def act(number: int) -> T:
        barrier.wait()
        return action(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(act, range(threads)))


def outcomes(claim: Claim | None) -> dict[str, str]:
    """The outcomes of a claim's deliveries, by sink."""
    assert claim is not None
    return {sink: delivery.outcome.value for sink, delivery in claim.deliveries.items()}


@pytest.mark.parametrize("_round", range(5))
def test_of_simultaneous_claims_one_wins(claims: Claims, _round: int) -> None:
    new = new_claim()
    answers = at_once(lambda n: claims.claim(replace(new, holder=f"worker-{n}")))
    [winner] = [answer.claim for answer in answers if isinstance(answer, Acquired)]
    assert sum(isinstance(answer, Duplicate) for answer in answers) == THREADS - 1
    kept = claims.get(new.id)
    assert kept is not None
    assert (kept.holder, kept.version) == (winner.holder, 1)


@pytest.mark.parametrize("_round", range(5))
def test_of_simultaneous_takeovers_one_wins(claims: Claims, overdue: Claims, _round: int) -> None:
    new = new_claim()
    overdue.claim(new)
    taken = at_once(lambda n: claims.take_over(new.id, 1, f"sweep-{n}"))
    [winner] = [claim for claim in taken if claim]
    kept = claims.get(new.id)
    assert kept == winner
    assert (winner.version, winner.generation) == (2, 2)


def test_of_simultaneous_reopenings_one_wins(claims: Claims) -> None:
    new = new_claim()
    claims.claim(new)
    settle_claim(claims, new.id, new.snapshot, reports(crm="failed"), 1)

    settled = claims.get(new.id)
    assert settled is not None

    def reopen(number: int) -> Claim | None:
        try:
            return claims.reopen(settled, ["crm"], actor="zoe@desk", holder=f"by-hand-{number}")
        except ClaimInProgressError:
            return None

    [winner] = [claim for claim in at_once(reopen) if claim]
    assert (winner.status, winner.generation) == (Status.PROCESSING, 2)


def test_simultaneous_settling_loses_no_outcome(claims: Claims) -> None:
    new = new_claim()
    claims.claim(new)
    reported = reports(crm="failed")
    statuses = at_once(
        lambda n: settle_claim(claims, new.id, new.snapshot, [reported[n % len(SINKS)]], 1),
        threads=9,
    )
    kept = claims.get(new.id)
    assert kept is not None
    assert outcomes(kept) == {"analytics": "delivered", "crm": "failed", "compliance": "delivered"}
    assert kept.status == Status.PARTIAL_FAILURE
    assert Status.PARTIAL_FAILURE in statuses
    assert kept.audit[-1]["status"] == "partial_failure"
    assert_chain_holds(list(kept.audit))


def test_a_zombie_that_settles_after_a_takeover_is_merged(claims: Claims, overdue: Claims) -> None:
    new = new_claim("zombie")
    overdue.claim(new)
    successor = claims.take_over(new.id, 1, "sweep")
    assert successor is not None
    settle_claim(claims, new.id, successor.snapshot, reports(crm="failed"), successor.generation)

    # The zombie continues, with the snapshot and the generation of its own claim.
    zombie = reports(analytics="failed", compliance="failed")
    status = settle_claim(claims, new.id, new.snapshot, zombie, 1)

    kept = claims.get(new.id)
    assert kept is not None
    assert status is kept.status is Status.COMPLETED
    assert outcomes(kept) == dict.fromkeys(SINKS, "delivered")
    assert [delivery.attempts for delivery in kept.deliveries.values()] == [2, 2, 2]
    assert [record["status"] for record in kept.audit] == ["partial_failure", "completed"]
    assert_chain_holds(list(kept.audit))


def test_a_failed_zombie_does_not_undo_a_delivery(claims: Claims, overdue: Claims) -> None:
    new = new_claim("zombie")
    overdue.claim(new)
    successor = claims.take_over(new.id, 1, "sweep")
    assert successor is not None
    settle_claim(claims, new.id, successor.snapshot, reports(), successor.generation)

    zombie = reports(**dict.fromkeys(SINKS, "failed"))
    assert settle_claim(claims, new.id, new.snapshot, zombie, 1) is Status.COMPLETED

    kept = claims.get(new.id)
    assert outcomes(kept) == dict.fromkeys(SINKS, "delivered")
    assert kept is not None
    assert kept.due_at is None
    assert_chain_holds(list(kept.audit))


def test_a_zombie_that_settles_first_is_corrected(claims: Claims, overdue: Claims) -> None:
    new = new_claim("zombie")
    overdue.claim(new)
    successor = claims.take_over(new.id, 1, "sweep")
    assert successor is not None

    settle_claim(claims, new.id, new.snapshot, reports(crm="failed"), 1)
    settle_claim(claims, new.id, successor.snapshot, reports(), successor.generation)

    kept = claims.get(new.id)
    assert kept is not None
    assert (kept.status, outcomes(kept)["crm"]) == (Status.COMPLETED, "delivered")
    assert_chain_holds(list(kept.audit))


def test_settling_twice_is_settling_once(claims: Claims) -> None:
    new = new_claim()
    claims.claim(new)
    reported = reports(crm="failed")
    settle_claim(claims, new.id, new.snapshot, reported, 1)
    once = claims.get(new.id)
    settle_claim(claims, new.id, new.snapshot, reported, 1)
    settle_claim(claims, new.id, None, reported, 1)
    assert claims.get(new.id) == once


def test_a_claim_with_another_payload_is_a_conflict(claims: Claims) -> None:
    new = new_claim()
    assert isinstance(claims.claim(new), Acquired)
    answer = claims.claim(replace(new, holder="b", payload_sha256="another"))
    assert isinstance(answer, Conflict)
    assert claims.get(new.id) == answer.claim


def test_a_worker_that_finds_its_own_claim_has_acquired_it(claims: Claims) -> None:
    new = new_claim("a")
    claims.claim(new)
    answer = claims.claim(new)
    assert isinstance(answer, Acquired)
    assert answer.claim.version == 1


def test_a_claim_past_its_lease_is_acquired_by_the_next(claims: Claims, overdue: Claims) -> None:
    new = new_claim("a")
    overdue.claim(new)
    answer = claims.claim(replace(new, holder="b"))
    assert isinstance(answer, Acquired)
    assert (answer.claim.holder, answer.claim.generation) == ("b", 2)
    assert isinstance(claims.claim(replace(new, holder="c")), Duplicate)


def test_a_claim_past_its_retention_counts_as_absent(client: Any, table: str) -> None:
    expired = Claims(client, table, lease=600, retention_days=-1)
    new = new_claim("a")
    expired.claim(new)
    answer = expired.claim(replace(new, holder="b"))
    assert isinstance(answer, Acquired)
    assert (answer.claim.holder, answer.claim.version) == ("b", 1)


def test_a_claim_that_is_not_overdue_is_not_taken_over(claims: Claims) -> None:
    new = new_claim()
    claims.claim(new)
    assert claims.take_over(new.id, 1, "sweep") is None
    assert claims.take_over("unknown-id", 1, "sweep") is None


def test_a_settled_claim_is_not_taken_over(claims: Claims, overdue: Claims) -> None:
    new = new_claim()
    overdue.claim(new)
    settle_claim(claims, new.id, new.snapshot, reports(crm="failed"), 1)
    assert claims.take_over(new.id, 2, "sweep") is None


def test_only_unfinished_claims_are_due(claims: Claims, overdue: Claims) -> None:
    waiting, late, settled = new_claim(), new_claim(), new_claim()
    claims.claim(waiting)
    overdue.claim(late)
    overdue.claim(settled)
    settle_claim(claims, settled.id, settled.snapshot, reports(), 1)

    due_now = {due.key for due in claims.due()}
    due_ever = {due.key for due in claims.due(until=2**40)}

    assert late.id in due_now
    assert waiting.id in due_ever - due_now
    assert settled.id not in due_ever


def test_parked_claims_are_found_by_sink_oldest_first(
    claims: Claims, client: Any, table: str
) -> None:
    both, crm, newest = (park(claims, s) for s in (("analytics", "crm"), ("crm",), ("crm",)))
    neither = park(claims, ("compliance",))
    for age, claim in ((3, crm), (2, both), (1, newest)):
        change_receipt(client, table, claim, age)

    parked = [due for due in claims.parked("crm") if due.key in {both.id, crm.id, newest.id}]

    assert [due.key for due in parked] == [crm.id, both.id, newest.id]
    assert all(due.parked for due in parked)
    assert {due.status for due in parked} == {Status.PARTIAL_FAILURE}
    assert {due.version for due in parked} == {2}
    assert both.id in {due.key for due in claims.parked("analytics")}
    assert neither.id not in {due.key for due in claims.parked("crm")}
    assert claims.count_parked("crm") == len(list(claims.parked("crm")))
    assert claims.count_parked("analytics") == 1


def park(claims: Claims, sinks: tuple[str, ...]) -> Claim:
    """Make a claim that is parked for these sinks."""
    new = new_claim()
    claims.claim(new)
    reported = [
        replace(report, transient=report.outcome is Outcome.PARKED)
        for report in reports(**dict.fromkeys(sinks, "parked"))
    ]
    settle_claim(claims, new.id, new.snapshot, reported, 1)
    return new


def change_receipt(client: Any, table: str, claim: Claim, age: int) -> None:
    """Have it received so many days ago."""
    client.update_item(
        TableName=table,
        Key={"id": {"S": claim.id}},
        UpdateExpression="SET received_at = :at",
        ExpressionAttributeValues={":at": {"S": to_rfc3339(now() - timedelta(days=age))}},
    )


def test_of_simultaneous_drains_one_takes_the_parked_claim(claims: Claims) -> None:
    key = park(claims, ("crm",)).id
    kept = claims.get(key)
    assert kept
    assert (kept.redrives, kept.due_at is not None) == (0, True)
    assert claims.take_over(key, 2, "sweep", settled=True) is None, "it is not due yet"

    taken = at_once(lambda n: claims.take_over(key, 2, f"drain-{n}", settled=True, parked=True))

    [claim] = [claim for claim in taken if claim]
    assert (claim.status, claim.generation, claim.dispatches) == (Status.PROCESSING, 2, 1)
    assert claim.redrives == 0, "no delayed retry was due"
    assert key not in {due.key for due in claims.parked("crm")}
    assert claims.take_over(key, claim.version, "late", parked=True) is None


def test_due_claims_are_counted(client: Any, aws_url: str) -> None:
    create_table(aws_url, "claims-counted")
    claims = Claims(client, "claims-counted", lease=600, retention_days=30)
    assert claims.count_due() == (0, 0)
    for _ in range(3):
        claims.claim(new_claim())
    for sinks in (("crm",), ("crm", "analytics"), ()):
        park(claims, sinks)
    assert claims.count_due() == (5, 3)


def test_a_claim_is_read_as_it_was_written(claims: Claims) -> None:
    new = new_claim(notes=("a note",), payload='{"name": "Zoë"}'.encode())
    answer = claims.claim(new)
    assert isinstance(answer, Acquired)
    kept = claims.get(new.id)
    assert kept == replace(answer.claim, notes=["a note"])


def test_a_missing_claim_is_not_settled(claims: Claims) -> None:
    gone = new_claim()
    with pytest.raises(ClaimNotFoundError):
        settle_claim(claims, gone.id, gone.snapshot, reports(), 1)
    with pytest.raises(ClaimNotFoundError):
        settle_claim(claims, gone.id, None, reports(), 1)
    assert claims.get(gone.id) is None


def test_a_missing_table_is_a_retryable_error(client: Any) -> None:
    nowhere = Claims(client, "no-such-table", lease=600, retention_days=30)
    with pytest.raises(StoreError, match="ResourceNotFoundException"):
        nowhere.get("a")


def test_events_of_an_interaction_are_found_oldest_first(claims: Claims) -> None:
    times = ["2026-11-20T10:00:00.000Z", "2026-11-19T10:00:00.000Z", "2026-11-21T10:00:00.000Z"]
    interaction = f"interaction-{uuid4()}"
    for received_at in times:
        claims.claim(new_claim(interaction_id=interaction, received_at=received_at))
    claims.claim(new_claim(interaction_id=None))
    found = list(claims.of_interaction(interaction))
    assert [claim.received_at for claim in found] == sorted(times)
    assert {claim.interaction_id for claim in found} == {interaction}
    assert list(claims.of_interaction("another")) == []


def test_claims_are_listed_newest_first_from_any_cursor(
    client: Any, aws_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.claims.queries.PAGE_SIZE", 2)
    create_table(aws_url, "claims-listed")
    claims = Claims(client, "claims-listed", lease=600, retention_days=30)
    moment = now()
    ages = [0, 1, 1, 1, 60, 86_400, 86_401, 3 * 86_400, 29 * 86_400]  # some at the same time
    received = [moment - timedelta(seconds=age) for age in ages]
    for at in received:
        claims.claim(new_claim(received_at=to_rfc3339(at)))

    listed = list(claims.newest())
    assert [summary.received_at for summary in listed] == list(map(to_rfc3339, received))
    assert len({summary.id for summary in listed}) == len(ages)
    for number, summary in enumerate(listed, start=1):
        rest = claims.newest(after=Cursor(summary.received_at, summary.id))
        assert list(rest) == listed[number:]

    between = claims.newest(since=received[6], until=received[1])
    assert list(between) == listed[1:7]
    assert list(claims.newest(until=moment - timedelta(days=365))) == []
    assert list(claims.newest(since=moment, until=moment - timedelta(hours=1))) == []


def test_a_far_future_is_not_queried_day_by_day(
    client: Any, aws_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_table(aws_url, "claims-future")
    claims = Claims(client, "claims-future", lease=600, retention_days=3)
    asked: list[Any] = []
    monkeypatch.setattr(Table, "query", lambda _, **query: asked.append(query) or iter(()))
    end = datetime.max.replace(tzinfo=UTC)
    assert list(claims.newest(until=end)) == list(claims.received(until=end)) == []
    assert len(asked) == 2 * 5  # tomorrow, today and three days ago at most


def test_an_id_that_is_too_long_finds_nothing(client: Any, aws_url: str) -> None:
    create_table(aws_url, "claims-long")
    claims = Claims(client, "claims-long", lease=600, retention_days=30)
    assert claims.get("a" * 3000) is None
    assert list(claims.of_interaction("a" * 3000)) == []
