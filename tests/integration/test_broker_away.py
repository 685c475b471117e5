"""Ingest while Redis is down, hangs or is full: it answers 503 within two seconds."""

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

#: Seconds within which ingest answers 503 (docs/interface.md).
MAX_ANSWER_SECONDS = 2.0


@pytest.fixture
def broker(engines: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisContainer]:
    """Redis, which tests kill and pause."""
    with running(RedisContainer(tmp_path_factory.mktemp("broker"))) as redis:
        yield redis


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test opens."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def ingest(
    broker: RedisContainer, tmp_path_factory: pytest.TempPathFactory, stack: ExitStack
) -> IngestContainer:
    """Ingest on that Redis, with a backlog limit of three events."""
    return start(stack, tmp_path_factory, broker.url, INGEST_MAX_BACKLOG="3")


def start(
    stack: ExitStack, tmp_path_factory: pytest.TempPathFactory, url: str, **settings: str
) -> IngestContainer:
    """Start an ingest with this broker."""
    folder = tmp_path_factory.mktemp("ingest")
    return stack.enter_context(running(IngestContainer(folder, {"REDIS_URL": url, **settings})))


def timed_post(ingest: IngestContainer) -> tuple[Answer, float]:
    """Post an event; return the answer and the seconds that it took."""
    begun = time.monotonic()
    answer = ingest.post(envelope())
    return answer, time.monotonic() - begun


def assert_unavailable(ingest: IngestContainer) -> None:
    """It answers 503 with Retry-After within two seconds; it is live, and not ready."""
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(timed_post, [ingest] * 20))
    for answer, seconds in answers:
        assert (answer.status, list(answer.json)) == (503, ["error"])
        assert answer.json["error"].startswith("broker away")
        assert int(answer.headers["Retry-After"]) > 0
        assert seconds < MAX_ANSWER_SECONDS
    begun = time.monotonic()
    assert ingest.request("GET", "/readyz").status == 503
    assert time.monotonic() - begun < MAX_ANSWER_SECONDS
    assert ingest.request("GET", "/healthz").status == 200


def test_broker_killed_and_restarted_keeps_events(
    ingest: IngestContainer, broker: RedisContainer
) -> None:
    accepted = ingest.post(envelope())
    assert accepted.status == 202

    broker.kill()
    assert_unavailable(ingest)
    broker.restart()

    assert eventually(lambda: ingest.request("GET", "/readyz").status == 200)
    assert ingest.post(envelope()).status == 202
    assert broker.client.llen("events") == 2, "the event accepted before the kill is kept"


def test_broker_restart_between_events_loses_none(
    ingest: IngestContainer, broker: RedisContainer
) -> None:
    for _ in range(2):
        assert ingest.post(envelope()).status == 202
        broker.restart()
    assert ingest.post(envelope()).status == 202


def test_broker_that_hangs_and_recovers(ingest: IngestContainer, broker: RedisContainer) -> None:
    assert ingest.post(envelope()).status == 202
    broker.pause()
    try:
        assert_unavailable(ingest)
    finally:
        broker.unpause()
    eventually(lambda: ingest.request("GET", "/readyz").status == 200)
    broker.client.delete("events")
    eventually(lambda: ingest.post(envelope()).status == 202)


def test_broker_port_that_is_closed(
    stack: ExitStack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    listener = stack.enter_context(socket.socket())
    listener.bind((HOST, 0))  # without listening
    ingest = start(stack, tmp_path_factory, f"redis://{HOST}:{listener.getsockname()[1]}/0")
    assert_unavailable(ingest)


def test_broker_that_accepts_and_never_answers(
    stack: ExitStack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    listener = stack.enter_context(socket.create_server((HOST, 0), backlog=1024))
    ingest = start(stack, tmp_path_factory, f"redis://{HOST}:{listener.getsockname()[1]}/0")
    assert_unavailable(ingest)


def test_broker_that_does_not_accept_connections(
    stack: ExitStack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    listener = stack.enter_context(socket.create_server((HOST, 0), backlog=0))
    for _ in range(3):  # its backlog is full: the kernel ignores further connections
        caller = stack.enter_context(socket.socket())
        caller.setblocking(False)
        caller.connect_ex(listener.getsockname())
    ingest = start(stack, tmp_path_factory, f"redis://{HOST}:{listener.getsockname()[1]}/0")
    assert_unavailable(ingest)


def test_backlog_over_its_limit_is_503_until_it_shrinks(
    ingest: IngestContainer, broker: RedisContainer
) -> None:
    refused = eventually(lambda: (a := ingest.post(envelope())).status == 503 and a)
    assert refused.json["error"].startswith("backlog over its limit")
    assert int(refused.headers["Retry-After"]) > 0
    # Ingest reads the backlog once a second: it may have accepted more than three.
    waiting = broker.client.llen("events")
    assert waiting >= 3
    broker.client.ltrim("events", 0, 1)
    eventually(lambda: ingest.post(envelope()).status == 202)


def test_broker_out_of_memory_is_503(ingest: IngestContainer, broker: RedisContainer) -> None:
    broker.client.config_set("maxmemory", "1")
    answer, seconds = timed_post(ingest)
    assert (answer.status, seconds < MAX_ANSWER_SECONDS) == (503, True)
    assert answer.headers["Retry-After"]
    broker.client.config_set("maxmemory", "0")
    eventually(lambda: ingest.post(envelope()).status == 202)
