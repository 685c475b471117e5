from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.claims import Call, Delivery, Outcome, Report, Status
from tasks.claims.outcomes import CALLS_KEPT, merge, newest, status_of, undelivered
from tasks.cli.output import delivery_json
from tests.support.samples import delivered, failed, report
from tests.support.strategies import deliveries, deliveries_by_sink, reports, rounds

PENDING = Delivery()
PARKED = Delivery(outcome=Outcome.PARKED, at="2026-01-31T12:00:03.000Z")
REVOKED = Delivery(outcome=Outcome.REVOKED, at="2026-01-31T12:00:03.000Z", error="revoked")


# ── The status that follows ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("stand", "status"),
    [
        pytest.param([delivered(), delivered(), delivered()], Status.COMPLETED, id="all"),
        pytest.param([delivered()], Status.COMPLETED, id="the-only-one"),
        pytest.param([], Status.COMPLETED, id="nobody-wants-it"),
        pytest.param([delivered(), delivered(), failed()], Status.PARTIAL_FAILURE, id="one-failed"),
        pytest.param([failed(), delivered(), failed()], Status.PARTIAL_FAILURE, id="two-failed"),
        pytest.param([delivered(), PARKED], Status.PARTIAL_FAILURE, id="one-parked"),
        pytest.param([delivered(), REVOKED], Status.PARTIAL_FAILURE, id="one-revoked"),
        pytest.param([failed(), failed(), failed()], Status.FAILED, id="none"),
        pytest.param([failed(), PARKED, REVOKED], Status.FAILED, id="none-for-three-reasons"),
        pytest.param([PARKED], Status.FAILED, id="parked"),
        pytest.param([REVOKED], Status.FAILED, id="revoked"),
        pytest.param([PENDING], Status.PROCESSING, id="pending"),
        pytest.param([delivered(), PENDING], Status.PROCESSING, id="one-pending"),
        pytest.param([failed(), PENDING], Status.PROCESSING, id="one-failed-one-pending"),
    ],
)
def test_the_status_follows_from_the_deliveries(stand, status):
    assert status_of(stand) is status
    assert status_of(reversed(stand)) is status


@given(st.lists(deliveries(), max_size=4), st.randoms())
def test_the_status_does_not_depend_on_the_order(stand, random):
    shuffled = random.sample(stand, len(stand))
    assert status_of(shuffled) is status_of(stand)


def test_the_sinks_that_lack_it_are_all_but_those_that_have_it():
    stand = {"a": delivered(), "b": failed(), "c": PENDING, "d": PARKED, "e": REVOKED}
    assert undelivered(stand) == ["b", "c", "d", "e"]


# ── Merging two views of a delivery ───────────────────────────────────────────────────────────


@given(deliveries(), deliveries())
def test_merging_is_commutative(one, other):
    assert one.merge(other) == other.merge(one)


@given(deliveries(), deliveries(), deliveries())
def test_merging_is_associative(one, other, third):
    assert one.merge(other).merge(third) == one.merge(other.merge(third))


@given(deliveries(), deliveries())
def test_merging_is_idempotent(one, other):
    together = one.merge(other)
    assert one.merge(one) == one
    assert together.merge(one) == together.merge(other) == together


@given(deliveries(), deliveries())
def test_delivered_is_absorbing(one, other):
    together = one.merge(other)
    either = Outcome.DELIVERED in (one.outcome, other.outcome)
    assert (together.outcome is Outcome.DELIVERED) == either


@given(deliveries(), deliveries())
def test_merging_invents_nothing(one, other):
    together = one.merge(other)
    seen = {(d.outcome, d.at, d.error) for d in (one, other)}
    assert (together.outcome, together.at, together.error) in seen


@given(deliveries())
def test_pending_changes_nothing(one):
    assert one.merge(PENDING) == one


@given(deliveries(), deliveries())
def test_attempts_are_never_lost(one, other):
    together = one.merge(other)
    assert together.attempts >= max(one.attempts, other.attempts)
    assert together.attempts <= one.attempts + other.attempts


def test_it_was_delivered_when_it_was_first_delivered():
    first, again = (
        delivered(at="2026-01-31T12:00:02.000Z"),
        delivered(at="2026-01-31T12:09:00.000Z"),
    )
    assert again.merge(first).at == "2026-01-31T12:00:02.000Z"


