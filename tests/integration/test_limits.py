"""Limits on a real Redis, which threads and processes share."""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis

from embedded.sinks import SampleSinks
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


def enter(redis: RedisContainer, sink: SinkSettings, *holders: str) -> list[bool]:
    """Whether each may call now."""
    return [rate_limit.try_acquire(redis.client, sink, holder) == 0 for holder in holders]


def test_without_limits_redis_is_not_asked(redis: RedisContainer) -> None:
    for holder in "abc":
        assert rate_limit.try_acquire(redis.client, limited(), holder) == 0
        rate_limit.release(redis.client, limited(), holder)
    assert redis.client.keys() == []


# ── Rate ──────────────────────────────────────────────────────────────────────────────────────


def call_when_allowed(url: str, rate: float, holders: Sequence[str]) -> list[tuple[float, float]]:
    """Make calls one after the other; tell between which moments of Redis each was allowed."""

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
    assert enter(redis, limited(rate=0.01), *"abcdef") == [True] * 5 + [False]
    assert enter(redis, limited("analytics", rate=0.001), *"ab") == [True, False]


def test_a_wait_is_until_the_next_call_may_be_made(
    redis: RedisContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = limited(rate=0.01)
    assert rate_limit.try_acquire(redis.client, sink, "a") == 0
    assert 50 < rate_limit.try_acquire(redis.client, sink, "b") <= 100
    monkeypatch.setattr(rate_limit, "MIN_WAIT", 101.0)
    assert rate_limit.try_acquire(redis.client, sink, "b") == 101.0


def test_a_rate_that_is_raised_holds_at_once(redis: RedisContainer) -> None:
    assert enter(redis, limited(rate=0.001), "a") == [True]
    assert rate_limit.try_acquire(redis.client, limited(rate=0.001), "b") > 900
    assert rate_limit.try_acquire(redis.client, limited(rate=20), "b") <= 0.1


def test_a_sink_that_is_not_called_leaves_nothing_behind(redis: RedisContainer) -> None:
    assert enter(redis, limited(rate=20), "a") == [True]
    eventually(lambda: redis.client.keys() == [])


# ── Concurrency ───────────────────────────────────────────────────────────────────────────────


def count_those_who_call(url: str, cap: int, names: Sequence[str]) -> int:
    """Call in as many threads, several times each; tell how many called at once, at most."""
    sink = limited(concurrency=cap)

    def call(name: str) -> int:
        most = 0
        for n in range(3):
            while wait := rate_limit.try_acquire(client, sink, f"{name}.{n}"):
                time.sleep(wait)
            most = max(most, int(client.incr("calling")))
            time.sleep(0.01)
            client.decr("calling")
            rate_limit.release(client, sink, f"{name}.{n}")
        return most

    with Redis.from_url(url) as client, ThreadPoolExecutor(len(names)) as pool:
        return max(pool.map(call, names))


def test_a_concurrency_holds_over_all_processes(redis: RedisContainer) -> None:
    with ProcessPoolExecutor(3, mp_context=SPAWNED) as pool:
        started = [
            pool.submit(count_those_who_call, redis.url, 4, [f"{n}.{i}" for i in range(4)])
            for n in range(3)
        ]
        assert max(future.result() for future in started) == 4
    assert redis.client.zcard("limits.crm.calls") == 0


def test_a_place_is_free_when_its_holder_leaves(redis: RedisContainer) -> None:
    sink = limited(concurrency=2)
    assert enter(redis, sink, *"abc") == [True, True, False]
    wait = rate_limit.try_acquire(redis.client, sink, "c")
    assert rate_limit.POLL_INTERVAL[0] <= wait <= rate_limit.POLL_INTERVAL[1]
    rate_limit.release(redis.client, sink, "x")
    assert enter(redis, sink, "c") == [False]
    rate_limit.release(redis.client, sink, "a")
    assert enter(redis, sink, "c") == [True]


def test_a_message_that_comes_twice_is_one_call(redis: RedisContainer) -> None:
    assert enter(redis, limited(concurrency=1), *"aab") == [True, True, False]


def test_a_killed_workers_place_comes_free(
    redis: RedisContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit, "HOLD_GRACE", 1.8)
    sink = limited(concurrency=2, connect_timeout=0.1, read_timeout=0.1)
    assert enter(redis, sink, "killed") == [True]
    monkeypatch.setattr(rate_limit, "HOLD_GRACE", 600)
    assert enter(redis, sink, *"ab") == [True, False]
    eventually(lambda: enter(redis, sink, "b") == [True])
    assert set(redis.client.zrange("limits.crm.calls", 0, -1)) == {"a", "b"}


def test_a_place_is_kept_longer_than_a_call_may_take(redis: RedisContainer) -> None:
    enter(redis, limited(concurrency=1), "a")
    sink = limited(concurrency=1)
    assert sink.attempt_timeout + 15 < redis.client.pttl("limits.crm.calls") / 1000


# ── Both ──────────────────────────────────────────────────────────────────────────────────────


def test_who_waits_for_a_place_takes_nothing_out_of_the_bucket(redis: RedisContainer) -> None:
    sink = limited(concurrency=1, rate=0.01)
    assert enter(redis, limited(concurrency=1), "a") == [True]
    assert enter(redis, sink, "b") == [False]
    rate_limit.release(redis.client, sink, "a")
    assert enter(redis, sink, "b") == [True]


def test_who_waits_for_the_bucket_takes_no_place(redis: RedisContainer) -> None:
    sink = limited(concurrency=2, rate=0.01)
    assert enter(redis, sink, *"ab") == [True, False]
    assert redis.client.zrange("limits.crm.calls", 0, -1) == ["a"]


def test_sinks_do_not_limit_each_other(redis: RedisContainer) -> None:
    for name in SINKS:
        assert enter(redis, limited(name, concurrency=1, rate=0.01), *"ab") == [True, False]


# ── In a system ───────────────────────────────────────────────────────────────────────────────


def test_a_rate_holds_over_all_workers_and_uses_up_no_try(
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
    # All but a burst of one, four a second; half a second less for calls on their way.
    assert (moments[-1] - moments[0]).total_seconds() > 15 / 4 - 0.5
