"""The circuit breaker on a real Redis: every transition, and one probe however many look for it."""

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

SICK = TransientDeliveryError("503 Service Unavailable")
BUSY = TransientDeliveryError("429 Too Many Requests", counts_as_failure=False)
REFUSED = DeliveryError("422 Unprocessable Entity")

#: Seconds in which nothing happens by itself during a test.
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
    """A breaker that nobody has used, and that stays open until a test says otherwise."""
    return breaker_in(redis.client)


def call(breaker: Breaker, task_id: str = "a task", error: DeliveryError | None = None) -> bool:
    """Deliver something that comes to this; tell whether the sink was called."""
    called = False
    with suppress(DeliveryError), breaker.guard(task_id):
        called = True
        if error:
            raise error
    return called


def fail(breaker: Breaker, times: int = FAILURES) -> None:
    """Let so many calls fail, one after the other."""
    for number in range(times):
        assert call(breaker, f"failing-{number}", SICK)


def its_time_is_over(redis: RedisContainer) -> None:
    """Let the time of an open breaker be over, whatever the clock says."""
    assert redis.client.hexists("breaker.crm", "open_until")
    redis.client.hset("breaker.crm", "open_until", "1")


def half_open(redis: RedisContainer, breaker: Breaker) -> None:
    """Bring it to where it waits for a probe."""
    fail(breaker)
    its_time_is_over(redis)
    assert breaker.status().state is State.HALF_OPEN


@contextmanager
def under_way(breaker: Breaker, task_id: str, error: DeliveryError | None = None) -> Iterator[None]:
    """Have a call under way in another thread, which ends when the block does."""
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
        assert begun.wait(TIMEOUT), "it was not let through"
        yield
    finally:
        over.set()
        thread.join()


# ── Transitions ───────────────────────────────────────────────────────────────────────────────


def test_at_first_it_is_closed(breaker: Breaker) -> None:
    assert breaker.status() == BreakerStatus(
        State.CLOSED, failures=0, opened=0, probe_in=0, closed_for=None
    )


def test_so_many_failures_in_a_row_open_it(breaker: Breaker) -> None:
    fail(breaker, FAILURES - 1)
    look = breaker.status()
    assert (look.state, look.failures, look.opened) == (State.CLOSED, FAILURES - 1, 0)
    fail(breaker, 1)
    look = breaker.status()
    assert (look.state, look.failures, look.opened) == (State.OPEN, 0, 1)
    assert LONG - TIMEOUT < look.probe_in <= LONG


@pytest.mark.parametrize("error", [None, BUSY, REFUSED], ids=["delivered", "429", "422"])
def test_an_answer_ends_the_row(breaker: Breaker, error: DeliveryError | None) -> None:
    fail(breaker, FAILURES - 1)
    assert call(breaker, "a task", error)
    assert breaker.status().failures == 0
    fail(breaker, FAILURES - 1)
    assert breaker.status().state is State.CLOSED


def test_open_it_parks_without_a_call(breaker: Breaker) -> None:
    fail(breaker)
    with pytest.raises(ParkedError, match="the breaker of crm is open"), breaker.guard("a task"):
        pytest.fail("the sink was called")
    assert breaker.status().opened == 1


def test_its_time_over_it_waits_for_a_probe(redis: RedisContainer) -> None:
    breaker = breaker_in(redis.client, seconds=1)
    fail(breaker)
    eventually(lambda: breaker.status().state is State.HALF_OPEN)
    assert breaker.status().probe_in == 0


def test_a_probe_that_succeeds_closes_it(redis: RedisContainer) -> None:
    told: list[str] = []
    breaker = breaker_in(redis.client, on_closed=lambda: told.append("closed"))
    half_open(redis, breaker)
    assert call(breaker, "probe")
    look = breaker.status()
    assert (look.state, look.failures, look.opened) == (State.CLOSED, 0, 1)
    assert look.closed_for is not None
    assert 0 <= look.closed_for < TIMEOUT
    assert call(breaker, "another")
    assert told == ["closed"]


