"""OAuth access tokens, shared by all workers through Redis; one worker requests each."""

import base64
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import quote_plus, urlencode

import requests
from redis import Redis, RedisError
from redis.exceptions import LockError

from tasks.delivery.backoff import Deadline
from tasks.delivery.http import BASE_HEADERS, Response, send
from tasks.errors import DeliveryError, TransientDeliveryError
from tasks.settings import OAuthGrant
from tasks.settings.http import MAX_TOKEN_SECONDS, TOKEN_TIMEOUT, TOKEN_WAIT

#: Seconds before its expiry that a token is not used any more, but at most half its lifetime.
MARGIN = 300

#: Lifetime of a token without a usable ``expires_in``, and the longest that is used, in seconds.
DEFAULT_TTL, MAX_TTL = 600, 86_400

#: Milliseconds that all workers share a refusal, before one of them makes another request.
REFUSED_FOR = 2_000

#: Least milliseconds between two drops, so that a sink that accepts no token causes few requests.
DROPPED_FOR = 1_000

#: Seconds between two looks for a token that another worker has requested.
POLL_INTERVAL = 0.05

# KEYS: cached token, mark of a drop. ARGV: the token, milliseconds that the mark is kept.
_DROP_SCRIPT = """
local cached = redis.call('GET', KEYS[1])
if cached and cjson.decode(cached).token == ARGV[1]
    and redis.call('SET', KEYS[2], '', 'NX', 'PX', ARGV[2]) then
  redis.call('DEL', KEYS[1])
end
"""

#: The error codes of RFC 6749, 5.2; they contain no secret.
_ERRORS = (
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
)


class Tokens:
    """The access tokens of one grant, one at a time.

    The grant's key in Redis holds the outcome of the last request: the token while it may be used,
    or for ``REFUSED_FOR`` the error. So one worker makes the request, and all get the outcome.
    """

    def __init__(self, redis: Redis, session: requests.Session, grant: OAuthGrant) -> None:
        """Request nothing yet. ``redis`` must decode responses."""
        self._redis = redis
        self._session = session
        self._grant = grant
        self._drop = redis.register_script(_DROP_SCRIPT)

    def get(self) -> str:
        """Return a token that is still valid; request one if there is none.

        Raises:
            TransientDeliveryError: the token endpoint is unavailable or busy, or Redis is.
            DeliveryError: the token endpoint refuses; the message names the settings to check.
        """
        try:
            return self._get()
        except RedisError:
            error = "no access token: Redis does not answer"
            raise TransientDeliveryError(error, counts_as_failure=False) from None

    def use(self, call: Callable[[str], Response]) -> tuple[Response, str]:
        """Make a call with a token; after a 401, repeat it once with a new token.

        Returns the last response, and the token that it is about.

        Raises:
            As ``get``, and whatever ``call`` raises.
        """
        token = self.get()
        response = call(token)
        if response.status == HTTPStatus.UNAUTHORIZED:
            self.drop(token)
            token, refused = self.get(), token
            if token != refused:
                response = call(token)
        return response, token

    def drop(self, token: str) -> None:
        """Delete a refused token, unless it was replaced already or one was dropped just now."""
        keys = [self._grant.key, f"{self._grant.key}.dropped"]
        try:
            self._drop(keys, [token, DROPPED_FOR])
        except RedisError:
            error = "an access token was refused, and Redis does not answer"
            raise TransientDeliveryError(error, counts_as_failure=False) from None

    def _get(self) -> str:
        deadline = Deadline(TOKEN_WAIT)
        lock = self._redis.lock(f"{self._grant.key}.lock", timeout=MAX_TOKEN_SECONDS)
        while not (outcome := self._cached()):
            if lock.acquire(blocking=False):
                try:
                    outcome = self._cached() or self._request_and_cache()
                finally:
                    with suppress(LockError):  # it took too long; the lock is another worker's now
                        lock.release()
                break
            if not deadline.sleep(POLL_INTERVAL):
                raise TransientDeliveryError("no access token: another worker got none in time")
        if "token" not in outcome:
            raise _error_from_json(outcome)
        return str(outcome["token"])

    def _cached(self) -> dict[str, Any] | None:
        text = self._redis.get(self._grant.key)
        return json.loads(str(text)) if text else None

    def _request_and_cache(self) -> dict[str, Any]:
        """Request a token, and share the outcome with all workers."""
        try:
            token, lifetime = self._request()
            outcome = {"token": token}
            milliseconds = int(1_000 * (lifetime - min(MARGIN, lifetime / 2)))
        except DeliveryError as error:
            outcome, milliseconds = _error_to_json(error), REFUSED_FOR
        self._redis.set(self._grant.key, json.dumps(outcome), px=max(1, milliseconds))
        return outcome

    def _request(self) -> tuple[str, float]:
        """Request a token; return it and its lifetime in seconds."""
        url, form, tls = self._grant.url, urlencode(self._grant.form).encode(), self._grant.tls
        try:
            response = send(
                self._session, url, form, self._headers(), timeout=TOKEN_TIMEOUT, tls=tls
            )
            error = response.error
            if isinstance(error, TransientDeliveryError):
                raise error
        except TransientDeliveryError as transient:
            raise transient.prefixed("no access token") from None
        fields = response.fields
        if error:
            code = f", {fields['error']}" if fields.get("error") in _ERRORS else ""
            raise DeliveryError(f"no access token: {error}{code} (see {self._grant.settings})")
        token = fields.get("access_token")
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
            raise TransientDeliveryError("no access token: the answer has none")
        return token, _lifetime(fields.get("expires_in"))

    def _headers(self) -> dict[str, str]:
        headers = {
            **BASE_HEADERS,
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        if self._grant.client:
            pair = ":".join(map(quote_plus, self._grant.client))  # RFC 6749, 2.3.1
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return headers


def bearer(token: str) -> dict[str, str]:
    """Return the header of a request with a token."""
    return {"Authorization": f"Bearer {token}"}


def _lifetime(expires_in: Any) -> float:
    """Read the lifetime of a token in seconds; some servers send a string."""
    try:
        return min(max(0.0, float(expires_in)), MAX_TTL)
    except (TypeError, ValueError, OverflowError):
        return DEFAULT_TTL


# Workers of another release may read these keys, so "sick" (counts_as_failure) keeps its name.
def _error_to_json(error: DeliveryError) -> dict[str, Any]:
    if isinstance(error, TransientDeliveryError):
        return {
            "transient": str(error),
            "retryAfter": error.retry_after,
            "sick": error.counts_as_failure,
        }
    return {"final": str(error)}


def _error_from_json(cached: Mapping[str, Any]) -> DeliveryError:
    if "final" in cached:
        return DeliveryError(cached["final"])
    return TransientDeliveryError(
        cached["transient"], cached["retryAfter"], counts_as_failure=cached["sick"]
    )
