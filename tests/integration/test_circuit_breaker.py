"""The circuit breaker on a real Redis: every transition, and one probe at a time."""

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Barrier, Event, Thread
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tasks.delivery.circuit_breaker import Breaker, BreakerStatus, State
from tasks.errors import DeliveryError, ParkedError, TransientDeliveryError
from tasks.sinks import Policy
from tests.support.nodes import RedisContainer, free_port
from tests.support.waiting import TIMEOUT, eventually

FAILURES = 3

UNHEALTHY = TransientDeliveryError("503 Service Unavailable")
BUSY = TransientDeliveryError("429 Too Many Requests", counts_as_failure=False)
REFUSED = DeliveryError("422 Unprocessable Entity")

#: Seconds that are longer than any test.
LONG = 3600


def breaker_in(
    redis: Redis,
    *,
    seconds: int = LONG,
    probe_seconds: int = LONG,
    on_closed: Callable[[], object] = lambda: None,
) -> Breaker:
    """Make a breaker as one process has it."""
    policy = Policy(breaker_failures=FAILURES, breaker_seconds=seconds)
    return Breaker(redis, "crm", policy, probe_seconds=probe_seconds, on_closed=on_closed)


@pytest.fixture
def breaker(redis: RedisContainer) -> Breaker:
    """A new breaker that, once open, stays open for the rest of a test."""
    return breaker_in(redis.client)


def call(breaker: Breaker, task_id: str = "a task", error: DeliveryError | None = None) -> bool:
    """Make a call that ends in ``error``; return whether the sink was called."""
    called = False
    with suppress(DeliveryError), breaker.guard(task_id):
        called = True
        if error:
            raise error
    return called


def fail(breaker: Breaker, times: int = FAILURES) -> None:
    """Let calls fail, one after the other."""
    for number in range(times):
        assert call(breaker, f"failing-{number}", UNHEALTHY)


def let_open_time_pass(redis: RedisContainer) -> None:
    """Let the time of an open breaker pass at once."""
    assert redis.client.hexists("breaker.crm", "open_until")
    redis.client.hset("breaker.crm", "open_until", "1")


def make_half_open(redis: RedisContainer, breaker: Breaker) -> None:
    """Open it and let its time pass."""
    fail(breaker)
    let_open_time_pass(redis)
    assert breaker.status().state is State.HALF_OPEN


@contextmanager
def call_in_progress(
    breaker: Breaker, task_id: str, error: DeliveryError | None = None
) -> Iterator[None]:
    """Keep a call in progress in another thread until the block ends."""
    begun, over = Event(), Event()

    def deliver() -> None:
        with suppress(DeliveryError), breaker.guard(task_id):
            begun.set()
            over.wait(TIMEOUT)
            if error:
                raise error

    thread = Thread(target=deliver)
    thread.start()
    try:
        assert begun.wait(TIMEOUT), "the call was parked"
        yield
    finally:
        over.set()
        thread.join()


# ── Transitions ───────────────────────────────────────────────────────────────────────────────


def test_a_new_breaker_is_closed(breaker: Breaker) -> None:
    assert breaker.status() == BreakerStatus(
        State.CLOSED, failures=0, opened=0, probe_in=0, closed_for=None
    )


def test_failures_in_a_row_open_it(breaker: Breaker) -> None:
    fail(breaker, FAILURES - 1)
    status = breaker.status()
    assert (status.state, status.failures, status.opened) == (State.CLOSED, FAILURES - 1, 0)
    fail(breaker, 1)
    status = breaker.status()
    assert (status.state, status.failures, status.opened) == (State.OPEN, 0, 1)
    assert LONG - TIMEOUT < status.probe_in <= LONG


@pytest.mark.parametrize("error", [None, BUSY, REFUSED], ids=["delivered", "429", "422"])
def test_a_response_resets_the_failures(breaker: Breaker, error: DeliveryError | None) -> None:
    fail(breaker, FAILURES - 1)
    assert call(breaker, "a task", error)
    assert breaker.status().failures == 0
    fail(breaker, FAILURES - 1)
    assert breaker.status().state is State.CLOSED


def test_an_open_breaker_parks_without_a_call(breaker: Breaker) -> None:
    fail(breaker)
    with pytest.raises(ParkedError, match="the breaker of crm is open"), breaker.guard("a task"):
        pytest.fail("the sink was called")
    assert breaker.status().opened == 1


def test_an_open_breaker_becomes_half_open(redis: RedisContainer) -> None:
    breaker = breaker_in(redis.client, seconds=1)
    fail(breaker)
    eventually(lambda: breaker.status().state is State.HALF_OPEN)
    assert breaker.status().probe_in == 0


