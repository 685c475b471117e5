"""The transport of our messages: kombu's for Redis, from which no death takes a message.

kombu pops a message, and notes as unacknowledged what it got. A worker that dies, or a connection
that breaks in between, takes the message along: with ``process_event``, the only trace of an event
that was answered 202. Ours notes and pops in one script. A script cannot wait, so who finds
nothing waits for a bell: a sorted set beside the queue, which each publication rings. Whoever
publishes by kombu's own transport is heard within a second.
"""

import logging
import time
from collections.abc import Callable
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

# KEYS: hash of unacknowledged messages, their index by time, list of what is no message, then the
# queues, and as many bells. ARGV: seconds since the epoch. Answers queue, message, delivery tag and
# whether it was the last. The entry of the hash is as kombu's, which restores it. It is written
# first: with Redis full, nothing else happens. Where there is nothing, no bell goes on ringing.
_RESERVE_SCRIPT = """
local last = (#KEYS + 3) / 2
for i = 4, last do
  local next = redis.call('LRANGE', KEYS[i], -2, -1)
  local text = next[#next]
  if text then
    local ok, tag, exchange, key = pcall(function ()
      local properties = cjson.decode(text).properties
      local info = properties.delivery_info
      return properties.delivery_tag, cjson.encode(info.exchange), cjson.encode(info.routing_key)
    end)
    if ok and tag then
      redis.call('HSET', KEYS[1], tag, '[' .. text .. ',' .. exchange .. ',' .. key .. ']')
      redis.call('ZADD', KEYS[2], ARGV[1], tag)
      redis.call('RPOP', KEYS[i])
      return {KEYS[i], text, tag, #next == 1 and 1 or 0}
    end
    redis.call('RPOPLPUSH', KEYS[i], KEYS[3])
    return {KEYS[i], text, false, 0}
  end
end
redis.call('DEL', unpack(KEYS, last + 1))
"""

#: The list of what was found in a queue and is no message.
UNDECODABLE_QUEUE = "undecodable"

#: Seconds to wait where Redis takes no writes: else it is asked, and that logged, without end.
REFUSED_PAUSE = 0.1

_log = logging.getLogger(__name__)


def notify_key(queue: str) -> str:
    """Name the key that rings when something is published to a queue."""
    return f"{queue}.bell"


