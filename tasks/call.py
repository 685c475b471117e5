"""One HTTP call to a sink, and what its answer means."""

import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from http import HTTPStatus
from typing import Any

import requests
from celery.exceptions import SoftTimeLimitExceeded
from requests.adapters import HTTPAdapter
from standardwebhooks import Webhook
from urllib3.exceptions import HTTPError

from tasks.clock import now
from tasks.errors import DeliveryError, TransientDeliveryError
from tasks.events import canonical_json
from tasks.excerpt import excerpt, strings_in
from tasks.settings import settings
from tasks.sink_settings import SinkSettings

#: Answers of a sink that is well, and may take the event another time.
PATIENCE = frozenset({408, 425, 429})

#: A body of up to this many bytes and seconds is read, so that the connection can be used again.
DRAIN = 65_536
DRAIN_SECONDS = 1.0


class SinkClient:
    """This process's way to one sink: how to call it, and the connections to it."""

    def __init__(self, sink: SinkSettings, session: requests.Session) -> None:
        """Make a client that has not connected yet."""
        self._sink = sink
        self._session = session
        self._signers = [Webhook(secret) for secret in sink.signing_secrets]

    def post(self, body: Mapping[str, Any], key: str) -> None:
        """Make one attempt; ``key`` is the Idempotency-Key.

        Raises:
            TransientDeliveryError: the sink could not be reached, or says that it cannot now.
            DeliveryError: the sink refused the event for good.
            SettingsError: nobody said where the sink is.
        """
        sink = self._sink
        data = canonical_json(body)
        timeout = (sink.policy.connect_timeout, sink.policy.read_timeout)
        # "from None": the causes spell out the URL, and Flower shows tracebacks.
        try:
            with self._session.post(
                sink.endpoint,
                data=data,
                headers=self._headers(data, key),
                auth=self._authenticate,
                timeout=timeout,
                verify=sink.ca_file or True,
                cert=_certificate(sink),
                allow_redirects=False,
                stream=True,
            ) as response:
                error = judge(response.status_code, response.headers.get("Retry-After"), now())
                answer, whole = _read(response)
        except requests.exceptions.ConnectTimeout:
            raise TransientDeliveryError(f"no connection within {timeout[0]:g} s") from None
        except requests.exceptions.Timeout:
            raise TransientDeliveryError(f"no answer within {timeout[1]:g} s") from None
        except requests.exceptions.SSLError:
            raise TransientDeliveryError("TLS handshake failed") from None
        except (requests.exceptions.RequestException, HTTPError, OSError) as problem:
            raise TransientDeliveryError(f"connection failed: {_root_of(problem)}") from None
        if error:
            hidden = [*sink.secrets, *strings_in(body)]
            error.response = excerpt(answer, hidden, whole=whole) or None
            raise error

    def _headers(self, data: bytes, key: str) -> dict[str, str]:
        return {
            "User-Agent": "cxone-event-processor",
            "Accept-Encoding": "identity",  # what comes back is read by people, if at all
            **self._sink.headers,
            "Content-Type": "application/json",
            "Idempotency-Key": key,
            **(self._signature(data, key) if self._signers else {}),
        }

    def _signature(self, data: bytes, key: str) -> dict[str, str]:
        """Sign an attempt as Standard Webhooks says, once with each secret."""
        moment = now()
        signatures = [signer.sign(key, moment, data.decode()) for signer in self._signers]
        return {
            "webhook-id": key,
            "webhook-timestamp": str(int(moment.timestamp())),
            "webhook-signature": " ".join(signatures),
        }

    def _authenticate(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Say who calls. Also where that is nobody: requests would look into ``~/.netrc``."""
        if credential := self._sink.credential:
            request.headers[credential.header] = credential.value
        return request


@cache
def client_of(sink: str) -> SinkClient:
    """The client of this process for a sink; its connections are used again."""
    session = requests.Session()
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=32)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return SinkClient(settings().sinks[sink], session)


def _certificate(sink: SinkSettings) -> str | tuple[str, str] | None:
    if sink.client_cert_file and sink.client_key_file:
        return sink.client_cert_file, sink.client_key_file
    return sink.client_cert_file


def _read(response: requests.Response) -> tuple[bytes, bool]:
    """Read the body, within bounds; tell whether that is all of it.

    What the answer means is known before, so whatever goes wrong here does not matter.
    """
    deadline = time.monotonic() + DRAIN_SECONDS
    body = b""
    with suppress(HTTPError, OSError, SoftTimeLimitExceeded):
        while len(body) < DRAIN and time.monotonic() < deadline:
            chunk = response.raw.read1(DRAIN - len(body), decode_content=False)
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


def judge(status: int, retry_after: str | None, moment: datetime) -> DeliveryError | None:
    """Tell what an answer means: None is delivered, else the error to raise."""
    if 200 <= status < 300:
        return None
    reason = _reason(status)
    if status >= 500:
        return TransientDeliveryError(reason, seconds_of(retry_after, moment))
    if status in PATIENCE:
        return TransientDeliveryError(reason, seconds_of(retry_after, moment), sick=False)
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
