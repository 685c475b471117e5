from dataclasses import replace
from types import SimpleNamespace

import pytest

from tasks.claims import Due, Status
from tasks.claims.audit import verify_chain
from tasks.clock import now
from tasks.errors import UnknownSchemaError
from tasks.events import canonical_json
from tasks.recovery.takeover import go_on, take_over
from tasks.settings import load
from tasks.sweep import sweep_due
from tests.support.samples import EVENT_ID, delivered, make_claim

from .test_settle import OneClaim, outcomes_of

#: More dispatches than any setting allows: such a claim is settled, not published.
WORN_OUT = 10**6

#: How long the next message in a queue has waited, where there is none.
NOBODY_WAITS = 0


class Overdue:
    """A table whose every claim is overdue; ``fate`` is what taking one over comes to.

    They were dispatched ``apart`` seconds after one another, and the first one ``since`` seconds
    ago.
    """

    status = Status.PROCESSING

    def __init__(self, keys, fate, *, since=10**6, apart=0):
        self.keys = keys
        self.fate = fate
        self.dispatched_at = {
            key: int(now().timestamp()) - since + number * apart for number, key in enumerate(keys)
        }
        self.tables = {}
        self.extended = {}

    def due(self):
        for at, key in enumerate(self.keys):
            yield Due(at, key, 1, self.status, self.dispatched_at[key])

    def extend_lease(self, key, version, until):
        assert version == 1
        self.extended[key] = until

    def take_over(self, key, version, holder, *, settled, parked):
        assert version == 1
        assert settled == (self.status is not Status.PROCESSING)
        assert not parked
        claim = self.fate(key)
        if claim:
            self.tables[key] = OneClaim(replace(claim, id=key, holder=holder))
            return self.tables[key].claim
        return None

    def settle(self, head, *written):
        return self.tables[head.id].settle(head, *written)


def worn_out(_key):
    return make_claim(dispatches=WORN_OUT)


KEYS = [f"event-{number}" for number in range(10)]


def test_a_claim_whose_dispatches_all_died_fails_with_a_reason():
    table = OneClaim(make_claim(dispatches=6, generation=6))
    go_on(table, table.claim)
    assert table.claim.status is Status.FAILED
    assert set(outcomes_of(table.claim).values()) == {"failed"}
    for delivery in table.claim.deliveries.values():
        assert delivery.error == "given up: 5 dispatches did not live to settle it"
    assert table.retry is None
    assert verify_chain(table.claim.audit) == []


def test_a_delivery_before_giving_up_stays_delivered():
    pending = make_claim().deliveries
    table = OneClaim(make_claim(dispatches=6, deliveries={**pending, "crm": delivered()}))
    go_on(table, table.claim)
    assert table.claim.status is Status.PARTIAL_FAILURE
    assert outcomes_of(table.claim) == {
        "analytics": "failed",
        "crm": "delivered",
        "compliance": "failed",
    }


def test_taking_over_what_is_worn_out_settles_it():
    table = Overdue([EVENT_ID], worn_out)
    assert take_over(table, next(table.due()), "sweep-1")
    claim = table.tables[EVENT_ID].claim
    assert claim.status is Status.FAILED
    assert (
        claim.deliveries["crm"].error
        == f"given up: {WORN_OUT - 1} dispatches did not live to settle it"
    )


def test_what_somebody_else_took_faster_is_left_to_them():
    table = Overdue([EVENT_ID], lambda _: None)
    assert not take_over(table, next(table.due()), "sweep-1")


def test_what_goes_to_a_sink_that_is_no_more_is_given_up():
    pending = make_claim().deliveries
    moved = make_claim(deliveries={"crm": delivered(), "fax": pending["crm"]})
    table = Overdue([EVENT_ID], lambda _: moved)
    assert take_over(table, next(table.due()), "sweep-1")
    assert outcomes_of(table.tables[EVENT_ID].claim) == {"crm": "delivered", "fax": "failed"}


LEASE = load({}).claim_lease


