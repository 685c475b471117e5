"""Calls to a sink: body, headers, authentication and signature, as its settings define them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests
from standardwebhooks import Webhook

from tasks.clock import now
from tasks.delivery.http import BASE_HEADERS, Response, send
from tasks.delivery.oauth import Tokens, bearer
from tasks.delivery.redaction import excerpt, strings_in
from tasks.errors import DeliveryError
from tasks.events import canonical_json
from tasks.settings import SinkSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult:
    """One call: the headers that were sent, and the response."""

    headers: Mapping[str, str] = field(repr=False)
    response: Response = field(repr=False)
    secrets: Sequence[str] = field(repr=False)

    @property
    def excerpt(self) -> str:
        """The beginning of the response body, with ``secrets`` redacted."""
        return excerpt(self.response.body, self.secrets, whole=self.response.whole)

    @property
    def error(self) -> DeliveryError | None:
        """The error that the response stands for; None if the event is delivered."""
        if error := self.response.error:
            error.status = self.response.status
            error.response = self.excerpt or None
        return error


class SinkClient:
    """Calls one sink, over connections that are used again."""

    def __init__(
        self, sink: SinkSettings, session: requests.Session, tokens: Tokens | None = None
    ) -> None:
        """Connect to nothing yet. ``tokens`` are those of the sink's OAuth grant, if it has one."""
        self._sink = sink
        self._session = session
        self._tokens = tokens
        self._signers = [Webhook(secret) for secret in sink.signing_secrets]

    def post(self, body: Mapping[str, Any], key: str) -> int:
        """Deliver a body and return the status of the response; ``key`` is the Idempotency-Key.

        Raises:
            TransientDeliveryError: there was no response, or one that allows a retry.
            DeliveryError: the sink refused the event for good.
            SettingsError: the sink's endpoint is not set.
        """
        result = self.call(body, key)
        if error := result.error:
            raise error
        return result.response.status

    def call(
        self, body: Mapping[str, Any], key: str, extra_headers: Mapping[str, str] | None = None
    ) -> CallResult:
        """Call the sink and return the headers that were sent and the response.

        If the sink answers 401 to an access token, the call is repeated once with a new one.

        Raises:
            As ``post``, where there was no response.
        """
        data = canonical_json(body)
        headers = {**self._headers(data, key), **(extra_headers or {})}
        secrets = [*self._sink.secrets, *strings_in(body)]
        if self._tokens:
            response, token = self._tokens.use(
                lambda token: self._send(data, {**headers, **bearer(token)})
            )
            headers |= bearer(token)
            secrets.append(token)
        else:
            response = self._send(data, headers)
        return CallResult(headers=headers, response=response, secrets=secrets)

    def _send(self, data: bytes, headers: Mapping[str, str]) -> Response:
        sink = self._sink
        timeout = sink.policy.connect_timeout, sink.policy.read_timeout
        return send(self._session, sink.endpoint, data, headers, timeout=timeout, tls=sink.tls)

    def _headers(self, data: bytes, key: str) -> dict[str, str]:
        credential = self._sink.credential
        return {
            **BASE_HEADERS,
            **self._sink.headers,
            **({credential.header: credential.value} if credential else {}),
            "Content-Type": "application/json",
            "Idempotency-Key": key,
            **(self._signature(data, key) if self._signers else {}),
        }

    def _signature(self, data: bytes, key: str) -> dict[str, str]:
        """Sign an attempt as Standard Webhooks defines it, once with each secret."""
        moment = now()
        signatures = [signer.sign(key, moment, data.decode()) for signer in self._signers]
        return {
            "webhook-id": key,
            "webhook-timestamp": str(int(moment.timestamp())),
            "webhook-signature": " ".join(signatures),
        }
