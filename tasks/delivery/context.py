"""Contexts of interactions, from the REST API of CXone, for sinks with ``context``.

A context is fetched inside the delivery, so other sinks do not wait for it. It never fails an
event: after ``CXONE_TIMEOUT_SECONDS`` the delivery is made without it, or retried later until
``CXONE_WAIT_SECONDS`` have passed. It is personal data: it is stored in Redis alone, with a time
to live, and is in no log and no message of an error.
"""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

import requests
from redis import Redis, RedisError

from tasks.clock import elapsed_ms, now, to_rfc3339
from tasks.counters import COUNTERS
from tasks.delivery.backoff import Deadline, jitter, retry_delay
from tasks.delivery.circuit_breaker import Breaker
from tasks.delivery.http import BASE_HEADERS, Response, send
from tasks.delivery.oauth import Tokens, bearer
from tasks.errors import ContextMissingError, DeliveryError, ParkedError, TransientDeliveryError
from tasks.events import canonical_json
from tasks.settings import CxoneSettings, OAuthGrant
from tasks.settings.cxone import ID_PLACEHOLDER
from tasks.settings.environment import is_safe, url_to_call
from tasks.sinks import Policy

#: Backoff, time to connect, and circuit breaker of requests to CXone.
REQUEST_POLICY = Policy(
    backoff_base=1,
    backoff_cap=4,
    retry_after_cap=300,
    connect_timeout=2,
    breaker_failures=5,
    breaker_seconds=30,
)

#: Seconds that a discovered endpoint is cached.
DISCOVERED_FOR = 3_600

#: Key in Redis that exists while CXone's ``Retry-After`` holds, for all workers.
_THROTTLED_UNTIL = "cxone.busy"

_log = logging.getLogger(__name__)


class ContextResult(NamedTuple):
    """The context that a delivery adds to its body, and the note in its audit record."""

    context: Mapping[str, Any] | None = None
    note: str | None = None


class Contexts:
    """The contexts of interactions."""

    def __init__(
        self, cxone: CxoneSettings, redis: Redis, session: requests.Session, *, keep: int
    ) -> None:
        """Request nothing yet. ``redis`` must decode responses.

        ``keep`` is how many seconds all attempts of one delivery get the same context.
        """
        self._cxone = cxone
        self._redis = redis
        self._session = session
        self._keep = keep
        self._breaker = Breaker(redis, "cxone", REQUEST_POLICY, probe_seconds=cxone.max_seconds)

    def for_delivery(self, task_id: str, interaction_id: str, received_at: str) -> ContextResult:
        """Return the context of a delivery, the same on each of its attempts while Redis keeps it.

        Raises:
            ContextMissingError: there is none, and since ``received_at`` less than
                ``CXONE_WAIT_SECONDS`` have passed.
        """
        key = f"context.{task_id}"
        with suppress(RedisError):
            if kept := self._redis.get(key):
                return ContextResult(*json.loads(str(kept)))
        try:
            found = ContextResult(self.get(interaction_id))
        except DeliveryError as error:
            if not isinstance(error, TransientDeliveryError):
                _log.error("no context for any event: %s", error)
            if elapsed_ms(received_at, to_rfc3339(now())) < 1_000 * self._cxone.wait:
                COUNTERS.add("contexts", outcome="awaited")
                raise ContextMissingError(f"waits for its context: {error}") from None
            found = ContextResult(None, f"without context: {error}")
        COUNTERS.add("contexts", outcome="had" if found.context else "missing")
        with suppress(RedisError):
            if not self._redis.set(key, json.dumps(found), nx=True, ex=self._keep):
                kept = self._redis.get(key)  # the same delivery runs twice
                return ContextResult(*json.loads(str(kept))) if kept else found
        return found

    def get(self, interaction_id: str) -> dict[str, Any]:
        """Return the context of an interaction, within ``CxoneSettings.max_seconds``.

        Raises:
            TransientDeliveryError: there is none yet, or CXone or Redis is unavailable.
            DeliveryError: CXone refuses; the message names the settings to check.
        """
        try:
            return self._get(interaction_id)
        except ParkedError:
            reason = "it did not answer the last times"
        except RedisError:
            reason = "Redis does not answer"
        raise TransientDeliveryError(f"CXone is not asked: {reason}", counts_as_failure=False)

    def _get(self, interaction_id: str) -> dict[str, Any]:
        key = f"cxone.context.{interaction_id}"
        if interaction_id in (".", ".."):  # they would change the path of the URL
            raise TransientDeliveryError(
                "CXone has none: not the id of a contact", counts_as_failure=False
            )
        if kept := self._redis.get(key):
            context: dict[str, Any] = json.loads(str(kept))
            return context
        response = self._request(interaction_id)
        context = context_in(response, self._cxone.credentials)
        if self._cxone.cache:
            with suppress(RedisError):
                self._redis.set(key, json.dumps(context), ex=self._cxone.cache)
        return context

    def _request(self, interaction_id: str) -> Response:
        """Request a context, up to ``max_attempts`` times and until the deadline.

        Raises:
            DeliveryError: of the last attempt.
        """
        deadline = Deadline(self._cxone.timeout)
        for attempt in range(1, self._cxone.max_attempts + 1):
            self._wait_while_throttled(deadline)
            try:
                with self._breaker.guard(interaction_id):
                    return self._request_once(interaction_id, deadline)
            except TransientDeliveryError as error:
                self._note_throttling(error)
                # A Retry-After is obeyed by all workers, in _wait_while_throttled.
                delay = 0 if error.retry_after else retry_delay(attempt, REQUEST_POLICY)
                if attempt == self._cxone.max_attempts or not deadline.sleep(delay):
                    raise
        raise AssertionError  # the last attempt returned or raised

    def _wait_while_throttled(self, deadline: Deadline) -> None:
        """Wait as long as CXone's last ``Retry-After`` to any worker asks.

        Raises:
            TransientDeliveryError: that would end after the deadline.
        """
        pipe = self._redis.pipeline(transaction=False)
        pipe.get(_THROTTLED_UNTIL)
        pipe.pttl(_THROTTLED_UNTIL)
        reason, left = pipe.execute()
        if reason and not deadline.sleep(max(0, left) / 1_000 + jitter(0, 1)):
            raise TransientDeliveryError(reason, counts_as_failure=False)

    def _note_throttling(self, error: TransientDeliveryError) -> None:
        if error.retry_after:
            seconds = min(error.retry_after, REQUEST_POLICY.retry_after_cap)
            self._redis.set(_THROTTLED_UNTIL, str(error), px=1 + int(1_000 * seconds))

    def _request_once(self, interaction_id: str, deadline: Deadline) -> Response:
        """Make one attempt.

        Raises:
            TransientDeliveryError: there was no response, or one that allows a retry.
            DeliveryError: there is no token or no endpoint.
        """
        tokens, api_url = self._endpoints(deadline)
        path = self._cxone.contact_path.replace(ID_PLACEHOLDER, quote(interaction_id, safe=""))
        response, _ = tokens.use(lambda token: self._get_url(api_url + path, deadline, token))
        return response

    def _endpoints(self, deadline: Deadline) -> tuple[Tokens, str]:
        """Return the tokens and the base URL of the API, from the settings or by discovery."""
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

    def _discovered(self, path: str, field: str, deadline: Deadline) -> str:
        """Return an endpoint that NICE publishes (docs/facts.md, N1); all workers share a cache.

        Raises:
            TransientDeliveryError: there was no response, or one that allows a retry.
            DeliveryError: there is no endpoint, or none that a secret may be sent to.
        """
        url = self._cxone.discovery_url + path
        key = f"cxone.discovered.{url}"
        if kept := self._redis.get(key):
            return str(kept)
        response = self._get_url(url, deadline)
        endpoint = endpoint_in(response, field, allow_http=self._cxone.allow_http)
        self._redis.set(key, endpoint, ex=DISCOVERED_FOR)
        return endpoint

    def _get_url(self, url: str, deadline: Deadline, token: str | None = None) -> Response:
        left = deadline.left
        headers = {**BASE_HEADERS, "Accept": "application/json", **(bearer(token) if token else {})}
        timeout = min(REQUEST_POLICY.connect_timeout, left), min(self._cxone.read_timeout, left)
        too_late = f"CXone: no answer within {self._cxone.timeout} s"
        if left <= 0:
            raise TransientDeliveryError(too_late)
        try:
            response = send(self._session, url, None, headers, timeout=timeout)
        except TransientDeliveryError as error:
            message = f"CXone: {error}" if deadline.left > 0 else too_late
            raise TransientDeliveryError(message) from None
        if isinstance(transient := response.error, TransientDeliveryError):
            raise transient.prefixed("CXone")
        return response