def test_a_lease_is_extended_by_the_wait_in_queues():
    table = Overdue(KEYS, worn_out, since=10_000 + LEASE, apart=1_000)
    assert sweep_due(table, load({}), 5_500, "sweep-1") == 5
    assert list(table.tables) == KEYS[:5]
    assert table.extended == {key: table.dispatched_at[key] + LEASE + 5_500 for key in KEYS[5:]}


def test_where_nothing_waits_no_lease_is_prolonged():
    table = Overdue(KEYS, worn_out, since=LEASE + 100)
    assert sweep_due(table, load({}), NOBODY_WAITS, "sweep-1") == len(KEYS)


def test_a_lease_that_was_shorter_then_is_over_all_the_same():
    table = Overdue(KEYS, worn_out, since=LEASE - 100)
    assert sweep_due(table, load({}), NOBODY_WAITS, "sweep-1") == len(KEYS)


def test_what_has_settled_is_not_prolonged():
    table = Overdue(KEYS, worn_out, since=0)
    table.status = Status.PARTIAL_FAILURE
    assert sweep_due(table, load({}), 10**6, "sweep-1") == len(KEYS)


def test_what_is_prolonged_is_part_of_the_share():
    settings = load({"SWEEP_RATE": "1", "SWEEP_INTERVAL_SECONDS": "4"})
    table = Overdue(KEYS, worn_out, since=LEASE + 5)
    assert sweep_due(table, settings, 10**6, "sweep-1") == 0
    assert list(table.extended) == KEYS[:4]


def test_an_unreadable_claim_is_left_due_and_blocks_nothing():
    unreadable = make_claim(payload=canonical_json({"detail": {"channel": "fax"}}))
    table = Overdue(
        ["unreadable", "worn-out"], lambda key: unreadable if key[0] == "u" else worn_out(key)
    )
    assert sweep_due(table, load({}), NOBODY_WAITS, "sweep-1") == 1
    assert table.tables["unreadable"].claim.status is Status.PROCESSING
    assert table.tables["worn-out"].claim.status is Status.FAILED


def test_a_claim_of_a_newer_release_is_left_and_blocks_nothing():
    def fate(key):
        if key == KEYS[0]:
            raise UnknownSchemaError("item schema 2; known up to 1")
        return worn_out(key)

    assert sweep_due(Overdue(KEYS, fate), load({}), NOBODY_WAITS, "sweep-1") == len(KEYS) - 1


@pytest.mark.parametrize(
    ("rate", "interval", "taken"), [("1", "3", 3), ("3", "2", 6), ("100", "30", 10)]
)
def test_a_sweep_takes_no_more_than_its_share(rate, interval, taken):
    settings = load({"SWEEP_RATE": rate, "SWEEP_INTERVAL_SECONDS": interval})
    table = Overdue(KEYS, worn_out)
    assert sweep_due(table, settings, NOBODY_WAITS, "sweep-1") == taken
    assert list(table.tables) == KEYS[:taken]


def test_what_others_took_is_no_part_of_the_share():
    settings = load({"SWEEP_RATE": "1", "SWEEP_INTERVAL_SECONDS": "3"})
    table = Overdue(KEYS, lambda key: None if key in KEYS[:5] else worn_out(key))
    assert sweep_due(table, settings, NOBODY_WAITS, "sweep-1") == 3
    assert list(table.tables) == KEYS[5:8]


@pytest.mark.parametrize(
    ("status", "parked", "of"),
    [
        (Status.PROCESSING, False, "overdue"),
        (Status.FAILED, False, "settled"),
        (Status.FAILED, True, "parked"),
    ],
)
def test_a_take_over_is_counted_by_what_it_was_of(monkeypatch, status, parked, of):
    counted = []
    counters = SimpleNamespace(add=lambda name, **labels: counted.append((name, labels)))
    monkeypatch.setattr("tasks.recovery.takeover.COUNTERS", counters)
    monkeypatch.setattr("tasks.recovery.takeover.fan_out", lambda *_: None)
    table = SimpleNamespace(take_over=lambda *_, **__: make_claim())
    due = Due(0, EVENT_ID, 1, status, 0, parked=parked)
    assert take_over(table, due, "me")
    assert counted == [("takeovers", {"of": of})]
