"""OAuth access tokens: each is shared by all workers through Redis, and renewed by one of them."""

import base64
import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import quote_plus, urlencode

import requests
from redis import Redis, RedisError
from redis.exceptions import LockError

from tasks.clock import now
from tasks.delivery.http import Response, error_for_status, send
from tasks.errors import DeliveryError, TransientDeliveryError
from tasks.settings import OAuthGrant
from tasks.settings.http import MAX_TOKEN_SECONDS, TOKEN_TIMEOUT, TOKEN_WAIT

#: Seconds before its end that a token is not used any more; of a short life, the second half.
MARGIN = 300

#: Life of a token whose answer does not tell, and the longest we believe, in seconds.
DEFAULT_TTL, MAX_TTL = 600, 86_400


#: Milliseconds that a refusal stands for all workers before one of them asks again.
REFUSED_FOR = 2_000

#: Milliseconds between two tokens that are dropped: a sink that takes none costs no more of them.
DROPPED_FOR = 1_000

# KEYS: token, mark that one was dropped. ARGV: the token, milliseconds until the next may be.
_DROP_SCRIPT = """
local kept = redis.call('GET', KEYS[1])
if kept and cjson.decode(kept).token == ARGV[1]
    and redis.call('SET', KEYS[2], '', 'NX', 'PX', ARGV[2]) then
  redis.call('DEL', KEYS[1])
end
"""

#: The errors of RFC 6749, which tell nothing secret.
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

    Under its key in Redis is what came of asking for one: the token while it may be used, or for
    a moment why there is none. So one worker asks, and all get the answer.
    """

    def __init__(self, redis: Redis, session: requests.Session, grant: OAuthGrant) -> None:
        """Ask for nothing yet. ``redis`` must decode responses."""
        self._redis = redis
        self._session = session
        self._grant = grant
        self._drop = redis.register_script(_DROP_SCRIPT)

    def get(self) -> str:
        """Return a token that is good for a while, asking for one if nobody has.

        Raises:
            TransientDeliveryError: the token endpoint or Redis does not answer, or cannot now.
            DeliveryError: the token endpoint refuses; it names the settings to look at.
        """
        try:
            return self._get()
        except RedisError:
            error = "no access token: Redis does not answer"
            raise TransientDeliveryError(error, counts_as_failure=False) from None

    def use(self, call: Callable[[str], Response]) -> tuple[Response, str]:
        """Make a call with a token; one that is not taken is renewed, and the call repeated, once.

        Returns the answer, and the token that it was the answer to.

        Raises:
            As ``get``, and whatever ``call`` raises.
        """
        token = self.get()
        answer = call(token)
        if answer.status == HTTPStatus.UNAUTHORIZED:
            self.drop(token)
            token, refused = self.get(), token
            if token != refused:
                answer = call(token)
        return answer, token

    def drop(self, token: str) -> None:
        """Forget a token that is not taken, unless it was replaced, or one was dropped just now."""
        keys = [self._grant.key, f"{self._grant.key}.dropped"]
        try:
            self._drop(keys, [token, DROPPED_FOR])
        except RedisError:
            error = "an access token was refused, and Redis does not answer"
            raise TransientDeliveryError(error, counts_as_failure=False) from None

    def _get(self) -> str:
        deadline = time.monotonic() + TOKEN_WAIT
        lock = self._redis.lock(f"{self._grant.key}.lock", timeout=MAX_TOKEN_SECONDS)
        while not (kept := self._kept()):
            if lock.acquire(blocking=False):
                try:
                    kept = self._kept() or self._ask()
                finally:
                    with suppress(LockError):  # it took too long, and is another's by now
                        lock.release()
                break
            if time.monotonic() > deadline:
                raise TransientDeliveryError("no access token: another worker asks in vain")
            time.sleep(0.05)
        if "token" not in kept:
            raise _error_from_json(kept)
        return str(kept["token"])

    def _kept(self) -> dict[str, Any] | None:
        text = self._redis.get(self._grant.key)
        return json.loads(str(text)) if text else None

    def _ask(self) -> dict[str, Any]:
        """Ask for a token; tell everybody what came of it."""
        try:
            token, life = self._request()
            kept, milliseconds = {"token": token}, int(1_000 * (life - min(MARGIN, life / 2)))
        except DeliveryError as error:
            kept, milliseconds = _error_to_json(error), REFUSED_FOR
        self._redis.set(self._grant.key, json.dumps(kept), px=max(1, milliseconds))
        return kept

    def _request(self) -> tuple[str, float]:
        """Make the request; return a token and its life in seconds."""
        try:
            answer = send(
                self._session,
                self._grant.url,
                urlencode(self._grant.form).encode(),
                self._headers(),
                timeout=TOKEN_TIMEOUT,
                tls=self._grant.tls,
            )
        except TransientDeliveryError as nothing:
            raise TransientDeliveryError(f"no access token: {nothing}") from None
        error = error_for_status(answer.status, answer.retry_after, now())
        if isinstance(error, TransientDeliveryError):
            message = f"no access token: {error}"
            raise TransientDeliveryError(
                message, error.retry_after, counts_as_failure=error.counts_as_failure
            )
        said = _fields_of(answer)
        if error:
            code = f", {said['error']}" if said.get("error") in _ERRORS else ""
            raise DeliveryError(f"no access token: {error}{code} (see {self._grant.settings})")
        token = said.get("access_token")
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
            raise TransientDeliveryError("no access token: the answer has none")
        return token, _seconds(said.get("expires_in"))

    def _headers(self) -> dict[str, str]:
        headers = {
            "User-Agent": "cxone-event-processor",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        if self._grant.client:
            pair = ":".join(map(quote_plus, self._grant.client))  # RFC 6749, 2.3.1
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return headers


def _fields_of(answer: Response) -> dict[str, Any]:
    try:
        said = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _seconds(expires_in: Any) -> float:
    """Read the life of a token; some servers write it as a text."""
    try:
        return min(max(0.0, float(expires_in)), MAX_TTL)
    except (TypeError, ValueError, OverflowError):
        return DEFAULT_TTL


def _error_to_json(error: DeliveryError) -> dict[str, Any]:
    if isinstance(error, TransientDeliveryError):
        return {
            "transient": str(error),
            "retryAfter": error.retry_after,
            "sick": error.counts_as_failure,
        }
    return {"final": str(error)}


def _error_from_json(kept: Mapping[str, Any]) -> DeliveryError:
    if "final" in kept:
        return DeliveryError(kept["final"])
    return TransientDeliveryError(
        kept["transient"], kept["retryAfter"], counts_as_failure=kept["sick"]
    )
