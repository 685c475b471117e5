"""Rate and concurrency limits on a real Redis, shared by threads and processes."""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis

from embedded.stubs.sinks import SampleSinks
from tasks.clock import from_rfc3339
from tasks.delivery import rate_limit
from tasks.settings import SinkSettings
from tasks.sinks import SINKS, Policy
from tests.support.envelopes import envelope
from tests.support.nodes import RedisContainer, running
from tests.support.system import System
from tests.support.waiting import TIMEOUT, eventually

SPAWNED = multiprocessing.get_context("spawn")


def limited(sink: str = "crm", **policy: Any) -> SinkSettings:
    """A sink with limits."""
    return SinkSettings(sink=SINKS[sink], policy=Policy(**policy))


def acquire(redis: RedisContainer, sink: SinkSettings, *holders: str) -> list[bool]:
    """Whether each acquires a slot now."""
    return [rate_limit.try_acquire(redis.client, sink, holder) == 0 for holder in holders]


def test_without_limits_redis_is_not_called(redis: RedisContainer) -> None:
    for holder in "abc":
        assert rate_limit.try_acquire(redis.client, limited(), holder) == 0
        rate_limit.release(redis.client, limited(), holder)
    assert redis.client.keys() == []


# ── Rate ──────────────────────────────────────────────────────────────────────────────────────


def call_when_allowed(url: str, rate: float, holders: Sequence[str]) -> list[tuple[float, float]]:
    """Make calls in turn; return the times of Redis between which each was allowed."""

    def moment() -> float:
        seconds, microseconds = client.time()
        return float(seconds + microseconds / 1e6)

    allowed = []
    with Redis.from_url(url) as client:
        for holder in holders:
            while True:
                before = moment()
                if not (wait := rate_limit.try_acquire(client, limited(rate=rate), holder)):
                    break
                time.sleep(wait)
            allowed.append((before, moment()))
    return allowed


@pytest.mark.parametrize("rate", [10, 50.5])
def test_a_rate_holds_over_all_processes_in_any_window(redis: RedisContainer, rate: float) -> None:
    began = time.monotonic()
    with ProcessPoolExecutor(3, mp_context=SPAWNED) as pool:
        started = [
            pool.submit(call_when_allowed, redis.url, rate, [f"{n}.{i}" for i in range(int(rate))])
            for n in range(3)
        ]
        calls = [call for future in started for call in future.result()]
    took = time.monotonic() - began
    assert len(calls) == 3 * int(rate)
    assert took < TIMEOUT
    burst = max(1, rate_limit.BURST * rate)
    windows = [(a, b) for a, _ in calls for _, b in calls if a < b]
    for since, until in windows:
        within = sum(since <= before and after <= until for before, after in calls)
        assert within <= rate * (until - since) + burst + 0.001


def test_a_bucket_holds_a_burst_and_at_least_one_call(
    redis: RedisContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit, "BURST", 500)
    assert acquire(redis, limited(rate=0.01), *"abcdef") == [True] * 5 + [False]
    assert acquire(redis, limited("analytics", rate=0.001), *"ab") == [True, False]


