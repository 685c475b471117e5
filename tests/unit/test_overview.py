"""The problems that the overview reports, and its charts."""

from datetime import timedelta

import pytest

from dashboard.pages import overview
from dashboard.pages.overview import SPANS, Problem, charts, outcome_counts, problems
from dashboard.pages.runbook import runbook
from tasks.clock import from_rfc3339, to_rfc3339
from tasks.counters import lag_bucket, name_of

from .test_prometheus import SEEN, UNSEEN

NOW = from_rfc3339("2026-01-31T12:00:10.000Z")
HEALTHY = {
    **SEEN,
    "overdue": 0,
    "oldestOverdueSeconds": 0,
    "sinks": {"crm": {**SEEN["sinks"]["crm"], "state": "closed"}},
}


def problems_of(hour=(), **seen):
    return list(problems({**HEALTHY, **seen}, dict(hour), NOW))


def test_there_are_no_problems_below_the_thresholds():
    few = {name_of("deliveries", sink="crm", outcome=o): n for o, n in (("delivered", 95),)}
    assert problems_of() == []
    assert problems_of({**few, name_of("deliveries", sink="crm", outcome="failed"): 5}) == []
    assert problems_of(waitSeconds={"events": 120.0}) == []
    assert problems_of(at=to_rfc3339(NOW - timedelta(seconds=150))) == []
    assert problems_of(oldestOverdueSeconds=150, overdue=1) == []


@pytest.mark.parametrize(
    ("hour", "seen", "problem"),
    [
        ({}, UNSEEN, Problem("No sweep has run yet. Is beat running?", "no-sweep")),
        (
            {},
            {"at": "2026-01-31T11:57:00.000Z"},
            Problem(
                "The last sweep was 3 minutes ago: unfinished work is not taken over.", "no-sweep"
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
            Problem("crm is down: its circuit breaker is half-open; 5 events parked.", "sink-down"),
        ),
        (
            {},
            {"sinks": {"crm": {"state": "open", "parked": None}}},
            Problem("crm is down: its circuit breaker is open.", "sink-down"),
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
            Problem(
                "The next message of events has waited for 2 minutes. Too few workers?",
                "queue-waits",
            ),
        ),
        (
            {'refused{code="401"}': 2},
            {},
            Problem("Within the hour, requests with a wrong API key: 2.", "wrong-key"),
        ),
        (
            {'refused{code="503"}': 2},
            {},
            Problem("Within the hour, requests that ingest was too busy for: 2.", "ingest-full"),
        ),
        (
            {'processed{answer="invalid"}': 3},
            {},
            Problem("Within the hour, invalid events: 3.", "invalid"),
        ),
        (
            {'processed{answer="conflict"}': 1},
            {},
            Problem("Within the hour, ids reused for another payload: 1.", "conflict"),
        ),
    ],
)
def test_each_problem_names_a_section_of_the_runbook(hour, seen, problem):
    assert problems_of(hour, **seen) == [problem]
    assert problem.section in {block.anchor for block in runbook()}


def test_the_problem_without_redis_names_a_section_too():
    assert overview.REDIS_UNAVAILABLE.section in {block.anchor for block in runbook()}


def test_charts_show_the_counters():
    points = [
        {
            "accepted": 3,
            lag_bucket(0.2): 2,
            name_of("deliveries", sink="crm", outcome="delivered"): 2,
            name_of("deliveries", sink="crm", outcome="parked"): 1,
        },
        {"accepted": 1, lag_bucket(10**6): 1},
    ]
    events, lag, *sinks = charts(points, ["12:00", "12:01"])
    assert [(s.name, s.summary, s.values) for s in events.series] == [
        ("accepted", "4", [3, 1]),
        ("settled", "3", [2, 1]),
    ]
    assert [(s.name, s.summary) for s in lag.series] == [
        ("p50", "≤ 250 ms"),
        ("p95", "> 1 day"),
        ("p99", "> 1 day"),
    ]
    assert lag.series[0].values == [0.25, float("inf")]
    crm = next(chart for chart in sinks if chart.title == "Deliveries to crm")
    assert {s.name: s.values for s in crm.series} == {
        "delivered": [2, 0],
        "parked": [1, 0],
        "failed": [0, 0],
        "revoked": [0, 0],
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.05, "≤ 50 ms"),
        (1.0, "≤ 1 s"),
        (2.5, "≤ 2.5 s"),
        (300.0, "≤ 5 minutes"),
        (float("inf"), "> 1 day"),
    ],
)
def test_a_lag_is_the_bound_of_its_bucket(seconds, text):
    assert overview._lag(seconds) == text


def test_every_point_of_a_chart_covers_as_many_minutes():
    for span in SPANS.values():
        assert span.back % span.point == 0


def test_outcome_counts_has_every_outcome():
    counts = {name_of("deliveries", sink="crm", outcome="failed"): 2, "accepted": 9}
    assert outcome_counts(counts, "crm") == {"delivered": 0, "parked": 0, "failed": 2, "revoked": 0}
    assert sum(outcome_counts(counts, "analytics").values()) == 0
