"""A late settle of an earlier dispatch never takes the event away from the later one."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest

from tasks.claims import Acquired, Claim, Claims, Delivery, Outcome, Report, Status
from tasks.claims.audit import verify_claim
from tasks.claims.queries import MAX_TIMESTAMP
from tasks.claims.settlement import settle_claim
from tasks.clock import now, to_rfc3339
from tasks.events import payload_hash
from tests.support.envelopes import SINKS, assert_chain_holds
from tests.support.system import aws, create_table


@pytest.fixture(scope="module")
def client(aws_url: str) -> Iterator[Any]:
    """DynamoDB, with the table that ``deploy/storage.yaml`` describes."""
    create_table(aws_url, "late-settle")
    with closing(aws("dynamodb", aws_url)) as client:
        yield client


@pytest.fixture
def claims(client: Any) -> Claims:
    """Claims whose lease ends as soon as it begins, so that a sweep may take them over."""
    return Claims(client, "late-settle", lease=0, retention_days=30)


@pytest.fixture
def first(claims: Claims) -> Claim:
    """An event of which every delivery of the first dispatch failed for now; it has settled."""
    new = Claim(
        id=str(uuid4()),
        status=Status.PROCESSING,
        received_at=to_rfc3339(now()),
        event_time=None,
        interaction_id="interaction-1",
        event_type="completed",
        payload=b"{}",
        payload_sha256=payload_hash(b"{}"),
        deliveries={sink: Delivery() for sink in SINKS},
        holder="process",
    )
    assert isinstance(claims.claim(new), Acquired)
    settle_claim(claims, new.id, new.snapshot, reports(Outcome.FAILED, *SINKS), 1)
    return new


def reports(outcome: Outcome, *sinks: str) -> list[Report]:
    """What delivery tasks report at this moment."""
    at, failed = to_rfc3339(now()), outcome is Outcome.FAILED
    error = "503 Service Unavailable" if failed else None
    return [
        Report(sink=sink, outcome=outcome, attempts=1, at=at, error=error, transient=failed)
        for sink in sinks
    ]


def read(claims: Claims, key: str) -> Claim:
    claim = claims.get(key)
    assert claim
    return claim


def is_due(claims: Claims, key: str) -> bool:
    return key in {due.key for due in claims.due(until=MAX_TIMESTAMP)}


@pytest.mark.parametrize("late", [Outcome.DELIVERED, Outcome.FAILED, Outcome.PARKED])
def test_a_dispatch_that_dies_after_a_late_settle_is_finished(
    claims: Claims, first: Claim, late: Outcome
) -> None:
    settled = read(claims, first.id)
    redriven = claims.reopen(settled, ["crm"], actor="ann", holder="retry")

    # The first dispatch's settle comes again, with what it did not know before.
    late_reports = reports(late, "analytics", "compliance")
    status = settle_claim(claims, first.id, first.snapshot, late_reports, 1)

    assert status is Status.PROCESSING
    waiting = read(claims, first.id)
    assert waiting.status is Status.PROCESSING
    assert (waiting.holder, waiting.targets, waiting.actor) == ("retry", ["crm"], "ann")
    assert {waiting.deliveries[sink].outcome for sink in ("analytics", "compliance")} == {late}
    assert is_due(claims, first.id)

    # The retry dies without a settle: a sweep takes the claim over, and its dispatch settles it.
    taken = claims.take_over(first.id, waiting.version, "sweep")
    assert taken
    assert taken.generation == redriven.generation + 1
    assert taken.to_deliver == ["crm"]
    done = reports(Outcome.DELIVERED, "crm")
    final = settle_claim(claims, first.id, taken.snapshot, done, taken.generation)

    finished = read(claims, first.id)
    assert finished.status is final is not Status.PROCESSING
    assert finished.deliveries["crm"].outcome is Outcome.DELIVERED
    assert finished.audit[-1]["actor"] == "ann"
    assert_chain_holds(list(finished.audit))
    assert verify_claim(finished) == []


def test_the_retry_itself_settles_after_a_late_settle(claims: Claims, first: Claim) -> None:
    redriven = claims.reopen(read(claims, first.id), SINKS, actor="ann", holder="retry")
    settle_claim(claims, first.id, first.snapshot, reports(Outcome.DELIVERED, "crm"), 1)

    done = reports(Outcome.DELIVERED, *SINKS)
    status = settle_claim(claims, first.id, redriven.snapshot, done, redriven.generation)

    assert status is read(claims, first.id).status is Status.COMPLETED
    assert not is_due(claims, first.id)
    assert verify_claim(read(claims, first.id)) == []


@pytest.mark.parametrize("later", [Outcome.DELIVERED, Outcome.FAILED, None])
def test_the_newest_record_agrees_where_nothing_is_new_after_it(
    claims: Claims, first: Claim, later: Outcome | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = read(claims, first.id)
    assert settled.due_at
    due_at = settled.due_at
    monkeypatch.setattr("tasks.claims.store.epoch", lambda: due_at)  # the delayed retry is due
    taken = claims.take_over(first.id, settled.version, "sweep", settled=True)
    assert taken
    settle_claim(claims, first.id, first.snapshot, reports(Outcome.DELIVERED, *SINKS), 1)

    done = reports(later, *SINKS) if later else []
    status = settle_claim(claims, first.id, taken.snapshot, done, taken.generation)

    finished = read(claims, first.id)
    assert status is finished.status is Status.COMPLETED
    assert finished.audit[-1]["status"] == "completed"
    assert verify_claim(finished) == []