def test_a_wait_is_until_the_next_call_may_be_made(
    redis: RedisContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = limited(rate=0.01)
    assert rate_limit.try_acquire(redis.client, sink, "a") == 0
    assert 50 < rate_limit.try_acquire(redis.client, sink, "b") <= 100
    monkeypatch.setattr(rate_limit, "MIN_WAIT", 101.0)
    assert rate_limit.try_acquire(redis.client, sink, "b") == 101.0


def test_a_raised_rate_holds_at_once(redis: RedisContainer) -> None:
    assert acquire(redis, limited(rate=0.001), "a") == [True]
    assert rate_limit.try_acquire(redis.client, limited(rate=0.001), "b") > 900
    assert rate_limit.try_acquire(redis.client, limited(rate=20), "b") <= 0.1


def test_an_unused_rate_limit_leaves_no_key(redis: RedisContainer) -> None:
    assert acquire(redis, limited(rate=20), "a") == [True]
    eventually(lambda: redis.client.keys() == [])


# ── Concurrency ───────────────────────────────────────────────────────────────────────────────


def count_concurrent_calls(url: str, cap: int, names: Sequence[str]) -> int:
    """Make calls in many threads; return the highest number of calls at once."""
    sink = limited(concurrency=cap)

    def call(name: str) -> int:
        highest = 0
        for n in range(3):
            while wait := rate_limit.try_acquire(client, sink, f"{name}.{n}"):
                time.sleep(wait)
            highest = max(highest, int(client.incr("calling")))
            time.sleep(0.01)
            client.decr("calling")
            rate_limit.release(client, sink, f"{name}.{n}")
        return highest

    with Redis.from_url(url) as client, ThreadPoolExecutor(len(names)) as pool:
        return max(pool.map(call, names))


def test_a_concurrency_limit_holds_over_all_processes(redis: RedisContainer) -> None:
    with ProcessPoolExecutor(3, mp_context=SPAWNED) as pool:
        started = [
            pool.submit(count_concurrent_calls, redis.url, 4, [f"{n}.{i}" for i in range(4)])
            for n in range(3)
        ]
        assert max(future.result() for future in started) == 4
    assert redis.client.zcard("limits.crm.calls") == 0


def test_a_released_slot_is_free(redis: RedisContainer) -> None:
    sink = limited(concurrency=2)
    assert acquire(redis, sink, *"abc") == [True, True, False]
    wait = rate_limit.try_acquire(redis.client, sink, "c")
    assert rate_limit.POLL_INTERVAL[0] <= wait <= rate_limit.POLL_INTERVAL[1]
    rate_limit.release(redis.client, sink, "x")
    assert acquire(redis, sink, "c") == [False]
    rate_limit.release(redis.client, sink, "a")
    assert acquire(redis, sink, "c") == [True]


def test_a_redelivered_message_counts_as_one_call(redis: RedisContainer) -> None:
    assert acquire(redis, limited(concurrency=1), *"aab") == [True, True, False]


def test_the_slot_of_a_killed_worker_expires(
    redis: RedisContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit, "HOLD_GRACE", 1.8)
    sink = limited(concurrency=2, connect_timeout=0.1, read_timeout=0.1)
    assert acquire(redis, sink, "killed") == [True]
    monkeypatch.setattr(rate_limit, "HOLD_GRACE", 600)
    assert acquire(redis, sink, *"ab") == [True, False]
    eventually(lambda: acquire(redis, sink, "b") == [True])
    assert set(redis.client.zrange("limits.crm.calls", 0, -1)) == {"a", "b"}


def test_a_slot_is_held_longer_than_a_call_may_take(redis: RedisContainer) -> None:
    acquire(redis, limited(concurrency=1), "a")
    sink = limited(concurrency=1)
    assert sink.attempt_timeout + 15 < redis.client.pttl("limits.crm.calls") / 1000


# ── Both ──────────────────────────────────────────────────────────────────────────────────────


def test_a_call_without_a_slot_uses_no_rate(redis: RedisContainer) -> None:
    sink = limited(concurrency=1, rate=0.01)
    assert acquire(redis, limited(concurrency=1), "a") == [True]
    assert acquire(redis, sink, "b") == [False]
    rate_limit.release(redis.client, sink, "a")
    assert acquire(redis, sink, "b") == [True]


def test_a_call_over_the_rate_holds_no_slot(redis: RedisContainer) -> None:
    sink = limited(concurrency=2, rate=0.01)
    assert acquire(redis, sink, *"ab") == [True, False]
    assert redis.client.zrange("limits.crm.calls", 0, -1) == ["a"]


def test_sinks_do_not_limit_each_other(redis: RedisContainer) -> None:
    for name in SINKS:
        assert acquire(redis, limited(name, concurrency=1, rate=0.01), *"ab") == [True, False]


# ── In a system ───────────────────────────────────────────────────────────────────────────────


def test_a_rate_holds_over_all_workers_and_uses_no_attempt(
    aws_url: str, sample_sinks: SampleSinks, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rate")
    limits = {"CRM_RATE": "4", "CRM_CONCURRENCY": "1", "CRM_MAX_TRIES": "1"}
    with (
        System(folder, aws_url=aws_url, sinks=sample_sinks, **limits) as system,
        running(system.make_worker("second")),
    ):
        events = [envelope() for _ in range(16)]
        for event in events:
            system.accept(event)
        claims = [system.settled(str(event["id"])) for event in events]
        calls = [call for event in events for call in system.calls(event)["crm"]]
    assert {(c.status, c.deliveries["crm"].attempts) for c in claims} == {("completed", 1)}
    assert len(calls) == len(events)
    moments = sorted(from_rfc3339(call.at) for call in calls)
    # All but a burst of one, four a second; half a second less for calls in progress.
    assert (moments[-1] - moments[0]).total_seconds() > 15 / 4 - 0.5
