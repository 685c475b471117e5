"""Counters: of all processes together, and kept where Redis is away."""

import json
from pathlib import Path
from typing import Any

import pytest

from embedded.sinks import SampleSinks
from tasks.metrics import Counters, minutes, totals

from .envelopes import SINKS, envelope
from .nodes import RedisContainer, running
from .system import System
from .waiting import eventually


def test_what_several_count_is_added_up(engines: None, tmp_path: Path) -> None:
    with running(RedisContainer(tmp_path)) as redis:
        for _ in range(2):
            counters = Counters(redis.client)
            counters.add("settled", status="failed")
            counters.add("attempts", 3, sink="crm")
            counters.flush()
            counters.flush()  # what has been brought is not brought again
        expected = {'settled{status="failed"}': 2, 'attempts{sink="crm"}': 6}
        assert totals(redis.client) == expected
        counted = [counts for counts in minutes(redis.client, 2) if counts]
        assert {name: sum(c.get(name, 0) for c in counted) for name in expected} == expected


def test_counts_wait_while_redis_is_away(engines: None, tmp_path: Path) -> None:
    with running(RedisContainer(tmp_path)) as redis:
        counters = Counters(redis.client)
        redis.kill()
        counters.add("settled", status="failed")
        counters.flush()
        redis.restart()
        eventually(lambda: totals(redis.client) or counters.flush())
        assert totals(redis.client) == {'settled{status="failed"}': 1}


def stats(system: System) -> Any:
    """Ask ``celery -A tasks stats``."""
    return json.loads(system.celery("stats", "--json").stdout)


@pytest.fixture
def before(system: System) -> dict[str, int]:
    """What had been counted before the test."""
    return totals(system.broker.client)


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


def test_each_sweep_logs_the_backlog(patient_system: System) -> None:
    """Workers scale by it (``deploy/service.yaml``)."""

    def logged() -> list[Any]:
        lines = patient_system.worker.logs().splitlines()
        return [json.loads(line)["backlog"] for line in lines if line.startswith('{"at"')]

    queues = {"events", "settle", "sweep", *(f"deliver_{sink}" for sink in SINKS)}
    for backlog in eventually(logged, what="a sweep logs"):
        assert set(backlog) == queues
        assert all(isinstance(count, int) for count in backlog.values())
