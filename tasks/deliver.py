"""``deliver.<sink>``: one HTTP call of one event to one sink, retried by its policy."""

import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from celery import Task

from tasks.celery import EventTask, app
from tasks.claims import Call
from tasks.delivery import rate_limit
from tasks.delivery.context import ContextResult
from tasks.delivery.report import delivered, note_call
from tasks.dispatch import delivery_payload, settle_signature
from tasks.errors import (
    AttemptTimeoutError,
    ClaimInProgressError,
    ClaimNotFoundError,
    ContextMissingError,
    DeliveryError,
    ParkedError,
    RateLimitExceededError,
    TransientDeliveryError,
)
from tasks.events import event_from_json
from tasks.recovery.redeliveries import exceeds_max_receives
from tasks.routing import task_id
from tasks.runtime import breaker_of, claims, client_of, contexts, redis
from tasks.settings import SinkSettings, settings
from tasks.sinks import SINKS, Sink
from tasks.worker.chord_backend import join_chord


def _make_task(to: SinkSettings) -> Task[Any, Any]:
    policy = to.policy

    @app.task(
        name=to.sink.task_name,
        bind=True,
        autoretry_for=(TransientDeliveryError,),
        dont_autoretry_for=(ContextMissingError,),  # it waits longer than a worker remembers
        max_retries=policy.max_attempts - 1,
        retry_backoff=policy.backoff_base,
        retry_backoff_max=policy.backoff_cap,
        retry_jitter=True,
        throws=(DeliveryError, ClaimNotFoundError, ClaimInProgressError),  # logged in one line
        # The read time-out starts again with every byte; this does not.
        soft_time_limit=to.time_limit - 10,
        time_limit=to.time_limit,
    )
    def deliver(
        self: Task[Any, Any],
        key: str,
        payload: Mapping[str, Any] | None = None,
        actor: str | None = None,
    ) -> dict[str, Any]:
        """Deliver one event. With the key alone, the rest is read from its claim.

        ``actor`` is the operator who asked for it, if one did.
        """
        return _deliver(self, to, key, payload, actor)

    return deliver


def _deliver(
    task: Task[Any, Any],
    to: SinkSettings,
    key: str,
    payload: Mapping[str, Any] | None,
    actor: str | None,
) -> dict[str, Any]:
    if exceeds_max_receives(task, claims(), settings().max_dispatches):
        raise DeliveryError("given up: it kept killing its worker")
    if payload is None:
        payload = _reopen(task, key, to.sink, actor or f"somebody at {_host_of_sender(task)}")
        if payload is None:
            return delivered(task.request, attempts=0)
    holder = str(task.request.id)
    try:
        found = _context(holder, to.sink, payload)
        with breaker_of(to.sink.name).guard(holder), rate_limit.acquire(redis(), to, holder):
            _call(task, to.sink, key, payload, found.context)
    except ParkedError as parked:
        raise parked.with_traceback(None) from None  # its frames are of no use, and cost time
    except RateLimitExceededError as exceeded:
        why = f"waits for the rate limit of {to.sink.name}"
        raise cast("EventTask", task).requeue_later(exceeded.wait, why) from None
    except TransientDeliveryError as error:
        if error.retry_after is None:
            raise  # to autoretry
        countdown = min(error.retry_after, to.policy.retry_after_cap)
        raise task.retry(exc=error, countdown=countdown) from None
    return delivered(task.request, attempts=task.request.retries + 1, note=found.note)


def _context(holder: str, sink: Sink, payload: Mapping[str, Any]) -> ContextResult:
    """Find the interaction's context, for a sink that gets it.

    Outside the guard of the sink's breaker, which must not count CXone's failures as the sink's.
    """
    source = contexts() if sink.context else None
    if source is None:
        return ContextResult()
    breaker_of(sink.name).raise_if_open()
    event = event_from_json(payload["event"])
    try:
        return source.for_delivery(holder, event.interaction_id, payload["receivedAt"])
    except AttemptTimeoutError:
        raise TransientDeliveryError("its context came too slowly") from None


def _call(
    task: Task[Any, Any],
    sink: Sink,
    key: str,
    payload: Mapping[str, Any],
    context: Mapping[str, Any] | None,
) -> None:
    """Call the sink, and note the call for the next attempt and the report."""
    body = sink.body(event_from_json(payload["event"]), payload["receivedAt"])
    if context is not None:
        body = {**body, "context": context}
    begun = time.time()

    def note(status: int, error: str = "") -> None:
        elapsed = max(0, int((time.time() - begun) * 1000))
        note_call(task.request, Call(int(begun * 1000), elapsed, status, error))

    try:
        note(_post(sink, body, key))
    except DeliveryError as error:
        note(error.status, str(error))
        raise


def _post(sink: Sink, body: Mapping[str, Any], key: str) -> int:
    try:
        return client_of(sink.name).post(body, sink.idempotency_key(key))
    except AttemptTimeoutError:
        raise TransientDeliveryError("the answer came too slowly") from None


def _reopen(task: Task[Any, Any], key: str, sink: Sink, actor: str) -> dict[str, Any] | None:
    """Reopen a settled claim for one sink; None if the sink has the event already.

    The running task becomes a chord of one, so that it settles like any other delivery.

    Raises:
        ClaimNotFoundError: no such claim, or the event never goes to this sink.
        ClaimInProgressError: another task holds the claim.
    """
    claim = claims().get(key)
    if claim is None or sink.name not in claim.deliveries:
        raise ClaimNotFoundError(f"no claim of {key} with a delivery to {sink.name}")
    if sink.name not in claim.undelivered:
        return None
    claim = claims().reopen(claim, [sink.name], actor=actor, holder=str(task.request.id))
    group = task_id(key, sink.name, claim.generation)
    join_chord(task.request, settle_signature(claim, size=1), group)
    return delivery_payload(claim)


def _host_of_sender(task: Task[Any, Any]) -> str:
    """Name the host that a message came from; Celery writes ``gen<process>@<host>``."""
    return str(task.request.origin or "").partition("@")[2] or "an unknown host"


#: One task per sink, by the sink's name.
TASKS: Mapping[str, Callable[..., Any]] = {
    name: _make_task(settings().sinks[name]) for name in SINKS
}
