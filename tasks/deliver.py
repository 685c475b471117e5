"""``deliver.<sink>``: one HTTP call of one event to one sink, tried again as its policy says."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, cast

from celery import Task
from celery.exceptions import SoftTimeLimitExceeded
from kombu.exceptions import OperationalError

from tasks import limits
from tasks.breaker import Breaker
from tasks.call import client_of
from tasks.celery import EventTask, app
from tasks.chord import CALLS, calls_of
from tasks.claims import claims
from tasks.clock import now, to_rfc3339
from tasks.cxone import Found, contexts
from tasks.dispatch import delivery_payload, settle_signature
from tasks.errors import (
    ClaimNotFoundError,
    ContextMissingError,
    DeliveryError,
    ParkedError,
    TransientDeliveryError,
    UnderWayError,
)
from tasks.events import event_from_json
from tasks.outcomes import Call, Outcome, Report, newest
from tasks.poison import lost_too_often
from tasks.redis import client as redis
from tasks.settings import settings
from tasks.sink_settings import SinkSettings
from tasks.sinks import SINKS, Sink


def _make_task(sink: Sink) -> Task[Any, Any]:
    to = settings().sinks[sink.name]
    policy = to.policy

    @app.task(
        name=sink.task_name,
        bind=True,
        autoretry_for=(TransientDeliveryError,),
        dont_autoretry_for=(ContextMissingError,),  # it waits longer than a worker remembers
        max_retries=policy.tries - 1,
        retry_backoff=policy.backoff_base,
        retry_backoff_max=policy.backoff_cap,
        retry_jitter=True,
        throws=(DeliveryError, ClaimNotFoundError, UnderWayError),  # logged without a traceback
        # The read time-out starts anew with every byte; this does not.
        soft_time_limit=_time_limit(to) - 10,
        time_limit=_time_limit(to),
    )
    def deliver(
        self: Task[Any, Any],
        key: str,
        payload: Mapping[str, Any] | None = None,
        actor: str | None = None,
    ) -> dict[str, Any]:
        """Deliver one event. With the key alone, the rest is read from its claim.

        ``actor`` is who asked for it, where somebody did.
        """
        if lost_too_often(self):
            raise DeliveryError("given up: it kept killing its worker")
        if payload is None:
            payload = _reopen(self, key, sink, actor or f"somebody at {_host_of_sender(self)}")
            if payload is None:
                return _report(self, sink, attempts=0)
        try:
            found = _context(self, sink, payload)
            task_id = str(self.request.id)
            with breaker_of(sink.name).watch(task_id), limits.turn(redis(), to, task_id):
                _call(self, sink, key, payload, found.context)
        except ParkedError as parked:
            raise parked.with_traceback(None) from None  # where is no news, and costs time
        except limits.NoTurnError as later:
            why = f"waits for its turn at {sink.name}"
            raise cast("EventTask", self).postpone(later.wait, why) from None
        except TransientDeliveryError as error:
            if error.retry_after is None:
                raise  # to autoretry
            raise self.retry(
                exc=error, countdown=min(error.retry_after, policy.retry_after_cap)
            ) from None
        return _report(self, sink, attempts=self.request.retries + 1, note=found.note)

    return deliver


def _context(task: Task[Any, Any], sink: Sink, payload: Mapping[str, Any]) -> Found:
    """Find the context of a sink that is to get it.

    Before the sink's breaker watches: it must not take what CXone does for what the sink does.
    """
    source = contexts() if sink.context else None
    if source is None:
        return Found()
    breaker_of(sink.name).refuse_if_open()
    event = event_from_json(payload["event"])
    try:
        return source.for_delivery(
            str(task.request.id), event.interaction_id, payload["receivedAt"]
        )
    except SoftTimeLimitExceeded:
        raise TransientDeliveryError("its context came too slowly") from None


def _call(
    task: Task[Any, Any],
    sink: Sink,
    key: str,
    payload: Mapping[str, Any],
    context: Mapping[str, Any] | None,
) -> None:
    body = sink.body(event_from_json(payload["event"]), payload["receivedAt"])
    if context is not None:
        body = {**body, "context": context}
    begun = time.time()
    try:
        status = _post(sink, body, key)
    except DeliveryError as error:
        _note(task, begun, error.status, str(error))
        raise
    _note(task, begun, status)


def _post(sink: Sink, body: Mapping[str, Any], key: str) -> int:
    try:
        return client_of(sink.name).post(body, sink.idempotency_key(key))
    except SoftTimeLimitExceeded:
        raise TransientDeliveryError("the answer came too slowly") from None


def _note(task: Task[Any, Any], begun: float, status: int, error: str = "") -> None:
    """Note a call in the headers of the task, where its next try and its report find it."""
    call = Call(int(begun * 1000), max(0, int((time.time() - begun) * 1000)), status, error)
    calls = newest([*calls_of(task.request), call])
    task.request.headers = {**(task.request.headers or {}), CALLS: calls}


def _reopen(task: Task[Any, Any], key: str, sink: Sink, actor: str) -> dict[str, Any] | None:
    """Take a settled claim up again for one sink; None if the sink has the event already.

    The running task becomes a chord of one, so that it settles like any other delivery.

    Raises:
        ClaimNotFoundError: no such claim, or the event never goes to this sink.
        UnderWayError: somebody is working on it.
    """
    claim = claims().get(key)
    if claim is None or sink.name not in claim.deliveries:
        raise ClaimNotFoundError(f"no claim of {key} with a delivery to {sink.name}")
    if sink.name not in claim.undelivered:
        return None
    claim = claims().reopen(claim, [sink.name], actor=actor, holder=str(task.request.id))
    task.request.chord = settle_signature(claim, size=1)  # type: ignore[assignment]
    task.request.group = f"{key}.{sink.name}.{claim.generation}"
    return delivery_payload(claim)


def _host_of_sender(task: Task[Any, Any]) -> str:
    """Name the host that a message came from; Celery writes ``gen<process>@<host>``."""
    return str(task.request.origin or "").partition("@")[2] or "an unknown host"


def _report(
    task: Task[Any, Any], sink: Sink, attempts: int, note: str | None = None
) -> dict[str, Any]:
    return Report(
        sink=sink.name,
        outcome=Outcome.DELIVERED,
        attempts=attempts,
        at=to_rfc3339(now()),
        note=note,
        calls=calls_of(task.request),
    ).to_json()


@cache
def breaker_of(sink: str) -> Breaker:
    """The circuit breaker of a sink; when it closes, what was parked is drained."""
    return Breaker(
        redis(),
        sink,
        settings().sinks[sink].policy,
        probe_seconds=_time_limit(settings().sinks[sink]),
        on_closed=lambda: _begin_drain(sink),
    )


def _begin_drain(sink: str) -> None:
    """Begin at once what beat begins in any case. A delivery has just succeeded, and does so."""
    with suppress(OperationalError):
        app.send_task("drain", (sink,), retry=False)


def _time_limit(to: SinkSettings) -> int:
    """Seconds after which a process that delivers is killed: nothing else has ended it."""
    return to.attempt + int(limits.patience(to)) + 15


#: One task a sink, by the sink's name.
TASKS: Mapping[str, Callable[..., Any]] = {name: _make_task(sink) for name, sink in SINKS.items()}