class QoS(redis.QoS):
    """Acknowledgement of messages that the script has noted already."""

    channel: "Channel"
    unacked_key: str
    unacked_index_key: str

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message, unless the script did."""
        if delivery_tag == self.channel.taken:
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Forget a message. An entry of the index alone does no harm, so this needs no MULTI.

        Where Redis cannot be told, the message comes again; its place is free all the same.
        """
        try:
            with self.channel.conn_or_acquire() as client:
                pipe = client.pipeline(transaction=False)
                pipe.hdel(self.unacked_key, delivery_tag).zrem(self.unacked_index_key, delivery_tag)
                pipe.execute()
        finally:
            virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Forget a message or put it back; as with ``ack``, its place is free in any case."""
        try:
            super().reject(delivery_tag, requeue)
        finally:
            virtual.QoS.ack(self, delivery_tag)


class Channel(redis.Channel):
    """A channel that takes and notes messages in one step."""

    QoS = QoS
    connection: Any
    connection_errors: Any
    _queue_cycle: Any
    _flush_brpop_reauth: Callable[[], None]

    #: One list a queue, whatever priority a message names: nobody takes from others.
    priority_steps = [0]  # noqa: RUF012 - kombu has a list

    #: Delivery tag of the message last taken.
    taken: str | None = None

    #: What the connection was asked last: EVAL, BZPOPMIN or, where nothing is noted, BRPOP.
    _asked = "BRPOP"

    #: Whether there is nothing left to take, as far as it knows.
    _idle = False

    #: The client of the pool of connections.
    _pooled: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._without_ack: set[str] = set()
        super().__init__(*args, **kwargs)

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Consume from a queue; without acknowledgement, as kombu does."""
        if no_ack:
            self._without_ack.add(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def _connparams(self, asynchronous: bool = False) -> Any:
        """Say that the connection is gone; kombu 5.7 trips over that, and its worker ends.

        What the channel was about to acknowledge or to restore, Redis hands out again in time.
        """
        if self.connection is None or self.connection.client is None:
            raise RedisConnectionError("the connection of this channel is closed")
        return super()._connparams(asynchronous)  # type: ignore[misc]

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Make a client of a pool once, where kombu makes one for each command."""
        if asynchronous:
            return super()._create_client(asynchronous)  # type: ignore[misc]
        if self._pooled is None or self._pooled.connection_pool is not self.pool:
            self._pooled = super()._create_client()  # type: ignore[misc]
        return self._pooled

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        if queue.endswith(".pidbox"):  # a reply to a client that waits as kombu does
            super()._put(queue, message, **kwargs)
            return
        # A hexadecimal digit: the key has sixteen members at most, however long the queue is.
        member = message["properties"]["delivery_tag"][:1]
        notification = (notify_key(queue), {member: 0})
        if batch := kwargs.get("_publish_batch"):
            super()._put(queue, message, **kwargs)
            batch.add("zadd", *notification)
            return
        with self.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
            pipe.lpush(queue, dumps(message)).zadd(*notification).execute()

    def _brpop_start(self, timeout: float | None = None) -> None:
        queues = self._queue_cycle.consume(len(self.active_queues))
        if self._without_ack.issuperset(queues):
            self._asked = "BRPOP"
            super()._brpop_start(timeout)  # type: ignore[misc]
            return
        command: list[Any]
        if self._idle:
            seconds = self.brpop_timeout if timeout is None else timeout
            command = ["BZPOPMIN", *map(notify_key, queues), seconds]
        else:
            notes = (self.unacked_key, self.unacked_index_key, UNDECODABLE_QUEUE)
            keys = [*notes, *queues, *map(notify_key, queues)]
            command = ["EVAL", _RESERVE_SCRIPT, len(keys), *keys, time.time()]
        self._asked = command[0]
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        self.client.connection.send_command(*command)

    def _brpop_read(self, **options: Any) -> bool:
        if self._asked == "BRPOP":
            return bool(super()._brpop_read(**options))  # type: ignore[misc]
        answer = self._answer(**options)
        self._idle = self._asked == "EVAL" and not answer
        if self._asked != "EVAL" or not answer:
            raise Empty
        queue, text, tag = (part and bytes_to_str(part) for part in answer[:3])
        if tag is None:
            _log.error(
                "found in queue %s what is no message; kept in list %s", queue, UNDECODABLE_QUEUE
            )
            raise Empty
        self._queue_cycle.rotate(queue)
        self.taken = tag
        self.connection._deliver(loads(text), queue)
        # Its only queue is empty now. Of several, the others have not been looked at; and without
        # room for more it looks again later, at what may have come without a bell.
        last = answer[3] == 1 and len(self.active_queues) == 1
        self._idle = last and self.qos.can_consume()
        return True

    def _answer(self, **options: Any) -> Any:
        connection = self.client.connection
        try:
            return self.client.parse_response(connection, self._asked, **options)
        except ResponseError as error:  # full, or a replica: it changed nothing
            _log.error("Redis takes no writes: %s", error)
            time.sleep(REFUSED_PAUSE)  # a replica refuses to wait for bells, too
            return None
        except self.connection_errors:
            connection.disconnect()  # the next round connects again
            raise
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()


class Transport(redis.Transport):
    """kombu's transport, with our channels."""

    Channel = Channel

    # A Redis that takes no writes is one to come back to, not one to end over.
    connection_errors = (*redis.Transport.connection_errors, OutOfMemoryError, ReadOnlyError)


def install() -> None:
    """Make it the transport of ``redis://`` and ``rediss://`` in this process.

    Not by ``broker_transport``: that would replace the scheme of the URL, and Flower goes by it.
    """
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:Transport"))
