"""One HTTP request, and what its response means."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import HTTPError

from tasks.clock import now
from tasks.errors import AttemptTimeoutError, DeliveryError, TransientDeliveryError
from tasks.settings import Tls
from tasks.settings.http import BODY_READ_TIMEOUT, DEFAULT_TLS

#: Statuses of a healthy server that may accept the same request later.
RETRYABLE_CLIENT_ERRORS = frozenset({408, 425, 429})

#: How much of a body is read at most; a connection whose response was read can be used again.
MAX_BODY_BYTES = 65_536

#: Headers of every request. Responses are read without decompressing them.
BASE_HEADERS = {"User-Agent": "cxone-event-processor", "Accept-Encoding": "identity"}


class Response(NamedTuple):
    """A response. ``whole`` is whether ``body`` is all of its body."""

    status: int
    retry_after: str | None
    body: bytes
    whole: bool

    @property
    def error(self) -> DeliveryError | None:
        """The error that it stands for; None for success."""
        return error_for_status(self.status, self.retry_after, now())

    @property
    def fields(self) -> dict[str, Any]:
        """The JSON object in the body; empty if there is none."""
        with suppress(ValueError, RecursionError):
            if isinstance(fields := json.loads(self.body), dict):
                return fields
        return {}


def make_session() -> requests.Session:
    """Make a pool of connections to one or two servers, for all threads of a process."""
    session = requests.Session()
    adapter = HTTPAdapter(pool_connections=2, pool_maxsize=32)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def send(
    session: requests.Session,
    url: str,
    data: bytes | None,
    headers: Mapping[str, str],
    *,
    timeout: tuple[float, float],
    tls: Tls = DEFAULT_TLS,
) -> Response:
    """Send one POST request, or a GET where ``data`` is None. Redirects are not followed.

    ``timeout`` is the seconds to connect, and to wait for the next byte of the response.

    Raises:
        TransientDeliveryError: there was no response. Its message contains nothing of the request.
    """
    # "from None": the causes contain the URL, and Flower shows tracebacks.
    try:
        with session.send(
            _prepare(session, url, data, headers),
            timeout=timeout,
            allow_redirects=False,
            **_environment_settings(session, "{}://{}".format(*urlsplit(url)), tls),
        ) as response:
            return Response(
                response.status_code, response.headers.get("Retry-After"), *_read(response)
            )
    except requests.exceptions.ConnectTimeout:
        raise TransientDeliveryError(f"no connection within {timeout[0]:g} s") from None
    except requests.exceptions.Timeout:
        raise TransientDeliveryError(f"no answer within {timeout[1]:g} s") from None
    except requests.exceptions.SSLError:
        raise TransientDeliveryError("TLS handshake failed") from None
    except (requests.exceptions.RequestException, HTTPError, OSError) as problem:
        raise TransientDeliveryError(f"connection failed: {_root_of(problem)}") from None


def _prepare(
    session: requests.Session, url: str, data: bytes | None, headers: Mapping[str, str]
) -> requests.PreparedRequest:
    """Prepare a request, for less CPU time than ``session.request`` needs."""
    merged = CaseInsensitiveDict(session.headers)
    merged.update(headers)
    request = requests.PreparedRequest()
    method = "GET" if data is None else "POST"
    request.prepare(method, url, headers=merged, data=data, auth=_no_auth)
    return request


@lru_cache(maxsize=64)
def _environment_settings(session: requests.Session, origin: str, tls: Tls) -> Mapping[str, Any]:
    """Return the proxies and authorities that the environment sets for a server; cached."""
    verify = tls.ca_file or True
    return session.merge_environment_settings(origin, {}, True, verify, tls.certificate)


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Change nothing; without it, requests reads ``~/.netrc`` (docs/facts.md, H3)."""
    return request


def _read(response: requests.Response) -> tuple[bytes, bool]:
    """Read the body within bounds; return it, and whether it is all of it (docs/facts.md, H2).

    The status alone decides what the response means, so errors are ignored here.
    """
    deadline = time.monotonic() + BODY_READ_TIMEOUT
    body = b""
    with suppress(HTTPError, OSError, AttemptTimeoutError):
        while len(body) < MAX_BODY_BYTES and time.monotonic() < deadline:
            chunk = response.raw.read1(MAX_BODY_BYTES - len(body), decode_content=False)
            if not chunk:
                return body, True
            body += chunk
    return body, False


def _root_of(problem: BaseException) -> str:
    """Return the operating system's message among the causes, else the innermost class."""
    cause: BaseException | None = problem
    while cause:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        problem, cause = cause, cause.__cause__ or cause.__context__
    return type(problem).__name__


def error_for_status(
    status: int, retry_after: str | None, moment: datetime
) -> DeliveryError | None:
    """Return the error that a status stands for; None for success."""
    if 200 <= status < 300:
        return None
    reason = _reason(status)
    if status >= 500 or status in RETRYABLE_CLIENT_ERRORS:
        seconds = parse_retry_after(retry_after, moment)
        return TransientDeliveryError(reason, seconds, counts_as_failure=status >= 500)
    if 300 <= status < 400:
        return DeliveryError(f"{reason}: redirects are not followed")
    if status == HTTPStatus.GONE:
        return DeliveryError(f"{reason}: the sink says that it is gone for good")
    return DeliveryError(reason)


def _reason(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def parse_retry_after(value: str | None, moment: datetime) -> float | None:
    """Return the seconds of a ``Retry-After``, in either form of RFC 9110, else None."""
    if not value:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # parsed, but no date: the year 2200000000
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=moment.tzinfo)
    return max(0.0, (date - moment).total_seconds())