def test_a_successful_probe_closes_it(redis: RedisContainer) -> None:
    notified: list[str] = []
    breaker = breaker_in(redis.client, on_closed=lambda: notified.append("closed"))
    make_half_open(redis, breaker)
    assert call(breaker, "probe")
    status = breaker.status()
    assert (status.state, status.failures, status.opened) == (State.CLOSED, 0, 1)
    assert status.closed_for is not None
    assert 0 <= status.closed_for < TIMEOUT
    assert call(breaker, "another")
    assert notified == ["closed"]


@pytest.mark.parametrize("error", [BUSY, REFUSED], ids=["429", "422"])
def test_a_probe_with_any_response_closes_it(
    redis: RedisContainer, breaker: Breaker, error: DeliveryError
) -> None:
    make_half_open(redis, breaker)
    assert call(breaker, "probe", error)
    assert breaker.status().state is State.CLOSED


def test_a_failed_probe_opens_it_for_as_long_again(redis: RedisContainer, breaker: Breaker) -> None:
    make_half_open(redis, breaker)
    assert call(breaker, "probe", UNHEALTHY)
    status = breaker.status()
    assert (status.state, status.opened) == (State.OPEN, 1)
    assert status.probe_in > LONG - TIMEOUT
    assert not call(breaker, "another")
    let_open_time_pass(redis)
    assert call(breaker, "another")
    assert breaker.status().state is State.CLOSED


def test_a_breaker_that_closed_opens_again(redis: RedisContainer, breaker: Breaker) -> None:
    make_half_open(redis, breaker)
    call(breaker, "probe")
    fail(breaker, FAILURES - 1)
    assert breaker.status().state is State.CLOSED
    fail(breaker, 1)
    assert (breaker.status().state, breaker.status().opened) == (State.OPEN, 2)


def test_other_errors_change_nothing(breaker: Breaker) -> None:
    fail(breaker, FAILURES - 1)
    with pytest.raises(KeyError), breaker.guard("a task"):
        raise KeyError("a mistake in the sink's body")
    assert breaker.status().failures == FAILURES - 1


# ── One probe ─────────────────────────────────────────────────────────────────────────────────


def test_others_are_parked_while_a_probe_is_in_progress(
    redis: RedisContainer, breaker: Breaker
) -> None:
    make_half_open(redis, breaker)
    with call_in_progress(breaker, "probe"):
        assert not call(breaker, "another")
        assert breaker.status().state is State.HALF_OPEN
    assert breaker.status().state is State.CLOSED


def test_one_of_many_threads_is_the_probe(redis: RedisContainer) -> None:
    rivals = 32
    make_half_open(redis, breaker_in(redis.client))
    start, end = Barrier(rivals), Barrier(rivals)

    def deliver(number: int) -> bool:
        called = False
        breaker = breaker_in(redis.client)
        start.wait()
        with suppress(ParkedError), breaker.guard(f"task-{number}"):
            called = True
            end.wait(TIMEOUT)  # no thread comes after the probe has ended
            return called
        end.wait(TIMEOUT)
        return called

    with ThreadPoolExecutor(rivals) as pool:
        assert list(pool.map(deliver, range(rivals))).count(True) == 1


def _try_to_probe(url: str, process: int) -> int:
    with Redis.from_url(url, decode_responses=True) as redis:
        breaker = breaker_in(redis)
        admitted = 0
        for number in range(50):
            with suppress(ParkedError):
                breaker.guard(f"task-{process}-{number}").__enter__()
                admitted += 1
        return admitted


def test_one_of_many_processes_has_the_probe(redis: RedisContainer) -> None:
    make_half_open(redis, breaker_in(redis.client))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=spawn) as pool:
        admitted = list(pool.map(_try_to_probe, [redis.url] * 3, range(3)))
    assert sum(admitted) == 1, admitted


def _die_as_the_probe(url: str, probe_seconds: int) -> None:
    breaker = breaker_in(Redis.from_url(url, decode_responses=True), probe_seconds=probe_seconds)
    with breaker.guard("probe"):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("probe_seconds", [1, LONG])
