"""A stand-in for NICE CXone: tokens, discovery and contacts, with faults that can be set.

It is as strict as CXone: it issues no token to an unknown client or for a scope that it does not
grant, and returns no contact for a token that expired or has another scope. ``PUT
/PART/behaviour`` sets how a part (tokens, discovery, contacts) answers from now on, ``PUT
/tokens/expired`` revokes all tokens, ``GET /PART/asked`` lists the requests. The embedded system
runs it as ``python -m embedded.stubs.cxone``; tests use ``Cxone``.
"""

import argparse
import base64
import hashlib
import logging
import os
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, unquote_plus, urlsplit

from embedded.stubs.server import Behaviour, Handler, Mode, RefusedError, Response, Server, Stub

#: The scope that contacts require, and those that a client may request.
SCOPE = "view:interactions"
GRANTED = frozenset({SCOPE, "view:agents"})

#: The one tenant that it has.
TENANT = "11eb0000-aaaa-bbbb-cccc-0242ac110002"

PARTS = ("tokens", "discovery", "contacts")

_CONTACT = re.compile(r"/incontactapi/services/v[0-9.]+/contacts/([^/]+)")

_log = logging.getLogger("cxone")


def contact(interaction_id: str) -> dict[str, Any]:
    """Return its contact of an interaction: always the same for the same id."""
    number = int(hashlib.sha256(interaction_id.encode()).hexdigest()[:8], 16)
    return {
        "contactId": interaction_id,
        "masterContactId": interaction_id,
        "contactStartDate": "2026-01-31T12:00:00.000Z",
        "agentId": f"agent-{number % 50}",
        "firstName": "Ján",
        "lastName": f"Sample {number % 1_000}",
        "fromAddress": f"+1555{number % 10_000_000:07}",
        "mediaTypeName": "Call",
        "skillName": "billing",
        "teamName": "first line",
    }


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: for a token, the grant type; for a contact, its id; for an endpoint, the path.

    ``answered`` is the status of the answer, None if there was none.
    """

    what: str
    answered: int | None


class Cxone(Stub):
    """CXone on loopback, from ``with`` to its end; port 0 takes a free one."""

    def __init__(
        self, port: int = 0, client: str = "client:secret", key: str = "key:secret"
    ) -> None:
        """Bind the port. ``client`` and access ``key`` are each ``id:secret``."""
        self.client, self.key = client, key
        self.token_life: float = 3_600
        self._lock = threading.Lock()
        self._tokens: dict[str, tuple[float, str]] = {}  # when it expires, and its scope
        self._behaviours = dict.fromkeys(PARTS, Behaviour())
        self._asked: Mapping[str, deque[Asked]] = {part: deque(maxlen=10_000) for part in PARTS}
        super().__init__(_Server(port, self))
        self.url = self.origin

    def settings(self) -> dict[str, str]:
        """Return the settings of a client."""
        client_id, _, client_secret = self.client.partition(":")
        return {
            "CXONE_TOKEN_URL": f"{self.url}/auth/token",
            "CXONE_API_URL": self.url,
            "CXONE_CLIENT_ID": client_id,
            "CXONE_CLIENT_SECRET": client_secret,
        }

    def behave(self, part: str, mode: Mode = "ok", **options: Any) -> None:
        """Set how a part answers from now on (``Behaviour``)."""
        self.set_behaviour(part, Behaviour(mode=mode, **options))

    def set_behaviour(self, part: str, behaviour: Behaviour) -> None:
        """Set how a part answers from now on."""
        with self._lock:
            self._behaviours[part] = behaviour

    def expire(self) -> None:
        """Revoke all tokens."""
        with self._lock:
            self._tokens.clear()

    def asked(self, part: str) -> list[Asked]:
        """Return the requests to a part, oldest first."""
        with self._lock:
            return list(self._asked[part])

    def next(self, part: str, request: str) -> Behaviour:
        """Return how a part answers a request."""
        with self._lock:
            behaviour, self._behaviours[part] = self._behaviours[part].next(request)
            return behaviour

    def record(self, part: str, what: str, answered: int | None) -> None:
        """Record a request."""
        with self._lock:
            self._asked[part].append(Asked(what, answered))

    def issue(self, form: Mapping[str, str], client: str) -> Response:
        """Answer a request for a token, as RFC 6749 defines it."""
        if client != self.client:
            return Response(HTTPStatus.UNAUTHORIZED, {"error": "invalid_client"})
        given = f"{form.get('username')}:{form.get('password')}"
        match form.get("grant_type"):
            case "client_credentials":
                pass
            case "password" if given == self.key:
                pass
            case "password":
                return Response(HTTPStatus.BAD_REQUEST, {"error": "invalid_grant"})
            case _:
                return Response(HTTPStatus.BAD_REQUEST, {"error": "unsupported_grant_type"})
        scope = form.get("scope", SCOPE)
        if not set(scope.split()) <= GRANTED:
            return Response(HTTPStatus.BAD_REQUEST, {"error": "invalid_scope"})
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._tokens[token] = (time.monotonic() + self.token_life, scope)
        issued = {"access_token": token, "token_type": "Bearer", "scope": scope}
        return Response(HTTPStatus.OK, {**issued, "expires_in": int(self.token_life)})

    def open(self, interaction_id: str, authorization: str) -> Response:
        """Answer a request for a contact."""
        with self._lock:
            expiry, scope = self._tokens.get(authorization.removeprefix("Bearer "), (0.0, ""))
        if time.monotonic() > expiry:
            return Response(HTTPStatus.UNAUTHORIZED, {"error": "token expired"})
        if SCOPE not in scope.split():
            return Response(HTTPStatus.FORBIDDEN, {"error": "insufficient scope"})
        return Response(HTTPStatus.OK, contact(interaction_id))


class _Server(Server):
    def __init__(self, port: int, cxone: Cxone) -> None:
        super().__init__(port, _Handler)
        self.cxone = cxone


class _Handler(Handler):
    server: _Server

    def post(self) -> Response | None:
        """Issue a token."""
        if self.path != "/auth/token":
            raise RefusedError(HTTPStatus.NOT_FOUND, "no such path")
        text = self.text()
        form = dict(parse_qsl(text))
        client = _pair(self.headers.get("Authorization", ""))
        ok = self.server.cxone.issue(form, client)
        return self._answer("tokens", form.get("grant_type", ""), text, ok)

    def put(self) -> Response:
        """Set the behaviour of a part, or revoke all tokens."""
        part, _, what = self.path.removeprefix("/").partition("/")
        if self.path == "/tokens/expired":
            self.text()
            self.server.cxone.expire()
        elif part in PARTS and what == "behaviour":
            self.server.cxone.set_behaviour(part, self.behaviour())
        else:
            raise RefusedError(HTTPStatus.NOT_FOUND, "no such path")
        return Response(HTTPStatus.OK, {})

    def get(self) -> Response | None:
        """Return a contact or an endpoint, or list the requests to a part."""
        path = urlsplit(self.path).path
        part, _, what = path.removeprefix("/").partition("/")
        if part in PARTS and what == "asked":
            return Response(HTTPStatus.OK, [asdict(one) for one in self.server.cxone.asked(part)])
        if match := _CONTACT.fullmatch(path):
            name = unquote(match[1])
            ok = self.server.cxone.open(name, self.headers.get("Authorization", ""))
            return self._answer("contacts", name, name, ok)
        if path.startswith("/.well-known/"):
            return self._answer("discovery", path, self.path, self._endpoints(path))
        raise RefusedError(HTTPStatus.NOT_FOUND, "no such path")

    def _endpoints(self, path: str) -> Response:
        url = self.server.url
        tenant = parse_qs(urlsplit(self.path).query).get("tenantId")
        match path:
            case "/.well-known/openid-configuration":
                return Response(
                    HTTPStatus.OK, {"issuer": url, "token_endpoint": f"{url}/auth/token"}
                )
            case "/.well-known/cxone-configuration" if tenant == [TENANT]:
                return Response(HTTPStatus.OK, {"area": "na1", "api_endpoint": url})
        return Response(HTTPStatus.NOT_FOUND, {"error": "no such tenant"})

    def _answer(self, part: str, what: str, request: str, ok: Response) -> Response | None:
        behaviour = self.server.cxone.next(part, request)
        answered = ok.status if behaviour.answers == HTTPStatus.OK else behaviour.answers
        self.server.cxone.record(part, what, answered)
        _log.info("%s %s: %s", part, behaviour.mode, answered)
        return self.behave(behaviour, lambda: ok)


def _pair(authorization: str) -> str:
    """Return client id and secret of Basic authentication, as RFC 6749 defines it."""
    try:
        coded = base64.b64decode(authorization.removeprefix("Basic ")).decode()
    except ValueError:
        return ""
    return ":".join(map(unquote_plus, coded.split(":", 1)))


def main() -> None:
    """Serve until SIGTERM, for the client in ``CXONE_CLIENT_ID`` and ``CXONE_CLIENT_SECRET``."""
    parser = argparse.ArgumentParser(prog="python -m embedded.stubs.cxone", description=__doc__)
    parser.add_argument("--port", type=int, default=9090)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    client = f"{os.environ['CXONE_CLIENT_ID']}:{os.environ['CXONE_CLIENT_SECRET']}"
    Cxone(parser.parse_args().port, client).serve()


if __name__ == "__main__":
    main()
