"""An interaction's context, from the REST API of CXone, for the sinks that are to get it.

It is asked for inside the delivery, so it costs the other sinks nothing, and it never costs the
event: what cannot be had within its time is gone without, or waited for (``CXONE_WAIT_SECONDS``).
It is personal data. It comes to rest in Redis alone, for as long as it is of use, and shows
nowhere; errors tell a status and the settings to look at.
"""

import json
import logging
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

import requests
from redis import Redis, RedisError

from tasks.clock import elapsed_ms, now, to_rfc3339
from tasks.counters import COUNTERS
from tasks.delivery.circuit_breaker import Breaker
from tasks.delivery.http import Response, error_for_status, send
from tasks.delivery.oauth import Tokens
from tasks.errors import ContextMissingError, DeliveryError, ParkedError, TransientDeliveryError
from tasks.events import canonical_json
from tasks.settings import CxoneSettings, OAuthGrant
from tasks.settings.cxone import ID_PLACEHOLDER
from tasks.settings.environment import is_safe, url_to_call
from tasks.settings.http import DEFAULT_TLS
from tasks.sinks import Policy

#: How it presses: waits between tries, time to connect, and when to leave CXone alone for a while.
REQUEST_POLICY = Policy(
    backoff_base=1,
    backoff_cap=4,
    retry_after_cap=300,
    connect_timeout=2,
    breaker_failures=5,
    breaker_seconds=30,
)

#: Seconds that discovered endpoints are used.
DISCOVERED_FOR = 3_600

#: Until when CXone asked all of us for patience.
_THROTTLED_UNTIL = "cxone.busy"

_log = logging.getLogger(__name__)


class ContextResult(NamedTuple):
    """What a delivery adds to its body, and what its audit record notes."""

    context: Mapping[str, Any] | None = None
    note: str | None = None