def test_a_probe_whose_process_dies_is_replaced(redis: RedisContainer, probe_seconds: int) -> None:
    breaker = breaker_in(redis.client, probe_seconds=probe_seconds)
    make_half_open(redis, breaker)
    process = multiprocessing.get_context("spawn").Process(
        target=_die_as_the_probe, args=(redis.url, probe_seconds)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert redis.client.hget("breaker.crm", "probe") == "probe"
    if probe_seconds == LONG:
        assert not call(breaker, "another")
        redis.client.hset("breaker.crm", "probe_until", "1")
    eventually(lambda: call(breaker, "another"), what="another may probe")
    assert breaker.status().state is State.CLOSED


def test_a_redelivered_probe_is_let_through(redis: RedisContainer, breaker: Breaker) -> None:
    make_half_open(redis, breaker)
    with call_in_progress(breaker, "probe"):
        assert call(breaker, "probe")  # after the visibility timeout
    assert breaker.status().state is State.CLOSED


def test_a_replaced_probe_changes_nothing(redis: RedisContainer, breaker: Breaker) -> None:
    make_half_open(redis, breaker)
    with call_in_progress(breaker, "slow probe"):
        redis.client.hset("breaker.crm", "probe_until", "1")
        call(breaker, "second probe", UNHEALTHY)
    assert breaker.status().state is State.OPEN


# ── Late results ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error", [None, UNHEALTHY], ids=["success", "failure"])
def test_a_call_from_before_it_opened_changes_nothing(
    redis: RedisContainer, breaker: Breaker, error: DeliveryError | None
) -> None:
    fail(breaker, 1)  # so that a success would be recorded
    with call_in_progress(breaker, "late", error):
        fail(breaker, FAILURES - 1)
        before = redis.client.hgetall("breaker.crm")
    assert breaker.status().state is State.OPEN
    assert redis.client.hgetall("breaker.crm") == before


@pytest.mark.parametrize("error", [None, UNHEALTHY], ids=["success", "failure"])
def test_a_call_from_before_it_opened_changes_nothing_later(
    redis: RedisContainer, breaker: Breaker, error: DeliveryError | None
) -> None:
    fail(breaker, 1)
    with call_in_progress(breaker, "late", error):
        fail(breaker, FAILURES - 1)
        let_open_time_pass(redis)
        call(breaker, "probe")
        fail(breaker, FAILURES - 1)
    assert (breaker.status().state, breaker.status().failures) == (State.CLOSED, FAILURES - 1)


# ── Redis unavailable ─────────────────────────────────────────────────────────────────────────


@pytest.fixture
def unreachable() -> Iterator[Redis]:
    """A client of a Redis that does not run."""
    with Redis(port=free_port(), retry=Retry(NoBackoff(), 0)) as client:
        yield client


@pytest.mark.parametrize("error", [None, UNHEALTHY, REFUSED], ids=["delivered", "503", "422"])
def test_without_redis_deliveries_go_through(
    unreachable: Redis, error: DeliveryError | None, caplog: pytest.LogCaptureFixture
) -> None:
    breaker = breaker_in(unreachable)
    for _ in range(FAILURES + 1):
        assert call(breaker, "a task", error)
    assert "breaker of crm unavailable, not applied: ConnectionError" in caplog.text


def test_a_redis_that_hangs_blocks_no_delivery(redis: RedisContainer) -> None:
    with Redis(port=redis.port, socket_timeout=0.1, retry=Retry(NoBackoff(), 0)) as client:
        breaker = breaker_in(client)
        redis.pause()
        try:
            assert call(breaker, "a task", UNHEALTHY)
        finally:
            redis.unpause()


@pytest.mark.parametrize("when", ["admitted", "recorded"])
def test_a_time_limit_during_a_command_blocks_no_delivery(
    breaker: Breaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    def strike(*_: Any) -> None:
        raise SoftTimeLimitExceeded

    fail(breaker, 1)  # so that a success would be recorded
    target, name = (breaker._redis, "hmget") if when == "admitted" else (breaker, "_script")
    monkeypatch.setattr(target, name, strike)
    assert call(breaker)
    assert "not applied: SoftTimeLimitExceeded" in caplog.text


def test_a_breaker_that_closes_meanwhile_admits_a_call(
    redis: RedisContainer, breaker: Breaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis.client, "hmget", lambda *_: ["1", "2", None])
    redis.client.hset("breaker.crm", mapping={"opened": "2"})
    assert call(breaker, "a task", UNHEALTHY)
    assert (breaker.status().state, breaker.status().failures) == (State.CLOSED, 1)
    assert call(breaker, "a task")
    assert breaker.status().failures == 0


def test_a_flushed_redis_closes_it(redis: RedisContainer, breaker: Breaker) -> None:
    fail(breaker)
    redis.client.flushall()
    assert call(breaker)
    assert breaker.status().closed_for is None


# ── The log ───────────────────────────────────────────────────────────────────────────────────


def test_each_change_is_logged_once(
    redis: RedisContainer, breaker: Breaker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "tasks.delivery.circuit_breaker"):
        make_half_open(redis, breaker)
        call(breaker, "probe", UNHEALTHY)
        call(breaker, "another")
        let_open_time_pass(redis)
        call(breaker, "probe")
        call(breaker, "another")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "breaker of crm opened: it is not called"),
        ("WARNING", "breaker of crm stays open: the probe failed"),
        ("WARNING", "breaker of crm closed: it is called again"),
    ]
