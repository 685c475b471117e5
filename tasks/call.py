"""One call to a sink: everything that its settings say of it, on the wire."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import requests
from standardwebhooks import Webhook

from tasks import redis
from tasks.clock import now
from tasks.errors import DeliveryError
from tasks.events import canonical_json
from tasks.excerpt import excerpt, strings_in
from tasks.exchange import Answer, exchange, judge, make_session
from tasks.oauth import Tokens
from tasks.settings import settings
from tasks.sink_settings import SinkSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One call: the headers it was made with, and what came back."""

    headers: Mapping[str, str] = field(repr=False)
    answer: Answer = field(repr=False)
    hidden: Sequence[str] = field(repr=False)

    @property
    def excerpt(self) -> str:
        """The beginning of the answer, without ``hidden``."""
        return excerpt(self.answer.body, self.hidden, whole=self.answer.whole)

    @property
    def error(self) -> DeliveryError | None:
        """What the answer means; None is delivered."""
        error = judge(self.answer.status, self.answer.retry_after, now())
        if error:
            error.status = self.answer.status
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
        attempt = self.attempt(body, key)
        if error := attempt.error:
            raise error
        return attempt.answer.status

    def attempt(
        self, body: Mapping[str, Any], key: str, more: Mapping[str, str] | None = None
    ) -> Attempt:
        """Call the sink, with ``more`` headers, and tell what came of it.

        An access token that the sink does not take is renewed, and the call repeated, once.

        Raises:
            As ``post``, where there was no answer.
        """
        data = canonical_json(body)
        headers = {**self._headers(data, key), **(more or {})}
        hidden = [*self._sink.secrets, *strings_in(body)]
        if self._tokens:
            answer, token = self._tokens.use(
                lambda token: self._exchange(data, _bearing(token, headers))
            )
            headers = _bearing(token, headers)
            hidden.append(token)
        else:
            answer = self._exchange(data, headers)
        return Attempt(headers=headers, answer=answer, hidden=hidden)

    def _exchange(self, data: bytes, headers: Mapping[str, str]) -> Answer:
        policy = self._sink.policy
        return exchange(
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


@cache
def client_of(sink: str) -> SinkClient:
    """The client of this process for a sink; its connections are used again."""
    to, session = settings().sinks[sink], make_session()
    tokens = Tokens(redis.client(), session, to.grant) if to.grant else None
    return SinkClient(to, session, tokens)


def _bearing(token: str, headers: Mapping[str, str]) -> dict[str, str]:
    return {**headers, "Authorization": f"Bearer {token}"}
