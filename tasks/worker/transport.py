"""The transport of messages: kombu's for Redis, with an atomic reserve.

kombu pops a message and then writes it down as unacknowledged. A worker that is killed, or a
connection that breaks in between, loses the message: with ``process_event``, the only trace of an
event that was answered with 202. Here one script does both. A script cannot block, so an idle
worker blocks on a notification key: a sorted set beside the queue that each publication adds to. It
looks into the queue once a second anyway, which finds what kombu's own transport published.
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

# KEYS: hash of unacknowledged messages, their index by time, list of undecodable messages, then the
# queues, and the notification key of each. ARGV: seconds since the epoch. Returns queue, message,
# delivery tag and whether it was the queue's last. The entry of the hash is as kombu's, which
# restores it. It is written first: if Redis is full, nothing else happens. Where all queues are
# empty, the notifications that are left are of messages reserved long ago.
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

#: The list of what was found in a queue and is not a message.
UNDECODABLE_QUEUE = "undecodable"

#: Seconds to pause where Redis accepts no writes, so that polls and their log lines stay few.
REFUSED_PAUSE = 0.1

_log = logging.getLogger(__name__)


def notify_key(queue: str) -> str:
    """Name the key that idle workers of a queue block on."""
    return f"{queue}.bell"


class QoS(redis.QoS):
    """Acknowledgement of messages that the script has written down as unacknowledged."""

    channel: "Channel"
    unacked_key: str
    unacked_index_key: str

    def append(self, message: Any, delivery_tag: str) -> None:
        """Write a message down as unacknowledged, unless the script did."""
        if delivery_tag == self.channel.reserved_tag:
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message. An entry of the index alone does no harm, so without MULTI.

        If Redis does not answer, the message is delivered again; its prefetch slot is free anyway.
        """
        try:
            with self.channel.conn_or_acquire() as client:
                pipe = client.pipeline(transaction=False)
                pipe.hdel(self.unacked_key, delivery_tag).zrem(self.unacked_index_key, delivery_tag)
                pipe.execute()
        finally:
            virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop a message or requeue it; as with ``ack``, its prefetch slot is free anyway."""
        try:
            super().reject(delivery_tag, requeue)
        finally:
            virtual.QoS.ack(self, delivery_tag)


class Channel(redis.Channel):
    """A channel that reserves a message in one step."""

    QoS = QoS
    connection: Any
    connection_errors: Any
    _queue_cycle: Any
    _flush_brpop_reauth: Callable[[], None]

    #: One list per queue, whatever priority a message has: the script reads no other.
    priority_steps = [0]  # noqa: RUF012 - kombu has a list

    #: Delivery tag of the message last reserved.
    reserved_tag: str | None = None

    #: The command last sent: EVAL, BZPOPMIN or, for queues without acknowledgement, BRPOP.
    _pending_command = "BRPOP"

    #: Whether the queues were empty when last looked at, so that the channel may block.
    _idle = False

    #: The client of the connection pool.
    _pooled: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._without_ack: set[str] = set()
        super().__init__(*args, **kwargs)

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Consume from a queue; if without acknowledgement, by kombu's own commands."""
        if no_ack:
            self._without_ack.add(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def _connparams(self, asynchronous: bool = False) -> Any:
        """Raise a connection error if the connection is gone; kombu 5.7 ends the worker instead.

        What the channel was about to acknowledge or restore is delivered again in time.
        """
        if self.connection is None or self.connection.client is None:
            raise RedisConnectionError("the connection of this channel is closed")
        return super()._connparams(asynchronous)  # type: ignore[misc]

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Create a client once per connection pool; kombu creates one for each command."""
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
            self._pending_command = "BRPOP"
            super()._brpop_start(timeout)  # type: ignore[misc]
            return
        command: list[Any]
        if self._idle:
            seconds = self.brpop_timeout if timeout is None else timeout
            command = ["BZPOPMIN", *map(notify_key, queues), seconds]
        else:
            kept = (self.unacked_key, self.unacked_index_key, UNDECODABLE_QUEUE)
            keys = [*kept, *queues, *map(notify_key, queues)]
            command = ["EVAL", _RESERVE_SCRIPT, len(keys), *keys, time.time()]
        self._pending_command = command[0]
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        self.client.connection.send_command(*command)

    def _brpop_read(self, **options: Any) -> bool:
        if self._pending_command == "BRPOP":
            return bool(super()._brpop_read(**options))  # type: ignore[misc]
        response = self._read_response(**options)
        self._idle = self._pending_command == "EVAL" and not response
        if self._pending_command != "EVAL" or not response:
            raise Empty
        queue, text, tag = (part and bytes_to_str(part) for part in response[:3])
        if tag is None:
            _log.error(
                "found in queue %s what is no message; kept in list %s", queue, UNDECODABLE_QUEUE
            )
            raise Empty
        self._queue_cycle.rotate(queue)
        self.reserved_tag = tag
        self.connection._deliver(loads(text), queue)
        # Its only queue is empty now, which spares an empty poll. Of several queues, the others
        # have not been looked at; and a channel without room for more messages polls again once it
        # has room, since a message may have come without a notification.
        last = response[3] == 1 and len(self.active_queues) == 1
        self._idle = last and self.qos.can_consume()
        return True

    def _read_response(self, **options: Any) -> Any:
        connection = self.client.connection
        try:
            return self.client.parse_response(connection, self._pending_command, **options)
        except ResponseError as error:  # full, or a replica: it changed nothing
            _log.error("Redis takes no writes: %s", error)
            time.sleep(REFUSED_PAUSE)  # a replica rejects BZPOPMIN, too
            return None
        except self.connection_errors:
            connection.disconnect()  # the next poll connects again
            raise
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()


class Transport(redis.Transport):
    """kombu's Redis transport with the channel above."""

    Channel = Channel

    # A Redis that accepts no writes is worth retrying; kombu 5.7 ends the worker.
    connection_errors = (*redis.Transport.connection_errors, OutOfMemoryError, ReadOnlyError)


def install() -> None:
    """Make it the transport of ``redis://`` and ``rediss://`` in this process.

    ``broker_transport`` would replace the scheme of the URL, which Flower reads.
    """
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:Transport"))
