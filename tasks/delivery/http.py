"""One HTTP exchange with a server of somebody else, and what its answer means."""

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

from tasks.errors import AttemptTimeoutError, DeliveryError, TransientDeliveryError
from tasks.settings import Tls
from tasks.settings.http import BODY_READ_TIMEOUT

#: Answers of a sink that is well, and may take the event another time.
RETRYABLE_CLIENT_ERRORS = frozenset({408, 425, 429})

#: A body of up to this many bytes and seconds is read, so that the connection can be used again.
MAX_BODY_BYTES = 65_536


class Response(NamedTuple):
    """What came back. ``whole`` tells whether ``body`` is all of the body."""

    status: int
    retry_after: str | None
    body: bytes
    whole: bool


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
    tls: Tls,
) -> Response:
    """Post something, or get what is there if there is nothing to post; once.

    Redirects are not followed. Time-outs are to connect and to answer.

    Raises:
        TransientDeliveryError: there was no answer. It tells nothing of what was sent, nor where.
    """
    # "from None": the causes spell out the URL, and Flower shows tracebacks.
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
    """Make what is sent. ``session.request`` takes as long for it as for all the rest together."""
    together = CaseInsensitiveDict(session.headers)
    together.update(headers)
    request = requests.PreparedRequest()
    method = "GET" if data is None else "POST"
    request.prepare(method, url, headers=together, data=data, auth=_no_auth)
    return request


@lru_cache(maxsize=64)
def _environment_settings(session: requests.Session, origin: str, tls: Tls) -> Mapping[str, Any]:
    """Find the proxies and authorities that the environment has for a server, once a process."""
    verify = tls.ca_file or True
    return session.merge_environment_settings(origin, {}, True, verify, tls.certificate)


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Change nothing: without this, requests would take credentials out of ``~/.netrc``."""
    return request


def _read(response: requests.Response) -> tuple[bytes, bool]:
    """Read the body, within bounds; tell whether that is all of it.

    What the answer means is known before, so whatever goes wrong here does not matter.
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
    """Find what the operating system said, below what the libraries made of it."""
    cause: BaseException | None = problem
    while cause:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        problem, cause = cause, cause.__cause__ or cause.__context__
    return type(problem).__name__


def error_for_status(
    status: int, retry_after: str | None, moment: datetime
) -> DeliveryError | None:
    """Tell what an answer means: None is delivered, else the error to raise."""
    if 200 <= status < 300:
        return None
    reason = _reason(status)
    if status >= 500:
        return TransientDeliveryError(reason, seconds_of(retry_after, moment))
    if status in RETRYABLE_CLIENT_ERRORS:
        return TransientDeliveryError(
            reason, seconds_of(retry_after, moment), counts_as_failure=False
        )
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
