"""The routes and status codes. ``POST /events`` answers 202 once Redis has the messages."""

import json
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, NamedTuple
from wsgiref.types import StartResponse, WSGIEnvironment

from ingest.auth import is_known
from ingest.body import BatchEntry, TooManyEventsError, parse
from ingest.publisher import BacklogError, BrokerAwayError, EventQueue
from tasks.clock import now, to_rfc3339
from tasks.counters import COUNTERS
from tasks.errors import InvalidEventError
from tasks.observability.prometheus import CONTENT_TYPE, exposition
from tasks.runtime import redis
from tasks.settings import Settings

#: Seconds that a client may take to send its body (docs/facts.md, E1).
BODY_TIMEOUT = 4.0

#: Seconds that the rest of a body that is too large is read and discarded.
DISCARD_TIMEOUT = 0.5

#: Seconds after which EventBridge should retry an event that could not be accepted.
RETRY_AFTER = 5

_log = logging.getLogger(__name__)


class Response(NamedTuple):
    """A response: ``body`` is sent as JSON unless it is bytes."""

    status: HTTPStatus
    body: dict[str, Any] | bytes
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"


class _RefusedError(Exception):
    """Raised to answer a request with an error."""

    def __init__(self, status: HTTPStatus, error: str, *headers: tuple[str, str]) -> None:
        super().__init__(error)
        self.response = Response(status, {"error": error}, headers)


class Ingest:
    """The WSGI application."""

    def __init__(self, settings: Settings, queue: EventQueue) -> None:
        """Publish to ``queue`` what clients with an API key of the settings post."""
        self._keys = settings.ingest_api_keys or ()
        self._max_bytes = settings.ingest_max_bytes
        self._source = settings.event_source
        self._queue = queue
        self._routes: dict[str, tuple[str, Callable[[WSGIEnvironment], Response]]] = {
            "/events": ("POST", self._events),
            "/healthz": ("GET", lambda _: Response(HTTPStatus.OK, {"status": "live"})),
            "/readyz": ("GET", self._readyz),
            "/metrics": ("GET", _metrics),
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        try:
            status, content, headers, content_type = self._respond(environ)
        except _RefusedError as refused:
            status, content, headers, content_type = refused.response
            _log.info("refused: %d %s", status, refused)
            COUNTERS.add("refused", code=str(status.value))
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        start_response(
            f"{status.value} {status.phrase}",
            [("Content-Type", content_type), ("Content-Length", str(len(body))), *headers],
        )
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    def _respond(self, environ: WSGIEnvironment) -> Response:
        method, handler = self._routes.get(environ.get("PATH_INFO", ""), (None, None))
        if method is None or handler is None:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "no such path; events go to POST /events")
        allowed = ("GET", "HEAD") if method == "GET" else (method,)
        if environ["REQUEST_METHOD"] not in allowed:
            allow = ", ".join(allowed)
            raise _RefusedError(
                HTTPStatus.METHOD_NOT_ALLOWED, f"only {allow} here", ("Allow", allow)
            )
        try:
            return handler(environ)
        except BacklogError as error:
            reason = f"backlog over its limit: {error}"
        except BrokerAwayError as error:
            reason = f"broker away: {error}"
        retry_after = ("Retry-After", str(RETRY_AFTER))
        raise _RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, reason, retry_after)

    def _readyz(self, _environ: WSGIEnvironment) -> Response:
        self._queue.ping()
        return Response(HTTPStatus.OK, {"status": "ready"})

    def _events(self, environ: WSGIEnvironment) -> Response:
        if not is_known(environ.get("HTTP_X_API_KEY", ""), self._keys):
            # EventBridge retries 401 (docs/facts.md, E2): no event is lost during a key rotation.
            raise _RefusedError(HTTPStatus.UNAUTHORIZED, "x-api-key: missing or unknown")
        try:
            body = parse(self._read_body(environ))
        except TooManyEventsError as error:
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)) from error
        except InvalidEventError as error:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, str(error)) from error
        if not body.batch and body.entries[0].error:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, str(body.entries[0].error))
        return self._accept(body.entries)

    def _read_body(self, environ: WSGIEnvironment) -> bytes:
        """Read a body, with ``Content-Length`` or chunked, up to the limit."""
        too_large = _RefusedError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"body: larger than {self._max_bytes} bytes",
            ("Connection", "close"),
        )
        length = environ.get("CONTENT_LENGTH") or None
        if length is not None and int(length) > self._max_bytes:
            raise too_large
        if length is None and not environ.get("wsgi.input_terminated"):
            return b""  # neither a length nor chunked: no body
        deadline = time.monotonic() + BODY_TIMEOUT
        chunks: list[bytes] = []
        missing = self._max_bytes + 1 if length is None else int(length)
        try:
            while missing and (chunk := environ["wsgi.input"].read(min(missing, 65_536))):
                chunks.append(chunk)
                missing -= len(chunk)
                if time.monotonic() > deadline:
                    raise TimeoutError
        except OSError as error:
            raise _RefusedError(
                HTTPStatus.REQUEST_TIMEOUT, "body: it did not arrive", ("Connection", "close")
            ) from error
        if length is None and not missing:
            _discard_rest(environ)
            raise too_large
        return b"".join(chunks)

    def _accept(self, entries: list[BatchEntry]) -> Response:
        """Publish events of our source; report invalid ones; count those of other sources."""
        failures = []
        accepted = []
        ignored = 0
        for number, entry in enumerate(entries):
            if entry.envelope is None:
                _log.info("refused entry %d of %d: %s", number, len(entries), entry.error)
                failures.append({"itemIdentifier": entry.identifier})
            elif entry.envelope.source == self._source:
                accepted.append(entry.envelope)
            else:
                ignored += 1
        if accepted:
            self._queue.put(accepted, to_rfc3339(now()))
        COUNTERS.add("accepted", len(accepted))
        COUNTERS.add("ignored", ignored)
        COUNTERS.add("refused", len(failures), code="record")
        return Response(
            HTTPStatus.ACCEPTED,
            {"accepted": len(accepted), "ignored": ignored, "batchItemFailures": failures},
        )


def _metrics(_environ: WSGIEnvironment) -> Response:
    return Response(HTTPStatus.OK, exposition(redis()), content_type=CONTENT_TYPE)


def _discard_rest(environ: WSGIEnvironment) -> None:
    """Read the rest of a chunked body for a moment, and discard it.

    A client that is still sending when the connection closes would not read the response.
    """
    client = environ.get("gunicorn.socket")
    if client is None:
        return  # not under gunicorn
    deadline = time.monotonic() + DISCARD_TIMEOUT
    client.settimeout(DISCARD_TIMEOUT)
    with suppress(OSError):  # no more of it arrived in time
        while environ["wsgi.input"].read(65_536) and time.monotonic() < deadline:
            pass
