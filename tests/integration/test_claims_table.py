"""The claims layer on a real table: races have one winner, and no late writer undoes anything."""

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
    """A claim of an event that nobody knows yet."""
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
    """What delivery tasks report; the sinks that are not named took it."""
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
    """How the deliveries of a claim stand."""
    assert claim is not None
    return {sink: delivery.outcome.value for sink, delivery in claim.deliveries.items()}


@pytest.mark.parametrize("_round", range(5))
def test_of_many_that_claim_at_once_one_wins(claims: Claims, _round: int) -> None:
    new = new_claim()
    answers = at_once(lambda n: claims.claim(replace(new, holder=f"worker-{n}")))
    [winner] = [answer.claim for answer in answers if isinstance(answer, Acquired)]
    assert sum(isinstance(answer, Duplicate) for answer in answers) == THREADS - 1
    kept = claims.get(new.id)
    assert kept is not None
    assert (kept.holder, kept.version) == (winner.holder, 1)


@pytest.mark.parametrize("_round", range(5))
def test_of_many_that_take_over_at_once_one_wins(
    claims: Claims, overdue: Claims, _round: int
) -> None:
    new = new_claim()
    overdue.claim(new)
    taken = at_once(lambda n: claims.take_over(new.id, 1, f"sweep-{n}"))
    [winner] = [claim for claim in taken if claim]
    kept = claims.get(new.id)
    assert kept == winner
    assert (winner.version, winner.generation) == (2, 2)


def test_of_many_that_reopen_at_once_one_wins(claims: Claims) -> None:
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


def test_what_many_settle_at_once_loses_no_outcome(claims: Claims) -> None:
    new = new_claim()
    claims.claim(new)
    told = reports(crm="failed")
    statuses = at_once(
        lambda n: settle_claim(claims, new.id, new.snapshot, [told[n % len(SINKS)]], 1), threads=9
    )
    kept = claims.get(new.id)
    assert kept is not None
    assert outcomes(kept) == {"analytics": "delivered", "crm": "failed", "compliance": "delivered"}
    assert kept.status == Status.PARTIAL_FAILURE
    assert Status.PARTIAL_FAILURE in statuses
    assert kept.audit[-1]["status"] == "partial_failure"
    assert_chain_holds(list(kept.audit))


def test_a_zombie_that_settles_after_a_take_over_is_merged(claims: Claims, overdue: Claims) -> None:
    new = new_claim("zombie")
    overdue.claim(new)
    successor = claims.take_over(new.id, 1, "sweep")
    assert successor is not None
    settle_claim(claims, new.id, successor.snapshot, reports(crm="failed"), successor.generation)

    # The zombie wakes, with the head that it knew, and what it did in its generation.
    zombie = reports(analytics="failed", compliance="failed")
    status = settle_claim(claims, new.id, new.snapshot, zombie, 1)

    kept = claims.get(new.id)
    assert kept is not None
    assert status is kept.status is Status.COMPLETED
    assert outcomes(kept) == dict.fromkeys(SINKS, "delivered")
    assert [delivery.attempts for delivery in kept.deliveries.values()] == [2, 2, 2]
    assert [record["status"] for record in kept.audit] == ["partial_failure", "completed"]
    assert_chain_holds(list(kept.audit))


def test_a_zombie_that_failed_takes_nothing_from_what_is_delivered(
    claims: Claims, overdue: Claims
) -> None:
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


def test_a_zombie_that_settles_first_leaves_the_successor_its_work(
    claims: Claims, overdue: Claims
) -> None:
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
    told = reports(crm="failed")
    settle_claim(claims, new.id, new.snapshot, told, 1)
    once = claims.get(new.id)
    settle_claim(claims, new.id, new.snapshot, told, 1)
    settle_claim(claims, new.id, None, told, 1)
    assert claims.get(new.id) == once


def test_a_claim_with_another_payload_is_a_conflict(claims: Claims) -> None:
    new = new_claim()
    assert isinstance(claims.claim(new), Acquired)
    answer = claims.claim(replace(new, holder="b", payload_sha256="another"))
    assert isinstance(answer, Conflict)
    assert claims.get(new.id) == answer.claim


def test_whoever_finds_its_own_claim_has_won(claims: Claims) -> None:
    new = new_claim("a")
    claims.claim(new)
    answer = claims.claim(new)
    assert isinstance(answer, Acquired)
    assert answer.claim.version == 1


def test_a_claim_past_its_lease_goes_to_whoever_claims_it_next(
    claims: Claims, overdue: Claims
) -> None:
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


def test_nobody_takes_over_what_is_not_overdue(claims: Claims) -> None:
    new = new_claim()
    claims.claim(new)
    assert claims.take_over(new.id, 1, "sweep") is None
    assert claims.take_over("nobody-knows-it", 1, "sweep") is None


