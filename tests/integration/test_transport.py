"""The transport on a real Redis: a message is reserved in one step."""

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
    """A connection by the transport to an empty Redis."""
    with Connection(redis.url, transport=Transport) as connection:
        yield connection


def publish(connection: Connection, body: Any) -> None:
    """Publish one message."""
    with connection.channel() as channel, connection.Producer(channel) as producer:
        producer.publish(body, exchange="", routing_key="events", declare=[QUEUE])


def reserve(connection: Connection, seconds: float = 5) -> list[Any]:
    """Receive the next message, without acknowledging it."""
    received: list[Any] = []
    with connection.Consumer(QUEUE, on_message=received.append):
        while not received:
            connection.drain_events(timeout=seconds)
    return received


def test_a_reserved_message_is_unacked_until_acknowledged(
    connection: Connection, redis: RedisContainer
) -> None:
    publish(connection, {"n": 1})
    (message,) = reserve(connection)
    assert message.payload == {"n": 1}
    assert redis.client.hkeys("unacked") == [message.delivery_tag]
    assert redis.client.zrange("unacked_index", 0, -1) == [message.delivery_tag]
    assert redis.client.llen("events") == 0
    message.ack()
    assert not redis.client.exists("unacked", "unacked_index")


def test_a_requeued_message_is_delivered_again(
    connection: Connection, redis: RedisContainer
) -> None:
    publish(connection, {"n": 1})
    (message,) = reserve(connection)
    message.requeue()
    assert redis.client.llen("events") == 1
    assert not redis.client.exists("unacked", "unacked_index")
    (again,) = reserve(connection)
    assert again.payload == {"n": 1}
    assert again.delivery_info["redelivered"]


def test_messages_are_delivered_in_order(connection: Connection) -> None:
    for number in range(5):
        publish(connection, number)
    received = [reserve(connection)[0] for _ in range(5)]
    assert [message.payload for message in received] == [0, 1, 2, 3, 4]


def test_a_publication_wakes_an_idle_consumer(
    connection: Connection, redis: RedisContainer
) -> None:
    received: list[Any] = []
    with connection.Consumer(QUEUE, on_message=received.append):
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0.2)  # from now on it blocks on the notification key
        with Connection(redis.url, transport=Transport) as other:
            publish(other, "woken")
        connection.drain_events(timeout=5)
    assert [message.payload for message in received] == ["woken"]


def test_a_single_publication_takes_one_round_trip(
    connection: Connection, redis: RedisContainer
) -> None:
    publish(connection, "connects and declares")
    producer = connection.Producer()
    producer.publish("first", exchange="", routing_key="events")
    before = redis.client.info("stats")["total_reads_processed"]
    producer.publish("second", exchange="", routing_key="events")
    reads = redis.client.info("stats")["total_reads_processed"] - before - 1  # of INFO itself
    assert reads == 1
    assert redis.client.llen("events") == 3


def test_a_message_of_stock_kombu_is_found(connection: Connection, redis: RedisContainer) -> None:
    with Connection(redis.url, transport=stock.Transport) as other:
        publish(other, "by hand")
    assert not redis.client.exists(notify_key("events"))
    assert reserve(connection)[0].payload == "by hand"


def test_notifications_do_not_pile_up(connection: Connection, redis: RedisContainer) -> None:
    for number in range(100):
        publish(connection, number)
    assert 0 < redis.client.zcard(notify_key("events")) <= 16


def test_after_the_last_message_there_is_no_empty_poll(
    connection: Connection, redis: RedisContainer
) -> None:
    for number in range(3):
        publish(connection, number)
    redis.client.config_resetstat()
    received: list[Any] = []
    with connection.Consumer(QUEUE, on_message=received.append):
        for _ in range(3):
            connection.drain_events(timeout=1)
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0.5)
    assert len(received) == 3
    sent = redis.client.info("commandstats")
    # Three notifications are left: the first wakes it once more, and it deletes the others.
    assert sent["cmdstat_eval"]["calls"] == 4
    assert sent["cmdstat_bzpopmin"]["calls"] == 2
    assert not redis.client.exists(notify_key("events"))


