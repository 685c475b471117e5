"""Publishes events to Redis, or fails within two seconds.

EventBridge waits 5 seconds for an answer and retries a 503 (docs/facts.md, E1 and E2): an early
error is better than a late success. Success means that Redis has the messages.
"""

import time
from collections.abc import Sequence
from threading import Lock

from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from tasks import routing
from tasks.events import Envelope
from tasks.settings import ReplayPolicy
from tasks.worker.publish import publish

#: Seconds that connecting to Redis, or one call, may take. Two attempts stay within 2 s.
CALL_TIMEOUT = 0.45

#: Seconds after which the length of the backlog is read again.
BACKLOG_TTL = 1.0

#: What is raised when Redis is unavailable.
BROKER_ERRORS = (KombuError, RedisError, OSError)


class BrokerAwayError(Exception):
    """Raised when Redis did not confirm the events in time; it may have some of them."""


class BacklogError(Exception):
    """Raised when too many events are already waiting."""


class EventQueue:
    """The queue ``events``, with bounded waits."""

    def __init__(
        self, app: Celery, *, max_backlog: int, threads: int, replay_policy: ReplayPolicy
    ) -> None:
        """Set the timeouts of ``app``, which must be this process's own."""
        self._app = app
        self._replay_policy = replay_policy
        self._max_backlog = max_backlog
        self._backlog = 0
        self._backlog_read_at = float("-inf")
        self._lock = Lock()
        app.conf.broker_pool_limit = threads
        app.conf.broker_connection_timeout = CALL_TIMEOUT
        app.conf.broker_transport_options = {
            **app.conf.broker_transport_options,
            "socket_connect_timeout": CALL_TIMEOUT,
            "socket_timeout": CALL_TIMEOUT,
            "max_retries": 0,
        }

    def put(self, envelopes: Sequence[Envelope], received_at: str) -> None:
        """Publish ``process_event`` for each envelope, all in one round trip.

        Raises:
            BacklogError: nothing was published.
            BrokerAwayError: it is unknown whether anything was published.
        """
        deadline = time.monotonic() + CALL_TIMEOUT
        for is_last in (False, True):
            try:
                self._check_backlog()
                self._publish(envelopes, received_at)
            except BROKER_ERRORS as error:
                # One retry at once: Redis may have restarted and closed the pooled connection.
                if is_last or time.monotonic() > deadline:
                    raise BrokerAwayError(type(error).__name__) from error
            else:
                return

    def ping(self) -> None:
        """Check that Redis answers.

        Raises:
            BrokerAwayError: it does not.
        """
        try:
            self._read_backlog()
        except BROKER_ERRORS as error:
            raise BrokerAwayError(type(error).__name__) from error

    def _publish(self, envelopes: Sequence[Envelope], received_at: str) -> None:
        missing_only = self._replay_policy is ReplayPolicy.MISSING
        signatures = []
        for envelope in envelopes:
            key = envelope.id if missing_only else envelope.replay_key
            arguments = (key, envelope.to_json(), received_at)
            task_id = routing.process_task_id(key)
            signatures.append(self._app.signature(routing.PROCESS, arguments, task_id=task_id))
        publish(self._app, signatures)

    def _check_backlog(self) -> None:
        """Refuse events over the limit. The backlog is read at most once per ``BACKLOG_TTL``."""
        with self._lock:
            stale = time.monotonic() - self._backlog_read_at > BACKLOG_TTL
            if stale:
                self._backlog_read_at = time.monotonic()
        if stale:
            self._read_backlog()
        if self._backlog >= self._max_backlog:
            raise BacklogError(f"{self._backlog} events wait")

    def _read_backlog(self) -> None:
        with self._app.producer_or_acquire() as producer:
            self._backlog = producer.channel.client.llen(routing.EVENTS_QUEUE)
