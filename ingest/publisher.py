"""The broker, as ingest sees it: take these events, or say no soon.

EventBridge waits 5 seconds and asks again later, so an honest no within 2 is better than a late
yes. A yes means that Redis has the message.
"""

import time
from collections.abc import Sequence
from threading import Lock
from uuid import uuid4

from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from tasks.events import Envelope
from tasks.settings import ReplayPolicy
from tasks.worker.publish import publish

#: Seconds that connecting to Redis, or one call of it, may take. Two tries stay within 2 s.
CALL_TIMEOUT = 0.45

#: Seconds that a reading of the backlog is used for.
BACKLOG_AGE = 1.0

#: What "the broker is away" looks like.
BROKER_ERRORS = (KombuError, RedisError, OSError)


class BrokerAwayError(Exception):
    """Raised when Redis did not take the events in time; some of them may have got there."""


class BacklogError(Exception):
    """Raised when too many events wait already."""


class EventQueue:
    """The queue ``events``, with bounded waits."""

    def __init__(
        self, app: Celery, *, max_backlog: int, threads: int, replay_policy: ReplayPolicy
    ) -> None:
        """Bend ``app`` to the waits of ingest: it must be this process's own."""
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
        """Publish ``process_event`` for each: one round trip, however many they are.

        The task id is one of its own for every publication, since it becomes the holder of the
        claim: two publications of an event must not take each other for themselves.

        Raises:
            BacklogError: nothing was published.
            BrokerAwayError: nothing is known to be published.
        """
        deadline = time.monotonic() + CALL_TIMEOUT
        while True:
            try:
                self._check_backlog()
                self._publish(envelopes, received_at)
            except BROKER_ERRORS as error:
                # Once more at once: the pooled connection may be one to a Redis that restarted.
                if time.monotonic() > deadline:
                    raise BrokerAwayError(type(error).__name__) from error
                deadline = float("-inf")
            else:
                return

    def ping(self) -> None:
        """Return if Redis answers.

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
            task_id = f"{key}.process.{uuid4().hex[:8]}"
            arguments = (key, envelope.to_json(), received_at)
            signatures.append(self._app.signature("process_event", arguments, task_id=task_id))
        publish(self._app, signatures)

    def _check_backlog(self) -> None:
        """Look at the backlog once a second, not once an event."""
        with self._lock:
            stale = time.monotonic() - self._backlog_read_at > BACKLOG_AGE
            if stale:
                self._backlog_read_at = time.monotonic()
        if stale:
            self._read_backlog()
        if self._backlog >= self._max_backlog:
            raise BacklogError(f"{self._backlog} events wait")

    def _read_backlog(self) -> None:
        with self._app.producer_or_acquire() as producer:
            self._backlog = producer.channel.client.llen("events")
