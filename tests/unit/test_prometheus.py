"""What Prometheus reads, from counts and a last look that are given."""

import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.exceptions import ConnectionError as AwayError

from tasks.observability import prometheus
from tasks.observability.prometheus import exposition
from tasks.sinks import SINKS

SEEN = {
    "at": "2026-01-31T12:00:00.000Z",
    "due": 7,
    "processing": 4,
    "overdue": 2,
    "oldestOverdueSeconds": 90,
    "sweepIntervalSeconds": 30,
    "settledWithinSeconds": 1_000,
    "backlog": {"events": 3, "settle": 0},
    "waitSeconds": {"events": 1.5, "settle": 0.0},
    "sinks": {
        "crm": {
            "state": "half-open",
            "parked": 5,
            "failures": 0,
            "opened": 2,
            "probeInSeconds": 0.0,
        }
    },
    "lagSeconds": {"p50": 0.1, "p95": 1.0, "p99": None},
    "throughput": {"lastMinute": 1, "lastHour": 60},
}
UNSEEN = dict.fromkeys(("at", "due", "processing", "overdue", "oldestOverdueSeconds"))


@pytest.fixture
def scrape(monkeypatch):
    """What is read: sample name and labels → value."""

    def scrape(counts=(), **seen):
        monkeypatch.setattr(prometheus, "totals", lambda _: dict(counts))
        monkeypatch.setattr(prometheus.stats, "latest", lambda _: {**SEEN, **seen})
        return {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(exposition(None).decode())
            for sample in family.samples
        }

    return scrape


def test_counts_are_totals_with_their_labels(scrape):
    read = scrape({"accepted": 3, 'deliveries{outcome="failed",sink="crm"}': 2, "lag": 9})
    assert read["cxone_up",] == 1
    assert read["cxone_events_accepted_total",] == 3
    assert read["cxone_deliveries_total", "crm", "failed"] == 2


def test_what_has_not_happened_yet_is_zero(scrape):
    read = scrape()
    assert read["cxone_events_accepted_total",] == 0
    assert read["cxone_requests_refused_total", "503"] == 0
    for sink in SINKS:
        assert read["cxone_delivery_attempts_total", sink] == 0
        assert read["cxone_deliveries_total", *sorted((sink, "parked"))] == 0


def test_a_sink_that_is_gone_is_still_counted(scrape):
    assert scrape({'attempts{sink="fax"}': 4})["cxone_delivery_attempts_total", "fax"] == 4


def test_the_histogram_is_cumulative_in_seconds(scrape):
    read = scrape(
        {'lag{le="0.05"}': 1, 'lag{le="1"}': 2, 'lag{le="inf"}': 1, "lag_milliseconds": 5}
    )
    of = {bound: read["cxone_event_lag_seconds_bucket", bound] for bound in ("0.05", "0.5", "1")}
    assert of == {"0.05": 1, "0.5": 1, "1": 3}
    assert read["cxone_event_lag_seconds_bucket", "+Inf"] == 4
    assert read["cxone_event_lag_seconds_count",] == 4
    assert read["cxone_event_lag_seconds_sum",] == 0.005


def test_the_last_look_is_gauges(scrape):
    read = scrape()
    assert read["cxone_claims_due",] == 7
    assert read["cxone_oldest_overdue_seconds",] == 90
    assert read["cxone_last_sweep_timestamp_seconds",] == 1_769_860_800
    assert read["cxone_parked_events", "crm"] == 5
    assert read["cxone_queue_wait_seconds", "events"] == 1.5
    assert read["cxone_breaker_opened_total", "crm"] == 2
    states = {s: read["cxone_breaker_state", *sorted(("crm", s))] for s in ("open", "half-open")}
    assert states == {"open": 0, "half-open": 1}


def test_before_the_first_sweep_nothing_is_said_of_claims(scrape):
    read = scrape(**UNSEEN, sinks={"crm": {**SEEN["sinks"]["crm"], "parked": None}})
    assert read["cxone_sweep_interval_seconds",] == 30
    assert not [name for name, *_ in read if "claims" in name or "parked_events" in name]


def test_without_redis_it_says_so(monkeypatch):
    def away(_):
        raise AwayError

    monkeypatch.setattr(prometheus, "totals", away)
    assert b"\ncxone_up 0.0\n" in exposition(None)
    assert exposition(None).count(b"# TYPE") == 1
