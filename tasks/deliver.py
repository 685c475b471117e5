"""``deliver.<sink>``: one HTTP call of one event to one sink, tried again as its policy says."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from http import HTTPStatus
from typing import Any

import requests
from celery import Task
from celery.exceptions import SoftTimeLimitExceeded
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from tasks.celery import app
from tasks.claims import claims
from tasks.clock import now, to_rfc3339
from tasks.dispatch import delivery_payload, settle_signature
from tasks.errors import (
    ClaimNotFoundError,
    DeliveryError,
    TransientDeliveryError,
    UnderWayError,
)
from tasks.events import canonical_json, event_from_json
from tasks.outcomes import Outcome, Report
from tasks.poison import lost_too_often
from tasks.settings import settings
from tasks.sinks import SINKS, Policy, Sink

#: Beside every 5xx, the answers that a second try may turn into a 2xx.
TRANSIENT = frozenset({408, 425, 429})

#: A body of up to this many bytes and seconds is read, so that the connection can be used again.
DRAIN = 65_536
DRAIN_SECONDS = 1.0


def post(
    session: requests.Session, url: str, body: Mapping[str, Any], key: str, policy: Policy
) -> None:
    """Make one attempt.

    Raises:
        TransientDeliveryError: the sink could not be reached, or says that it cannot now.
        DeliveryError: the sink refused the event for good.
    """
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    timeout = (policy.connect_timeout, policy.read_timeout)
    # "from None": the causes spell out the URL, and Flower shows tracebacks.
    try:
        with session.post(
            url,
            data=canonical_json(body),
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
            stream=True,
        ) as response:
            error = judge(response.status_code, response.headers.get("Retry-After"), now())
            with suppress(HTTPError, OSError, SoftTimeLimitExceeded):  # the answer is known
                _drain(response)
    except requests.exceptions.ConnectTimeout:
        raise TransientDeliveryError(f"no connection within {timeout[0]:g} s") from None
    except requests.exceptions.Timeout:
        raise TransientDeliveryError(f"no answer within {timeout[1]:g} s") from None
    except requests.exceptions.SSLError:
        raise TransientDeliveryError("TLS handshake failed") from None
    except (requests.exceptions.RequestException, HTTPError, OSError) as problem:
        raise TransientDeliveryError(f"connection failed: {_root_of(problem)}") from None
    if error:
        raise error


def _drain(response: requests.Response) -> None:
    deadline = time.monotonic() + DRAIN_SECONDS
    missing = DRAIN
    while missing > 0 and time.monotonic() < deadline:
        chunk = response.raw.read1(missing, decode_content=False)
        if not chunk:
            break
        missing -= len(chunk)


def _root_of(problem: BaseException) -> str:
    """Find what the operating system said, below what the libraries made of it."""
    cause: BaseException | None = problem
    while cause:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        problem, cause = cause, cause.__cause__ or cause.__context__
    return type(problem).__name__


def judge(status: int, retry_after: str | None, moment: datetime) -> DeliveryError | None:
    """Tell what an answer means: None is delivered, else the error to raise."""
    if 200 <= status < 300:
        return None
    try:
        reason = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        reason = str(status)
    if status in TRANSIENT or status >= 500:
        return TransientDeliveryError(reason, seconds_of(retry_after, moment))
    if 300 <= status < 400:
        return DeliveryError(f"{reason}: redirects are not followed")
    return DeliveryError(reason)


def seconds_of(retry_after: str | None, moment: datetime) -> float | None:
    """Read a ``Retry-After``, in either form that RFC 9110 gives it; None if there is none."""
    if not retry_after:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the year 2200000000 is no date either
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=moment.tzinfo)
    return max(0.0, (date - moment).total_seconds())


@cache
def session_of(sink: str) -> requests.Session:
    """The connections of this process to one sink."""
    session = requests.Session()
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=32)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.headers["User-Agent"] = "cxone-event-processor"
    return session


def _make_task(sink: Sink) -> Task[Any, Any]:
    policy = settings().policies[sink.name]

    @app.task(
        name=sink.task_name,
        bind=True,
        autoretry_for=(TransientDeliveryError,),
        max_retries=policy.tries - 1,
        retry_backoff=policy.backoff_base,
        retry_backoff_max=policy.backoff_cap,
        retry_jitter=True,
        throws=(DeliveryError, ClaimNotFoundError, UnderWayError),  # logged without a traceback
        # The read time-out starts anew with every byte; this does not.
        soft_time_limit=policy.attempt + 5,
        time_limit=policy.attempt + 15,
    )
    def deliver(
        self: Task[Any, Any], key: str, payload: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Deliver one event. With the key alone, the rest is read from its claim."""
        if lost_too_often(self):
            raise DeliveryError("given up: it kept killing its worker")
        if payload is None:
            payload = _reopen(self, key, sink)
            if payload is None:
                return _report(self, sink, attempts=0)
        body = sink.body(event_from_json(payload["event"]), payload["receivedAt"])
        url, idempotency_key = settings().endpoint(sink.name), sink.idempotency_key(key)
        try:
            post(session_of(sink.name), url, body, idempotency_key, policy)
        except TransientDeliveryError as error:
            if error.retry_after is None:
                raise  # to autoretry
            raise self.retry(
                exc=error, countdown=min(error.retry_after, policy.retry_after_cap)
            ) from None
        except SoftTimeLimitExceeded:
            raise TransientDeliveryError("the answer came too slowly") from None
        return _report(self, sink, attempts=self.request.retries + 1)

    return deliver


def _reopen(task: Task[Any, Any], key: str, sink: Sink) -> dict[str, Any] | None:
    """Take a settled claim up again for one sink; None if the sink has the event already.

    The running task becomes a chord of one, so that it settles like any other delivery.
    """
    claim = claims().reopen(key, sink.name, holder=str(task.request.id))
    if sink.name not in claim.undelivered:
        return None
    task.request.chord = settle_signature(claim, size=1)  # type: ignore[assignment]
    task.request.group = f"{key}.{sink.name}.{claim.generation}"
    return delivery_payload(claim)


def _report(task: Task[Any, Any], sink: Sink, attempts: int) -> dict[str, Any]:
    return Report(
        sink=sink.name, outcome=Outcome.DELIVERED, attempts=attempts, at=to_rfc3339(now())
    ).to_json()


#: One task a sink, by the sink's name.
TASKS: Mapping[str, Callable[..., Any]] = {name: _make_task(sink) for name, sink in SINKS.items()}
