"""What the overview says is wrong, and what it draws."""

from datetime import timedelta

import pytest

from dashboard.pages import overview
from dashboard.pages.overview import SPANS, Problem, ended, plots, problems
from dashboard.pages.runbook import runbook
from tasks.clock import from_rfc3339, to_rfc3339
from tasks.counters import lag_bucket, name_of

from .test_prometheus import SEEN, UNSEEN

NOW = from_rfc3339("2026-01-31T12:00:10.000Z")
WELL = {
    **SEEN,
    "overdue": 0,
    "oldestOverdueSeconds": 0,
    "sinks": {"crm": {**SEEN["sinks"]["crm"], "state": "closed"}},
}


def wrong(hour=(), **seen):
    return list(problems({**WELL, **seen}, dict(hour), NOW))


def test_where_all_is_well_nothing_is_wrong():
    few = {name_of("deliveries", sink="crm", outcome=o): n for o, n in (("delivered", 95),)}
    assert wrong() == []
    assert wrong({**few, name_of("deliveries", sink="crm", outcome="failed"): 5}) == []
    assert wrong(waitSeconds={"events": 120.0}) == []
    assert wrong(at=to_rfc3339(NOW - timedelta(seconds=150))) == []
    assert wrong(oldestOverdueSeconds=150, overdue=1) == []


@pytest.mark.parametrize(
    ("hour", "seen", "problem"),
    [
        ({}, UNSEEN, Problem("No sweep has run yet: is there a beat?", "no-sweep")),
        (
            {},
            {"at": "2026-01-31T11:57:00.000Z"},
            Problem(
                "The last sweep was 3 minutes ago: nothing is taken over meanwhile.", "no-sweep"
            ),
        ),
        (
            {},
            {"overdue": 2_000, "oldestOverdueSeconds": 151},
            Problem("2,000 events overdue, the oldest for 2 minutes.", "overdue"),
        ),
        (
            {},
            {"sinks": SEEN["sinks"]},
            Problem("crm is down: its breaker is half-open; 5 events parked.", "sink-down"),
        ),
        (
            {},
            {"sinks": {"crm": {"state": "open", "parked": None}}},
            Problem("crm is down: its breaker is open.", "sink-down"),
        ),
        (
            {
                name_of("deliveries", sink="crm", outcome="delivered"): 93,
                name_of("deliveries", sink="crm", outcome="failed"): 6,
                name_of("deliveries", sink="crm", outcome="revoked"): 1,
            },
            {},
            Problem("7 of 100 deliveries to crm failed within the hour.", "deliveries-fail"),
        ),
        (
            {},
            {"waitSeconds": {"events": 121.0}},
            Problem("The queue events has waited for 2 minutes: too few workers?", "queue-waits"),
        ),
        (
            {'refused{code="401"}': 2},
            {},
            Problem("Within the hour, requests with no key that ingest knows: 2.", "wrong-key"),
        ),
        (
            {'refused{code="503"}': 2},
            {},
            Problem(
                "Within the hour, requests that were told to come back later: 2.", "ingest-full"
            ),
        ),
        (
            {'processed{answer="invalid"}': 3},
            {},
            Problem("Within the hour, events that were not valid: 3.", "invalid"),
        ),
        (
            {'processed{answer="conflict"}': 1},
            {},
            Problem("Within the hour, ids that came with another payload: 1.", "conflict"),
        ),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(hour, seen, problem):
    assert wrong(hour, **seen) == [problem]
    assert problem.section in {block.name for block in runbook()}


def test_without_redis_there_is_a_section_too():
    assert overview.AWAY.section in {block.name for block in runbook()}


def test_the_plots_show_what_was_counted():
    points = [
        {
            "accepted": 3,
            lag_bucket(0.2): 2,
            name_of("deliveries", sink="crm", outcome="delivered"): 2,
            name_of("deliveries", sink="crm", outcome="parked"): 1,
        },
        {"accepted": 1, lag_bucket(10**6): 1},
    ]
    events, lag, *sinks = plots(points, ["12:00", "12:01"])
    assert [(s.name, s.said, s.values) for s in events.series] == [
        ("accepted", "4", [3, 1]),
        ("settled", "3", [2, 1]),
    ]
    assert [(s.name, s.said) for s in lag.series] == [
        ("p50", "≤ 250 ms"),
        ("p95", "> 1 day"),
        ("p99", "> 1 day"),
    ]
    assert lag.series[0].values == [0.25, float("inf")]
    crm = next(plot for plot in sinks if plot.title == "Deliveries to crm")
    assert {s.name: s.values for s in crm.series} == {
        "delivered": [2, 0],
        "parked": [1, 0],
        "failed": [0, 0],
        "revoked": [0, 0],
    }


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "–"),
        (0.05, "≤ 50 ms"),
        (1.0, "≤ 1 s"),
        (2.5, "≤ 2.5 s"),
        (300.0, "≤ 5 minutes"),
        (float("inf"), "> 1 day"),
    ],
)
def test_a_lag_is_the_bound_of_its_bucket(seconds, words):
    assert overview._lag(seconds) == words


def test_each_point_of_a_plot_is_as_many_minutes():
    for span in SPANS.values():
        assert span.back % span.point == 0


def test_deliveries_are_counted_by_how_they_ended():
    counts = {name_of("deliveries", sink="crm", outcome="failed"): 2, "accepted": 9}
    assert ended(counts, "crm") == {"delivered": 0, "parked": 0, "failed": 2, "revoked": 0}
    assert sum(ended(counts, "analytics").values()) == 0