def test_a_consumer_that_was_full_polls_before_it_blocks(
    connection: Connection, redis: RedisContainer
) -> None:
    publish(connection, "first")
    received: list[Any] = []
    with connection.Consumer(QUEUE, on_message=received.append, prefetch_count=1):
        connection.drain_events(timeout=1)
        publish(connection, "second")
        redis.client.delete(notify_key("events"))  # another popped it, or a restore added none
        received.pop().ack()
        connection.drain_events(timeout=0.5)  # less than a blocked consumer may need
    assert [message.payload for message in received] == ["second"]


def test_a_consumer_of_several_queues_polls_all_of_them(redis: RedisContainer) -> None:
    queues = [Queue(name, routing_key=name) for name in ("events", "settle", "sweep")]
    with Connection(redis.url, transport=stock.Transport) as other:  # which notifies no consumer
        for queue in queues:
            producer = other.Producer()
            producer.publish(queue.name, exchange="", routing_key=queue.name, declare=[queue])
    received: list[Any] = []
    with (
        Connection(redis.url, transport=Transport) as connection,
        connection.Consumer(queues, on_message=received.append),
    ):
        for _ in queues:
            connection.drain_events(timeout=0.5)  # less than a blocked consumer may need
    assert {message.payload for message in received} == {"events", "settle", "sweep"}


def test_a_message_with_a_priority_is_delivered_as_any_other(connection: Connection) -> None:
    with connection.channel() as channel, connection.Producer(channel) as producer:
        producer.publish("now", exchange="", routing_key="events", declare=[QUEUE], priority=9)
    assert reserve(connection)[0].payload == "now"


def test_a_replica_is_polled_with_pauses(
    connection: Connection, redis: RedisContainer, caplog: pytest.LogCaptureFixture
) -> None:
    received: list[Any] = []
    with connection.Consumer(QUEUE, on_message=received.append):
        redis.client.replicaof("127.0.0.1", 1)  # where nothing listens
        try:
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.5)
        finally:
            redis.client.replicaof("no", "one")
        assert 0 < caplog.text.count("Redis takes no writes") < 10
        publish(connection, "after it")
        connection.drain_events(timeout=5)
    assert [message.payload for message in received] == ["after it"]


def test_an_undecodable_message_is_kept_and_logged(
    connection: Connection, redis: RedisContainer, caplog: pytest.LogCaptureFixture
) -> None:
    junk = ["not JSON", "[]", '{"properties": {}}', '{"properties": {"delivery_info": 1}}']
    redis.client.lpush("events", *junk)
    publish(connection, "behind it")
    assert reserve(connection)[0].payload == "behind it"
    assert redis.client.lrange(UNDECODABLE_QUEUE, 0, -1) == junk[::-1]
    assert caplog.text.count("what is no message") == len(junk)
    assert "not JSON" not in caplog.text


def test_a_full_redis_keeps_messages_in_their_queue(
    connection: Connection, redis: RedisContainer, caplog: pytest.LogCaptureFixture
) -> None:
    publish(connection, "kept")
    received: list[Any] = []
    with connection.Consumer(QUEUE, on_message=received.append):
        redis.client.config_set("maxmemory", "1")
        try:
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.5)
            assert redis.client.llen("events") == 1
            assert "Redis takes no writes" in caplog.text
        finally:
            redis.client.config_set("maxmemory", "0")
        connection.drain_events(timeout=5)
    assert [message.payload for message in received] == ["kept"]


def test_text_of_any_kind_survives_being_reserved(
    connection: Connection, redis: RedisContainer
) -> None:
    body = {"text": '"quotes", \\, /, ü, \u2028, \0', "empty": [], "number": 1e300, "n": None}
    publish(connection, body)
    (message,) = reserve(connection)
    message.requeue()
    assert reserve(connection)[0].payload == body
