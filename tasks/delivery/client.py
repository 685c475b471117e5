"""One call to a sink: everything that its settings say of it, on the wire."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests
from standardwebhooks import Webhook

from tasks.clock import now
from tasks.delivery.http import Response, error_for_status, send
from tasks.delivery.oauth import Tokens
from tasks.delivery.redaction import excerpt, strings_in
from tasks.errors import DeliveryError
from tasks.events import canonical_json
from tasks.settings import SinkSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult:
    """One call: the headers it was made with, and what came back."""

    headers: Mapping[str, str] = field(repr=False)
    response: Response = field(repr=False)
    secrets: Sequence[str] = field(repr=False)

    @property
    def excerpt(self) -> str:
        """The beginning of the answer, without ``secrets``."""
        return excerpt(self.response.body, self.secrets, whole=self.response.whole)

    @property
    def error(self) -> DeliveryError | None:
        """What the answer means; None is delivered."""
        error = error_for_status(self.response.status, self.response.retry_after, now())
        if error:
            error.status = self.response.status
            error.response = self.excerpt or None
        return error


class SinkClient:
    """This process's way to one sink: how to call it, and the connections to it."""

    def __init__(
        self, sink: SinkSettings, session: requests.Session, tokens: Tokens | None = None
    ) -> None:
        """Make a client that has not connected yet; ``tokens`` are those of the sink's grant."""
        self._sink = sink
        self._session = session
        self._tokens = tokens
        self._signers = [Webhook(secret) for secret in sink.signing_secrets]

    def post(self, body: Mapping[str, Any], key: str) -> int:
        """Deliver something and return the status of the answer; ``key`` is the Idempotency-Key.

        Raises:
            TransientDeliveryError: the sink could not be reached, or says that it cannot now.
            DeliveryError: the sink refused the event for good.
            SettingsError: nobody said where the sink is.
        """
        result = self.call(body, key)
        if error := result.error:
            raise error
        return result.response.status

    def call(
        self, body: Mapping[str, Any], key: str, more: Mapping[str, str] | None = None
    ) -> CallResult:
        """Call the sink, with ``more`` headers, and tell what came of it.

        An access token that the sink does not take is renewed, and the call repeated, once.

        Raises:
            As ``post``, where there was no answer.
        """
        data = canonical_json(body)
        headers = {**self._headers(data, key), **(more or {})}
        secrets = [*self._sink.secrets, *strings_in(body)]
        if self._tokens:
            response, token = self._tokens.use(
                lambda token: self._send(data, _bearing(token, headers))
            )
            headers = _bearing(token, headers)
            secrets.append(token)
        else:
            response = self._send(data, headers)
        return CallResult(headers=headers, response=response, secrets=secrets)

    def _send(self, data: bytes, headers: Mapping[str, str]) -> Response:
        policy = self._sink.policy
        return send(
            self._session,
            self._sink.endpoint,
            data,
            headers,
            timeout=(policy.connect_timeout, policy.read_timeout),
            tls=self._sink.tls,
        )

    def _headers(self, data: bytes, key: str) -> dict[str, str]:
        credential = self._sink.credential
        return {
            "User-Agent": "cxone-event-processor",
            "Accept-Encoding": "identity",  # what comes back is read by people, if at all
            **self._sink.headers,
            **({credential.header: credential.value} if credential else {}),
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


def _bearing(token: str, headers: Mapping[str, str]) -> dict[str, str]:
    return {**headers, "Authorization": f"Bearer {token}"}