@pytest.mark.parametrize("error", [BUSY, REFUSED], ids=["429", "422"])
def test_a_probe_that_is_answered_at_all_closes_it(
    redis: RedisContainer, breaker: Breaker, error: DeliveryError
) -> None:
    half_open(redis, breaker)
    assert call(breaker, "probe", error)
    assert breaker.status().state is State.CLOSED


def test_a_probe_that_fails_leaves_it_open_for_as_long_again(
    redis: RedisContainer, breaker: Breaker
) -> None:
    half_open(redis, breaker)
    assert call(breaker, "probe", SICK)
    look = breaker.status()
    assert (look.state, look.opened) == (State.OPEN, 1)
    assert look.probe_in > LONG - TIMEOUT
    assert not call(breaker, "another")
    its_time_is_over(redis)
    assert call(breaker, "another")
    assert breaker.status().state is State.CLOSED


def test_closed_again_it_opens_as_at_first(redis: RedisContainer, breaker: Breaker) -> None:
    half_open(redis, breaker)
    call(breaker, "probe")
    fail(breaker, FAILURES - 1)
    assert breaker.status().state is State.CLOSED
    fail(breaker, 1)
    assert (breaker.status().state, breaker.status().opened) == (State.OPEN, 2)


def test_an_error_of_our_own_says_nothing_of_the_sink(breaker: Breaker) -> None:
    fail(breaker, FAILURES - 1)
    with pytest.raises(KeyError), breaker.guard("a task"):
        raise KeyError("a mistake in the sink's body")
    assert breaker.status().failures == FAILURES - 1


# ── One probe ─────────────────────────────────────────────────────────────────────────────────


def test_while_a_probe_is_under_way_others_are_parked(
    redis: RedisContainer, breaker: Breaker
) -> None:
    half_open(redis, breaker)
    with under_way(breaker, "probe"):
        assert not call(breaker, "another")
        assert breaker.status().state is State.HALF_OPEN
    assert breaker.status().state is State.CLOSED


def test_of_many_threads_one_is_the_probe(redis: RedisContainer) -> None:
    rivals = 32
    half_open(redis, breaker_in(redis.client))
    barrier, told = Barrier(rivals), Barrier(rivals)

    def deliver(number: int) -> bool:
        called = False
        breaker = breaker_in(redis.client)
        barrier.wait()
        with suppress(ParkedError), breaker.guard(f"task-{number}"):
            called = True
            told.wait(TIMEOUT)  # nobody is late for the probe
            return called
        told.wait(TIMEOUT)
        return called

    with ThreadPoolExecutor(rivals) as pool:
        assert list(pool.map(deliver, range(rivals))).count(True) == 1


def _look_for_a_probe(url: str, process: int) -> int:
    with Redis.from_url(url, decode_responses=True) as redis:
        breaker = breaker_in(redis)
        admitted = 0
        for number in range(50):
            with suppress(ParkedError):
                breaker.guard(f"task-{process}-{number}").__enter__()
                admitted += 1
        return admitted


def test_of_many_processes_one_has_the_probe(redis: RedisContainer) -> None:
    half_open(redis, breaker_in(redis.client))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=spawn) as pool:
        admitted = list(pool.map(_look_for_a_probe, [redis.url] * 3, range(3)))
    assert sum(admitted) == 1, admitted


def _die_as_the_probe(url: str, probe_seconds: int) -> None:
    breaker = breaker_in(Redis.from_url(url, decode_responses=True), probe_seconds=probe_seconds)
    with breaker.guard("probe"):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("probe_seconds", [1, LONG])
def test_a_probe_whose_process_dies_gives_way_in_time(
    redis: RedisContainer, probe_seconds: int
) -> None:
    breaker = breaker_in(redis.client, probe_seconds=probe_seconds)
    half_open(redis, breaker)
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