def test_of_two_failures_the_later_stands():
    early = Delivery(outcome=Outcome.FAILED, error="a", at="2026-01-31T12:00:02.000Z")
    late = Delivery(outcome=Outcome.PARKED, error="b", at="2026-01-31T12:00:03.000Z")
    assert early.merge(late).outcome is late.merge(early).outcome is Outcome.PARKED


# ── Attempts ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("history", "attempts"),
    [
        pytest.param([(1, 5)], 5, id="one-generation"),
        pytest.param([(1, 5), (1, 5)], 5, id="history-twice"),
        pytest.param([(1, 2), (1, 5), (1, 3)], 5, id="history-again-with-more"),
        pytest.param([(1, 5), (2, 1)], 6, id="two-generations"),
        pytest.param([(2, 1), (1, 5), (2, 1), (10, 4)], 10, id="any-order"),
        pytest.param([(1, 0)], 0, id="revoked-before-it-began"),
    ],
)
def test_attempts_add_up_across_generations_and_not_within(history, attempts):
    stand = {}
    for generation, made in history:
        stand = merge(stand, [report("crm", Outcome.FAILED, attempts=made)], generation)
    assert stand["crm"].attempts == attempts


# ── Merging what was reported ─────────────────────────────────────────────────────────────────


def settled(stand, history):
    for reported, generation in history:
        stand = merge(stand, reported, generation)
    return stand


@given(deliveries_by_sink, st.lists(rounds, max_size=5), st.data())
def test_reports_may_come_in_any_order_and_more_than_once(stand, history, data):
    again = data.draw(st.lists(st.sampled_from(history), max_size=3)) if history else []
    other_order = data.draw(st.permutations(history + again))
    assert settled(stand, other_order) == settled(stand, history)


@given(deliveries_by_sink, st.lists(rounds, max_size=5))
def test_what_is_delivered_stays_delivered(stand, history):
    had_it = set()
    for reported, generation in history:
        stand = merge(stand, reported, generation)
        have_it = stand.keys() - set(undelivered(stand))
        assert had_it <= have_it
        had_it = have_it


@given(deliveries_by_sink, st.lists(rounds, max_size=5))
def test_attempts_are_the_most_of_each_generation_added_up(stand, history):
    result = settled(stand, history)
    for sink in result:
        tries = dict(stand.get(sink, PENDING).tries)
        for reported, generation in history:
            for said in reported:
                if said.sink == sink:
                    most = max(tries.get(str(generation), 0), said.attempts)
                    tries[str(generation)] = most
        assert result[sink].attempts == sum(tries.values())


def test_merging_leaves_what_it_was_given_alone():
    stand = {"crm": PENDING}
    merge(stand, [report("crm"), report("analytics")], 1)
    assert stand == {"crm": PENDING}


# ── As they travel ────────────────────────────────────────────────────────────────────────────


@given(reports())
def test_a_report_comes_back_from_its_json(said):
    assert Report.from_json(said.to_json()) == said


def test_a_delivery_shows_how_it_stands():
    assert delivery_json(failed("503 Service Unavailable", attempts=5)) == {
        "outcome": "failed",
        "attempts": 5,
        "error": "503 Service Unavailable",
        "at": "2026-01-31T12:00:30.000Z",
        "calls": [],
    }


def test_a_delivery_shows_its_calls():
    calls = (
        Call(1_769_860_830_000, 12, 503, "503 Service Unavailable"),
        Call(1_769_860_831_500, 7),
    )
    shown = delivery_json(replace(failed("no answer within 10 s", attempts=2), calls=calls))[
        "calls"
    ]
    assert shown == [
        {
            "at": "2026-01-31T12:00:30.000Z",
            "ms": 12,
            "status": 503,
            "error": "503 Service Unavailable",
        },
        {"at": "2026-01-31T12:00:31.500Z", "ms": 7, "status": None, "error": None},
    ]


def test_no_more_than_the_newest_calls_are_kept():
    calls = [Call(at, 1, 200) for at in range(CALLS_KEPT + 5)]
    early, late = Delivery(calls=newest(calls[:15])), Delivery(calls=newest(calls[10:]))
    assert early.merge(late).calls == tuple(calls[5:])
