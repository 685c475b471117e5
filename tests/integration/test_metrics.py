"""Metrics: counted over all processes, and kept while Redis is away."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from embedded.stubs.sinks import SampleSinks
from tasks.counters import FLUSH_INTERVAL, Counters, minutes, totals
from tests.support.dashboard import FlowerContainer, Visitor
from tests.support.envelopes import SINKS, envelope
from tests.support.nodes import RedisContainer, running
from tests.support.system import System
from tests.support.waiting import eventually


def test_counts_of_all_processes_are_added_up(engines: None, tmp_path: Path) -> None:
    with running(RedisContainer(tmp_path)) as redis:
        for _ in range(2):
            counters = Counters()
            counters.add("settled", status="failed")
            counters.flush()  # not connected yet: the count is kept
            counters.connect(lambda: redis.client)
            counters.add("attempts", 3, sink="crm")
            counters.flush()
            counters.flush()  # nothing is flushed twice
        expected = {'settled{status="failed"}': 2, 'attempts{sink="crm"}': 6}
        assert totals(redis.client) == expected
        counted = [counts for counts in minutes(redis.client, 2) if counts]
        assert {name: sum(c.get(name, 0) for c in counted) for name in expected} == expected


def test_counts_wait_while_redis_is_away(engines: None, tmp_path: Path) -> None:
    with running(RedisContainer(tmp_path)) as redis:
        counters = Counters()
        counters.connect(lambda: redis.client)
        redis.kill()
        counters.add("settled", status="failed")
        counters.flush()
        redis.restart()
        eventually(lambda: totals(redis.client) or counters.flush())
        assert totals(redis.client) == {'settled{status="failed"}': 1}


def stats(system: System) -> Any:
    """Ask ``celery -A tasks stats``."""
    return json.loads(system.celery("stats", "--json").stdout)


def totals_at_rest(system: System) -> dict[str, int]:
    """The counts, once no process has any left to flush of an earlier test."""
    counts = [totals(system.broker.client)]

    def unchanged() -> bool:
        time.sleep(2 * FLUSH_INTERVAL)
        counts.append(totals(system.broker.client))
        return counts[-1] == counts[-2]

    eventually(unchanged, what="nothing is counted")
    return counts[-1]


@pytest.fixture
def before(system: System) -> dict[str, int]:
    """What had been counted before the test."""
    return totals_at_rest(system)


def test_an_event_is_counted_on_its_way(
    system: System, sinks: SampleSinks, before: dict[str, int]
) -> None:
    sinks.behave("crm", "status", status=400)
    assert system.settle(envelope()).status == "partial_failure"
    assert system.ingest.post({"id": "x"}).status == 400

    expected = {
        "accepted": 1,
        'refused{code="400"}': 1,
        'processed{answer="claimed"}': 1,
        'settled{status="partial_failure"}': 1,
        'deliveries{outcome="failed",sink="crm"}': 1,
        **{f'attempts{{sink="{sink}"}}': 1 for sink in SINKS},
    }

    def counted() -> dict[str, int]:
        now = totals(system.broker.client)
        return {name: now.get(name, 0) - before.get(name, 0) for name in expected}

    eventually(lambda: counted() == expected, what=f"{expected} is counted")
    seen = stats(system)
    assert seen["throughput"]["lastHour"] >= 1
    assert seen["lagSeconds"]["p50"] > 0
    assert seen["sinks"]["crm"]["state"] == "closed"
    queues = {"events", "settle", "sweep", *(f"deliver.{sink}" for sink in SINKS)}
    assert set(seen["backlog"]) == queues


def test_each_sweep_logs_the_backlog(retrying_system: System) -> None:
    """Workers scale by it (``deploy/service.yaml``)."""

    def logged() -> list[Any]:
        lines = retrying_system.worker.logs().splitlines()
        return [json.loads(line)["backlog"] for line in lines if line.startswith('{"at"')]

    queues = {"events", "settle", "sweep", *(f"deliver_{sink}" for sink in SINKS)}
    for backlog in eventually(logged, what="a sweep logs"):
        assert set(backlog) == queues
        assert all(isinstance(count, int) for count in backlog.values())


# ── Prometheus ────────────────────────────────────────────────────────────────────────────────

Samples = dict[tuple[str, ...], float]


def samples(text: str) -> Samples:
    """The project's own metrics, as Prometheus reads them: name and labels → value."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("cxone_")
    }


def from_ingest(system: System) -> Samples:
    answer = system.ingest.request("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    return samples(answer.body.decode())


def test_prometheus_exposes_what_was_counted(
    system: System, shared_flower: FlowerContainer, sinks: SampleSinks
) -> None:
    totals_at_rest(system)
    before = from_ingest(system)
    sinks.behave("crm", "status", status=400)
    events = [envelope() for _ in range(3)]
    for event in events:
        system.settle(event)
    assert system.settle(envelope(detail={"channel": "fax"})).status == "failed"
    assert system.ingest.post({"id": "x"}).status == 400

    calls = [system.calls(event) for event in events]
    expected: Samples = {
        ("cxone_events_accepted_total",): 4,
        ("cxone_requests_refused_total", "400"): 1,
        ("cxone_events_processed_total", "invalid"): 1,
        ("cxone_events_settled_total", "failed"): 1,
        ("cxone_events_settled_total", "partial_failure"): 3,
        ("cxone_event_lag_seconds_count",): 4,
        ("cxone_deliveries_total", "failed", "crm"): 3,
        ("cxone_deliveries_total", "delivered", "analytics"): 3,
        **{
            ("cxone_delivery_attempts_total", sink): sum(len(call[sink]) for call in calls)
            for sink in SINKS
        },
    }

    def counted() -> Samples:
        now = from_ingest(system)
        return {name: now[name] - before[name] for name in expected}

    eventually(lambda: counted() == expected, what=f"{expected} is counted")
    flower = Visitor(shared_flower, None).page("/metrics")
    assert "flower_worker_online" in flower  # Flower's own
    read = samples(flower)
    assert {name: read[name] - before[name] for name in expected} == expected
    assert read.keys() == before.keys()


def test_prometheus_reports_that_redis_is_away(
    engines: None, system: System, tmp_path: Path
) -> None:
    with running(RedisContainer(tmp_path)) as redis:
        settings = {**system.settings, "REDIS_URL": redis.url}
        with running(FlowerContainer(tmp_path, settings)) as flower:
            visitor = Visitor(flower, None)
            assert samples(visitor.page("/metrics"))["cxone_up",] == 1
            redis.kill()
            assert samples(visitor.page("/metrics")) == {("cxone_up",): 0}