class Contexts:
    """The contexts of interactions."""

    def __init__(
        self, cxone: CxoneSettings, redis: Redis, session: requests.Session, *, keep: int
    ) -> None:
        """Ask for nothing yet. ``redis`` must decode responses.

        ``keep`` is for how many seconds the tries of one delivery get the same.
        """
        self._cxone = cxone
        self._redis = redis
        self._session = session
        self._keep = keep
        self._breaker = Breaker(redis, "cxone", REQUEST_POLICY, probe_seconds=cxone.max_seconds)

    def for_delivery(self, task_id: str, interaction_id: str, received_at: str) -> ContextResult:
        """Return what a delivery goes with: on each of its tries the same, while Redis keeps it.

        Raises:
            ContextMissingError: it is to wait; how long yet follows from ``received_at``.
        """
        key = f"context.{task_id}"
        with suppress(RedisError):
            if kept := self._redis.get(key):
                return ContextResult(*json.loads(str(kept)))
        try:
            found = ContextResult(self.get(interaction_id))
        except DeliveryError as error:
            if not isinstance(error, TransientDeliveryError):
                _log.error("no context for anybody: %s", error)
            if elapsed_ms(received_at, to_rfc3339(now())) < 1_000 * self._cxone.wait:
                COUNTERS.add("contexts", outcome="awaited")
                raise ContextMissingError(f"waits for its context: {error}") from None
            found = ContextResult(None, f"without context: {error}")
        COUNTERS.add("contexts", outcome="had" if found.context else "missing")
        with suppress(RedisError):
            if not self._redis.set(key, json.dumps(found), nx=True, ex=self._keep):
                kept = self._redis.get(key)  # of the same delivery, running twice
                return ContextResult(*json.loads(str(kept))) if kept else found
        return found

    def get(self, interaction_id: str) -> dict[str, Any]:
        """Return the context of an interaction; it takes ``CxoneSettings.longest`` at most.

        Raises:
            TransientDeliveryError: there is none yet, or CXone or Redis does not give it now.
            DeliveryError: CXone refuses it; names the settings to look at.
        """
        try:
            return self._get(interaction_id)
        except ParkedError:
            error = "CXone is not asked: it did not answer the last times"
            raise TransientDeliveryError(error, counts_as_failure=False) from None
        except RedisError:
            error = "CXone is not asked: Redis does not answer"
            raise TransientDeliveryError(error, counts_as_failure=False) from None

    def _get(self, interaction_id: str) -> dict[str, Any]:
        key = f"cxone.context.{interaction_id}"
        context: dict[str, Any]
        if interaction_id in (".", ".."):  # they would lead to another path
            raise TransientDeliveryError(
                "CXone has none: not the id of a contact", counts_as_failure=False
            )
        if kept := self._redis.get(key):
            context = json.loads(str(kept))
            return context
        answer = self._ask_in_time(interaction_id)
        context = context_in(answer, self._cxone.credentials)
        if self._cxone.cache:
            with suppress(RedisError):
                self._redis.set(key, json.dumps(context), ex=self._cxone.cache)
        return context

    def _ask_in_time(self, interaction_id: str) -> Response:
        """Ask, and again, as often and as long as the settings allow.

        Raises:
            DeliveryError: the last try's.
        """
        deadline = time.monotonic() + self._cxone.timeout
        tries = 0
        while True:
            self._wait_while_throttled(deadline)
            tries += 1
            try:
                with self._breaker.guard(interaction_id):
                    return self._ask(interaction_id, deadline)
            except TransientDeliveryError as error:
                self._note_throttling(error)
                wait = (
                    0
                    if error.retry_after
                    else _jitter(REQUEST_POLICY.backoff_base * 2 ** (tries - 1))
                )
                if tries == self._cxone.max_attempts or time.monotonic() + wait > deadline:
                    raise
            time.sleep(wait)  # the backoff, which ends before the deadline

    def _wait_while_throttled(self, deadline: float) -> None:
        """Wait as long as CXone asked of any of us.

        Raises:
            TransientDeliveryError: that is too long.
        """
        pipe = self._redis.pipeline(transaction=False)
        pipe.get(_THROTTLED_UNTIL)
        pipe.pttl(_THROTTLED_UNTIL)
        reason, left = pipe.execute()
        if not reason:
            return
        wait = max(0, left) / 1_000 + _jitter(1)  # we do not all come back at once
        if time.monotonic() + wait > deadline:
            raise TransientDeliveryError(reason, counts_as_failure=False)
        time.sleep(wait)  # what CXone asked for

    def _note_throttling(self, error: TransientDeliveryError) -> None:
        if error.retry_after:
            seconds = min(error.retry_after, REQUEST_POLICY.retry_after_cap)
            self._redis.set(_THROTTLED_UNTIL, str(error), px=1 + int(1_000 * seconds))

    def _ask(self, interaction_id: str, deadline: float) -> Response:
        """Ask for a context once.

        Raises:
            TransientDeliveryError: no answer, or one that asks for another try.
            DeliveryError: there is no token or no endpoint to be had.
        """
        tokens, api_url = self._endpoints(deadline)
        path = self._cxone.contact_path.replace(ID_PLACEHOLDER, quote(interaction_id, safe=""))
        answer, _ = tokens.use(
            lambda token: self._fetch(api_url + path, deadline, Authorization=f"Bearer {token}")
        )
        _raise_if_transient(answer)
        return answer

    def _endpoints(self, deadline: float) -> tuple[Tokens, str]:
        """The tokens to use, and the base of the API, as they are set or discovered."""
        token_url = self._cxone.token_url or self._discovered(
            "/.well-known/openid-configuration", "token_endpoint", deadline
        )
        api_url = self._cxone.api_url or self._discovered(
            f"/.well-known/cxone-configuration?tenantId={quote_plus(self._cxone.tenant_id or '')}",
            "api_endpoint",
            deadline,
        )
        grant = OAuthGrant(
            name="cxone",
            settings=f"CXONE_TOKEN_URL, {self._cxone.credentials}",
            url=token_url,
            form=self._cxone.form,
            client=self._cxone.client,
        )
        return Tokens(self._redis, self._session, grant), api_url.rstrip("/")

    def _discovered(self, path: str, field: str, deadline: float) -> str:
        """Return an endpoint that NICE tells; remembered by all for a while.

        Raises:
            TransientDeliveryError: no answer.
            DeliveryError: it is not told, or is no URL to send a secret to.
        """
        url = self._cxone.discovery_url + path
        key = f"cxone.discovered.{url}"
        if kept := self._redis.get(key):
            return str(kept)
        answer = self._fetch(url, deadline)
        _raise_if_transient(answer)
        endpoint = endpoint_in(answer, field, allow_http=self._cxone.allow_http)
        self._redis.set(key, endpoint, ex=DISCOVERED_FOR)
        return endpoint

    def _fetch(self, url: str, deadline: float, **headers: str) -> Response:
        left = deadline - time.monotonic()
        too_late = f"CXone: no answer within {self._cxone.timeout} s"
        if left <= 0:
            raise TransientDeliveryError(too_late)
        try:
            return send(
                self._session,
                url,
                None,
                {
                    "User-Agent": "cxone-event-processor",
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                    **headers,
                },
                timeout=(
                    min(REQUEST_POLICY.connect_timeout, left),
                    min(self._cxone.read_timeout, left),
                ),
                tls=DEFAULT_TLS,
            )
        except TransientDeliveryError as nothing:
            over = time.monotonic() >= deadline
            raise TransientDeliveryError(too_late if over else f"CXone: {nothing}") from None