def context_in(response: Response, credentials: str) -> dict[str, Any]:
    """Read the context in a response; ``credentials`` names the settings to check
    after a 401 or 403.

    Raises:
        TransientDeliveryError: there is none yet; the API lags (docs/facts.md, N4).
        DeliveryError: it is refused, or is no JSON object.
    """
    error = response.error
    if response.status == 404 or not (error or response.body.strip()):
        how = str(error) if error else "an empty answer"
        raise TransientDeliveryError(f"CXone has none yet: {how}", counts_as_failure=False)
    if error:
        refused = response.status in (401, 403)
        names = credentials if refused else "CXONE_API_URL, CXONE_CONTACT_PATH"
        raise DeliveryError(f"CXone: {error} (see {names})")
    context = _json_in(response)
    if not isinstance(context, dict):
        raise DeliveryError("CXone: the answer is no JSON object (see CXONE_CONTACT_PATH)")
    if not context:
        raise TransientDeliveryError("CXone has none yet: an empty answer", counts_as_failure=False)
    return context


def endpoint_in(response: Response, field: str, *, allow_http: bool) -> str:
    """Read an endpoint in a response of the discovery.

    Raises:
        DeliveryError: it is not there, or is no URL that a secret may be sent to.
    """
    fields = _json_in(response)
    endpoint = fields.get(field) if isinstance(fields, dict) else None
    try:
        if response.error or not isinstance(endpoint, str):
            raise ValueError
        if not (allow_http or is_safe(url_to_call(endpoint))):
            raise ValueError
        return url_to_call(endpoint)
    except ValueError:
        raise DeliveryError(
            f"CXone: {field} is not discovered, {response.status} "
            "(see CXONE_DISCOVERY_URL, CXONE_TENANT_ID)"
        ) from None


def _json_in(response: Response) -> Any:
    """Read the body; None if it is no JSON, also where Python reads NaN or a lone surrogate."""
    try:
        value = json.loads(response.body) if response.whole else None
        canonical_json(value)
    except (ValueError, RecursionError):
        return None
    return value