def test_the_probe_that_is_handed_out_again_is_let_through(
    redis: RedisContainer, breaker: Breaker
) -> None:
    half_open(redis, breaker)
    with under_way(breaker, "probe"):
        assert call(breaker, "probe")  # its worker died, and Redis gave it to another
    assert breaker.status().state is State.CLOSED


def test_a_probe_that_was_given_up_changes_nothing_any_more(
    redis: RedisContainer, breaker: Breaker
) -> None:
    half_open(redis, breaker)
    with under_way(breaker, "slow probe"):
        redis.client.hset("breaker.crm", "probe_until", "1")
        call(breaker, "second probe", SICK)
    assert breaker.status().state is State.OPEN


# ── Late news ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error", [None, SICK], ids=["success", "failure"])
def test_what_was_admitted_before_it_opened_changes_nothing_while_it_is_open(
    redis: RedisContainer, breaker: Breaker, error: DeliveryError | None
) -> None:
    fail(breaker, 1)  # so that a success would be worth a note
    with under_way(breaker, "late", error):
        fail(breaker, FAILURES - 1)
        before = redis.client.hgetall("breaker.crm")
    assert breaker.status().state is State.OPEN
    assert redis.client.hgetall("breaker.crm") == before


@pytest.mark.parametrize("error", [None, SICK], ids=["success", "failure"])
def test_nor_once_it_has_closed_again(
    redis: RedisContainer, breaker: Breaker, error: DeliveryError | None
) -> None:
    fail(breaker, 1)
    with under_way(breaker, "late", error):
        fail(breaker, FAILURES - 1)
        its_time_is_over(redis)
        call(breaker, "probe")
        fail(breaker, FAILURES - 1)
    assert (breaker.status().state, breaker.status().failures) == (State.CLOSED, FAILURES - 1)


# ── Redis away ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def nowhere() -> Iterator[Redis]:
    """A client of a Redis that is not there."""
    with Redis(port=free_port(), retry=Retry(NoBackoff(), 0)) as client:
        yield client


@pytest.mark.parametrize("error", [None, SICK, REFUSED], ids=["delivered", "503", "422"])
def test_without_redis_deliveries_go_through(
    nowhere: Redis, error: DeliveryError | None, caplog: pytest.LogCaptureFixture
) -> None:
    breaker = breaker_in(nowhere)
    for _ in range(FAILURES + 1):
        assert call(breaker, "a task", error)
    assert "breaker of crm not asked" in caplog.text


def test_a_redis_that_does_not_answer_stops_no_delivery(redis: RedisContainer) -> None:
    with Redis(port=redis.port, socket_timeout=0.1, retry=Retry(NoBackoff(), 0)) as impatient:
        breaker = breaker_in(impatient)
        redis.pause()
        try:
            assert call(breaker, "a task", SICK)
        finally:
            redis.unpause()


def test_a_time_limit_that_strikes_while_redis_is_asked_stops_no_delivery(
    breaker: Breaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strike(*_: Any) -> None:
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(breaker, "_step", strike)
    assert call(breaker)


def test_a_redis_that_forgot_everything_has_it_closed(
    redis: RedisContainer, breaker: Breaker
) -> None:
    fail(breaker)
    redis.client.flushall()
    assert call(breaker)
    assert breaker.status().closed_for is None


# ── The log ───────────────────────────────────────────────────────────────────────────────────


def test_each_change_is_logged_once(
    redis: RedisContainer, breaker: Breaker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "tasks.delivery.circuit_breaker"):
        half_open(redis, breaker)
        call(breaker, "probe", SICK)
        call(breaker, "another")
        its_time_is_over(redis)
        call(breaker, "probe")
        call(breaker, "another")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "breaker of crm opened: it is not called"),
        ("WARNING", "breaker of crm stays open: the probe failed"),
        ("WARNING", "breaker of crm closed: it is called again"),
    ]
