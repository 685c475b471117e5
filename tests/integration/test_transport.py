"""Our transport on a real Redis: a message is taken and noted in one step."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Queue
from kombu.transport import redis as stock

from tasks.worker.transport import UNDECODABLE_QUEUE, Transport, notify_key
from tests.support.nodes import RedisContainer

QUEUE = Queue("events", routing_key="events")


@pytest.fixture
def connection(redis: RedisContainer) -> Iterator[Connection]:
    """A connection by our transport to an empty Redis."""
    with Connection(redis.url, transport=Transport) as connection:
        yield connection


def publish(connection: Connection, body: Any) -> None:
    """Publish one message."""
    with connection.channel() as channel, connection.Producer(channel) as producer:
        producer.publish(body, exchange="", routing_key="events", declare=[QUEUE])


def take(connection: Connection, seconds: float = 5) -> list[Any]:
    """Take what comes first; nobody acknowledges it."""
    taken: list[Any] = []
    with connection.Consumer(QUEUE, on_message=taken.append):
        while not taken:
            connection.drain_events(timeout=seconds)
    return taken


def test_what_is_taken_is_noted_until_it_is_acknowledged(
    connection: Connection, redis: RedisContainer
) -> None:
    publish(connection, {"n": 1})
    (message,) = take(connection)
    assert message.payload == {"n": 1}
    assert redis.client.hkeys("unacked") == [message.delivery_tag]
    assert redis.client.zrange("unacked_index", 0, -1) == [message.delivery_tag]
    assert redis.client.llen("events") == 0
    message.ack()
    assert not redis.client.exists("unacked", "unacked_index")


def test_what_is_rejected_goes_back(connection: Connection, redis: RedisContainer) -> None:
    publish(connection, {"n": 1})
    (message,) = take(connection)
    message.requeue()
    assert redis.client.llen("events") == 1
    assert not redis.client.exists("unacked", "unacked_index")
    (again,) = take(connection)
    assert again.payload == {"n": 1}
    assert again.delivery_info["redelivered"]


def test_messages_come_in_the_order_they_went_in(connection: Connection) -> None:
    for number in range(5):
        publish(connection, number)
    taken = [take(connection)[0] for _ in range(5)]
    assert [message.payload for message in taken] == [0, 1, 2, 3, 4]


def test_whoever_waits_is_woken(connection: Connection, redis: RedisContainer) -> None:
    taken: list[Any] = []
    with connection.Consumer(QUEUE, on_message=taken.append):
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0.2)  # from now on it waits for the bell
        with Connection(redis.url, transport=Transport) as other:
            publish(other, "woken")
        connection.drain_events(timeout=5)
    assert [message.payload for message in taken] == ["woken"]


def test_a_stock_publisher_is_heard(connection: Connection, redis: RedisContainer) -> None:
    with Connection(redis.url, transport=stock.Transport) as other:
        publish(other, "by hand")
    assert not redis.client.exists(notify_key("events"))
    assert take(connection)[0].payload == "by hand"


def test_bells_do_not_pile_up(connection: Connection, redis: RedisContainer) -> None:
    for number in range(100):
        publish(connection, number)
    assert 0 < redis.client.zcard(notify_key("events")) <= 16


def test_what_was_the_last_is_not_asked_for_again(
    connection: Connection, redis: RedisContainer
) -> None:
    for number in range(3):
        publish(connection, number)
    redis.client.config_resetstat()
    taken: list[Any] = []
    with connection.Consumer(QUEUE, on_message=taken.append):
        for _ in range(3):
            connection.drain_events(timeout=1)
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0.5)
    assert len(taken) == 3
    asked = redis.client.info("commandstats")
    # The three bells ring on once: who hears the first finds nothing, and stills the others.
    assert asked["cmdstat_eval"]["calls"] == 4
    assert asked["cmdstat_bzpopmin"]["calls"] == 2
    assert not redis.client.exists(notify_key("events"))


def test_who_had_no_room_looks_before_waiting_for_a_bell(
    connection: Connection, redis: RedisContainer
) -> None:
    publish(connection, "first")
    taken: list[Any] = []
    with connection.Consumer(QUEUE, on_message=taken.append, prefetch_count=1):
        connection.drain_events(timeout=1)
        publish(connection, "second")
        redis.client.delete(notify_key("events"))  # another heard it, or a restore rang none
        taken.pop().ack()
        connection.drain_events(timeout=0.5)  # less than who waits for a bell may take
    assert [message.payload for message in taken] == ["second"]


def test_who_has_several_queues_looks_at_all_of_them(redis: RedisContainer) -> None:
    queues = [Queue(name, routing_key=name) for name in ("events", "settle", "sweep")]
    with Connection(redis.url, transport=stock.Transport) as other:  # which rings no bell
        for queue in queues:
            producer = other.Producer()
            producer.publish(queue.name, exchange="", routing_key=queue.name, declare=[queue])
    taken: list[Any] = []
    with (
        Connection(redis.url, transport=Transport) as connection,
        connection.Consumer(queues, on_message=taken.append),
    ):
        for _ in queues:
            connection.drain_events(timeout=0.5)  # less than who waits for a bell may take
    assert {message.payload for message in taken} == {"events", "settle", "sweep"}


def test_a_message_with_a_priority_is_taken_like_any_other(connection: Connection) -> None:
    with connection.channel() as channel, connection.Producer(channel) as producer:
        producer.publish("now", exchange="", routing_key="events", declare=[QUEUE], priority=9)
    assert take(connection)[0].payload == "now"


def test_a_replica_is_not_asked_without_end(
    connection: Connection, redis: RedisContainer, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[Any] = []
    with connection.Consumer(QUEUE, on_message=taken.append):
        redis.client.replicaof("127.0.0.1", 1)  # where nobody is
        try:
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.5)
        finally:
            redis.client.replicaof("no", "one")
        assert 0 < caplog.text.count("Redis takes no writes") < 10
        publish(connection, "after it")
        connection.drain_events(timeout=5)
    assert [message.payload for message in taken] == ["after it"]


def test_what_is_no_message_is_kept_and_reported(
    connection: Connection, redis: RedisContainer, caplog: pytest.LogCaptureFixture
) -> None:
    junk = ["not JSON", "[]", '{"properties": {}}', '{"properties": {"delivery_info": 1}}']
    redis.client.lpush("events", *junk)
    publish(connection, "behind it")
    assert take(connection)[0].payload == "behind it"
    assert redis.client.lrange(UNDECODABLE_QUEUE, 0, -1) == junk[::-1]
    assert caplog.text.count("what is no message") == len(junk)
    assert "not JSON" not in caplog.text


def test_a_full_redis_keeps_what_cannot_be_noted(
    connection: Connection, redis: RedisContainer, caplog: pytest.LogCaptureFixture
) -> None:
    publish(connection, "kept")
    taken: list[Any] = []
    with connection.Consumer(QUEUE, on_message=taken.append):
        redis.client.config_set("maxmemory", "1")
        try:
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.5)
            assert redis.client.llen("events") == 1
            assert "Redis takes no writes" in caplog.text
        finally:
            redis.client.config_set("maxmemory", "0")
        connection.drain_events(timeout=5)
    assert [message.payload for message in taken] == ["kept"]


def test_text_of_any_kind_survives_being_noted(
    connection: Connection, redis: RedisContainer
) -> None:
    body = {"text": '"quotes", \\, /, ü, \u2028, \0', "empty": [], "number": 1e300, "n": None}
    publish(connection, body)
    (message,) = take(connection)
    message.requeue()
    assert take(connection)[0].payload == body