def test_nobody_takes_over_what_has_settled(claims: Claims, overdue: Claims) -> None:
    new = new_claim()
    overdue.claim(new)
    settle_claim(claims, new.id, new.snapshot, reports(crm="failed"), 1)
    assert claims.take_over(new.id, 2, "sweep") is None


def test_only_what_has_something_left_to_do_is_due(claims: Claims, overdue: Claims) -> None:
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


def test_what_waits_for_sinks_to_recover_is_found_for_each_of_them_oldest_first(
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
    """Make a claim that waits for these sinks to recover."""
    new = new_claim()
    claims.claim(new)
    told = [
        replace(report, transient=report.outcome is Outcome.PARKED)
        for report in reports(**dict.fromkeys(sinks, "parked"))
    ]
    settle_claim(claims, new.id, new.snapshot, told, 1)
    return new


def change_receipt(client: Any, table: str, claim: Claim, age: int) -> None:
    """Have it received so many days ago."""
    client.update_item(
        TableName=table,
        Key={"id": {"S": claim.id}},
        UpdateExpression="SET received_at = :at",
        ExpressionAttributeValues={":at": {"S": to_rfc3339(now() - timedelta(days=age))}},
    )


def test_of_many_that_drain_at_once_one_takes_it_and_it_is_parked_no_more(claims: Claims) -> None:
    key = park(claims, ("crm",)).id
    kept = claims.get(key)
    assert kept
    assert (kept.redrives, kept.due_at is not None) == (0, True)
    assert claims.take_over(key, 2, "sweep", settled=True) is None, "it is not due yet"

    taken = at_once(lambda n: claims.take_over(key, 2, f"drain-{n}", settled=True, parked=True))

    [claim] = [claim for claim in taken if claim]
    assert (claim.status, claim.generation, claim.dispatches) == (Status.PROCESSING, 2, 1)
    assert claim.redrives == 0, "the schedule has not come round"
    assert key not in {due.key for due in claims.parked("crm")}
    assert claims.take_over(key, claim.version, "late", parked=True) is None


def test_what_is_due_is_counted(client: Any, aws_url: str) -> None:
    create_table(aws_url, "claims-counted")
    claims = Claims(client, "claims-counted", lease=600, retention_days=30)
    assert claims.count_due() == (0, 0)
    for _ in range(3):
        claims.claim(new_claim())
    for sinks in (("crm",), ("crm", "analytics"), ()):
        park(claims, sinks)
    assert claims.count_due() == (5, 3)


def test_a_claim_comes_back_as_it_was_written(claims: Claims) -> None:
    new = new_claim(notes=("a note",), payload='{"name": "Zoë"}'.encode())
    answer = claims.claim(new)
    assert isinstance(answer, Acquired)
    kept = claims.get(new.id)
    assert kept == replace(answer.claim, notes=["a note"])


def test_what_is_not_there_is_not_settled(claims: Claims) -> None:
    gone = new_claim()
    with pytest.raises(ClaimNotFoundError):
        settle_claim(claims, gone.id, gone.snapshot, reports(), 1)
    with pytest.raises(ClaimNotFoundError):
        settle_claim(claims, gone.id, None, reports(), 1)
    assert claims.get(gone.id) is None


def test_a_table_that_is_not_there_is_an_error_to_try_again(client: Any) -> None:
    nowhere = Claims(client, "no-such-table", lease=600, retention_days=30)
    with pytest.raises(StoreError, match="ResourceNotFoundException"):
        nowhere.get("a")


def test_the_events_of_an_interaction_are_found_oldest_first(claims: Claims) -> None:
    times = ["2026-11-20T10:00:00.000Z", "2026-11-19T10:00:00.000Z", "2026-11-21T10:00:00.000Z"]
    interaction = f"interaction-{uuid4()}"
    for received_at in times:
        claims.claim(new_claim(interaction_id=interaction, received_at=received_at))
    claims.claim(new_claim(interaction_id=None))
    found = list(claims.of_interaction(interaction))
    assert [claim.received_at for claim in found] == sorted(times)
    assert {claim.interaction_id for claim in found} == {interaction}
    assert list(claims.of_interaction("another")) == []


def test_claims_are_listed_newest_first_and_from_any_place_on(
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


def test_a_far_future_is_not_looked_through_day_by_day(
    client: Any, aws_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_table(aws_url, "claims-future")
    claims = Claims(client, "claims-future", lease=600, retention_days=3)
    asked: list[Any] = []
    monkeypatch.setattr(Table, "query", lambda _, **query: asked.append(query) or iter(()))
    end = datetime.max.replace(tzinfo=UTC)
    assert list(claims.newest(until=end)) == list(claims.received(until=end)) == []
    assert len(asked) == 2 * 5  # tomorrow, today and three days ago at most


def test_nothing_has_an_id_that_is_longer_than_any(client: Any, aws_url: str) -> None:
    create_table(aws_url, "claims-long")
    claims = Claims(client, "claims-long", lease=600, retention_days=30)
    assert claims.get("a" * 3000) is None
    assert list(claims.of_interaction("a" * 3000)) == []