def _jitter(longest: float) -> float:
    return random.uniform(0, min(longest, REQUEST_POLICY.backoff_cap))  # noqa: S311 - nobody is surprised


def _raise_if_transient(answer: Response) -> None:
    error = error_for_status(answer.status, answer.retry_after, now())
    if isinstance(error, TransientDeliveryError):
        raise TransientDeliveryError(
            f"CXone: {error}", error.retry_after, counts_as_failure=error.counts_as_failure
        )


def context_in(answer: Response, credentials: str) -> dict[str, Any]:
    """Read a context out of an answer; ``credentials`` names the settings that a refusal is about.

    Raises:
        TransientDeliveryError: there is none yet; the API lags by 15 minutes and more (FACTS).
        DeliveryError: it is refused, or is no JSON object.
    """
    error = error_for_status(answer.status, None, now())
    if answer.status == 404 or not (error or answer.body.strip()):
        how = str(error) if error else "an empty answer"
        raise TransientDeliveryError(f"CXone has none yet: {how}", counts_as_failure=False)
    if error:
        look_at = (
            credentials if answer.status in (401, 403) else "CXONE_API_URL, CXONE_CONTACT_PATH"
        )
        raise DeliveryError(f"CXone: {error} (see {look_at})")
    context = _json_in(answer)
    if not isinstance(context, dict):
        raise DeliveryError("CXone: the answer is no JSON object (see CXONE_CONTACT_PATH)")
    if not context:
        raise TransientDeliveryError("CXone has none yet: an empty answer", counts_as_failure=False)
    return context


def endpoint_in(answer: Response, field: str, *, allow_http: bool) -> str:
    """Read an endpoint out of an answer of the discovery.

    Raises:
        DeliveryError: it is not there, or is no URL that a secret may be sent to.
    """
    said = _json_in(answer)
    endpoint = said.get(field) if isinstance(said, dict) else None
    try:
        if not 200 <= answer.status < 300 or not isinstance(endpoint, str):
            raise ValueError
        if not (allow_http or is_safe(url_to_call(endpoint))):
            raise ValueError
        return url_to_call(endpoint)
    except ValueError:
        raise DeliveryError(
            f"CXone: {field} is not discovered, {answer.status} "
            "(see CXONE_DISCOVERY_URL, CXONE_TENANT_ID)"
        ) from None


def _json_in(answer: Response) -> Any:
    """Read what can be passed on: JSON knows neither NaN nor half a character, Python does."""
    try:
        said = json.loads(answer.body) if answer.whole else None
        canonical_json(said)
    except (ValueError, RecursionError):
        return None
    return said
