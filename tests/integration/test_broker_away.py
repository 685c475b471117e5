"""Ingest when Redis is away, silent, full of events, or back: an honest no within two seconds."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.support.envelopes import envelope
from tests.support.nodes import HOST, RedisContainer, running
from tests.support.system import Answer, IngestContainer
from tests.support.waiting import eventually

#: EventBridge waits five seconds; INTERFACE promises an answer within two.
SOON = 2.0


@pytest.fixture
def broker(engines: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisContainer]:
    """Redis, to be killed and frozen."""
    with running(RedisContainer(tmp_path_factory.mktemp("broker"))) as redis:
        yield redis


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is ended with the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def ingest(
    broker: RedisContainer, tmp_path_factory: pytest.TempPathFactory, stack: ExitStack
) -> IngestContainer:
    """Ingest on that Redis, which takes three events and no more."""
    return start(stack, tmp_path_factory, broker.url, INGEST_MAX_BACKLOG="3")


def start(
    stack: ExitStack, tmp_path_factory: pytest.TempPathFactory, url: str, **settings: str
) -> IngestContainer:
    """Start an ingest on some broker."""
    folder = tmp_path_factory.mktemp("ingest")
    return stack.enter_context(running(IngestContainer(folder, {"REDIS_URL": url, **settings})))


def timed_post(ingest: IngestContainer) -> tuple[Answer, float]:
    """Post an event; tell how long the answer took."""
    begun = time.monotonic()
    answer = ingest.post(envelope())
    return answer, time.monotonic() - begun


def assert_says_no_soon(ingest: IngestContainer) -> None:
    """It answers 503 within two seconds, and when to come back; it is alive, and not ready."""
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(timed_post, [ingest] * 20))
    for answer, seconds in answers:
        assert (answer.status, list(answer.json)) == (503, ["error"])
        assert answer.json["error"].startswith("broker away")
        assert int(answer.headers["Retry-After"]) > 0
        assert seconds < SOON
    begun = time.monotonic()
    assert ingest.request("GET", "/readyz").status == 503
    assert time.monotonic() - begun < SOON
    assert ingest.request("GET", "/healthz").status == 200


def test_a_broker_that_dies_and_comes_back(ingest: IngestContainer, broker: RedisContainer) -> None:
    accepted = ingest.post(envelope())
    assert accepted.status == 202

    broker.kill()
    assert_says_no_soon(ingest)
    broker.restart()

    assert eventually(lambda: ingest.request("GET", "/readyz").status == 200)
    assert ingest.post(envelope()).status == 202
    assert broker.client.llen("events") == 2, "what was accepted before outlived the kill"


def test_a_broker_that_restarted_while_nothing_came_costs_no_event(
    ingest: IngestContainer, broker: RedisContainer
) -> None:
    for _ in range(2):
        assert ingest.post(envelope()).status == 202
        broker.restart()
    assert ingest.post(envelope()).status == 202


def test_a_broker_that_falls_silent_and_speaks_again(
    ingest: IngestContainer, broker: RedisContainer
) -> None:
    assert ingest.post(envelope()).status == 202
    broker.pause()
    try:
        assert_says_no_soon(ingest)
    finally:
        broker.unpause()
    eventually(lambda: ingest.request("GET", "/readyz").status == 200)
    broker.client.delete("events")
    eventually(lambda: ingest.post(envelope()).status == 202)


def test_a_broker_that_was_never_there(
    stack: ExitStack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    listener = stack.enter_context(socket.socket())
    listener.bind((HOST, 0))  # and nobody listens
    ingest = start(stack, tmp_path_factory, f"redis://{HOST}:{listener.getsockname()[1]}/0")
    assert_says_no_soon(ingest)


def test_a_broker_that_accepts_and_never_answers(
    stack: ExitStack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    listener = stack.enter_context(socket.create_server((HOST, 0), backlog=1024))
    ingest = start(stack, tmp_path_factory, f"redis://{HOST}:{listener.getsockname()[1]}/0")
    assert_says_no_soon(ingest)


def test_a_broker_that_does_not_even_accept(
    stack: ExitStack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    listener = stack.enter_context(socket.create_server((HOST, 0), backlog=0))
    for _ in range(3):  # with its backlog full, the kernel leaves further calls unanswered
        caller = stack.enter_context(socket.socket())
        caller.setblocking(False)
        caller.connect_ex(listener.getsockname())
    ingest = start(stack, tmp_path_factory, f"redis://{HOST}:{listener.getsockname()[1]}/0")
    assert_says_no_soon(ingest)


def test_a_backlog_over_its_limit_is_refused_until_it_shrinks(
    ingest: IngestContainer, broker: RedisContainer
) -> None:
    refused = eventually(lambda: (a := ingest.post(envelope())).status == 503 and a)
    assert refused.json["error"].startswith("backlog over its limit")
    assert int(refused.headers["Retry-After"]) > 0
    # Ingest looks once a second, so a few more may have come in; and none of those it refused.
    waiting = broker.client.llen("events")
    assert waiting >= 3
    broker.client.ltrim("events", 0, 1)
    eventually(lambda: ingest.post(envelope()).status == 202)


def test_a_broker_out_of_memory_is_a_no_too(
    ingest: IngestContainer, broker: RedisContainer
) -> None:
    broker.client.config_set("maxmemory", "1")
    answer, seconds = timed_post(ingest)
    assert (answer.status, seconds < SOON) == (503, True)
    assert answer.headers["Retry-After"]
    broker.client.config_set("maxmemory", "0")
    eventually(lambda: ingest.post(envelope()).status == 202)
