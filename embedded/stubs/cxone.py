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
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, unquote_plus, urlsplit

from embedded.stubs.server import Behaviour, Handler, RefusedError, Response, Stub

#: The scope that contacts require, and those that a client may request.
SCOPE = "view:interactions"
GRANTED = frozenset({SCOPE, "view:agents"})

#: The one tenant that it has.
TENANT = "11eb0000-aaaa-bbbb-cccc-0242ac110002"

#: How long a token is valid, in seconds.
TOKEN_LIFE = 3_600

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


class Cxone(Stub[Asked]):
    """CXone on loopback, from ``with`` to its end; port 0 takes a free one."""

    def __init__(
        self, port: int = 0, client: str = "client:secret", key: str = "key:secret"
    ) -> None:
        """Bind the port. ``client`` and access ``key`` are each ``id:secret``."""
        self.client, self.key = client, key
        self._lock = threading.Lock()
        self._tokens: dict[str, tuple[float, str]] = {}  # when it expires, and its scope
        super().__init__(port, _Handler, PARTS)
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

    def expire(self) -> None:
        """Revoke all tokens."""
        with self._lock:
            self._tokens.clear()

    def asked(self, part: str) -> list[Asked]:
        """Return the requests to a part, oldest first."""
        return self.services[part].requests()

    def issue(self, form: Mapping[str, str], client: str) -> Response:
        """Answer a request for a token, as RFC 6749 defines it."""
        if client != self.client:
            return Response(HTTPStatus.UNAUTHORIZED, {"error": "invalid_client"})
        given = f"{form.get('username')}:{form.get('password')}"
        grant_type = form.get("grant_type")
        scope = form.get("scope", SCOPE)
        error = None
        if grant_type not in ("client_credentials", "password"):
            error = "unsupported_grant_type"
        elif grant_type == "password" and given != self.key:
            error = "invalid_grant"
        elif not set(scope.split()) <= GRANTED:
            error = "invalid_scope"
        if error:
            return Response(HTTPStatus.BAD_REQUEST, {"error": error})
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._tokens[token] = (time.monotonic() + TOKEN_LIFE, scope)
        issued = {"access_token": token, "token_type": "Bearer", "expires_in": TOKEN_LIFE}
        return Response(HTTPStatus.OK, {**issued, "scope": scope})

    def open(self, interaction_id: str, authorization: str) -> Response:
        """Answer a request for a contact."""
        with self._lock:
            expiry, scope = self._tokens.get(authorization.removeprefix("Bearer "), (0.0, ""))
        if time.monotonic() > expiry:
            return Response(HTTPStatus.UNAUTHORIZED, {"error": "token expired"})
        if SCOPE not in scope.split():
            return Response(HTTPStatus.FORBIDDEN, {"error": "insufficient scope"})
        return Response(HTTPStatus.OK, contact(interaction_id))


class _Handler(Handler):
    server: Cxone

    def post(self) -> Response | None:
        """Issue a token."""
        if self.path != "/auth/token":
            raise RefusedError(HTTPStatus.NOT_FOUND, "no such path")
        text = self.text()
        form = dict(parse_qsl(text))
        client = _pair(self.headers.get("Authorization", ""))
        ok = self.server.issue(form, client)
        return self._answer("tokens", form.get("grant_type", ""), text, ok)

    def put(self) -> Response:
        """Set the behaviour of a part, or revoke all tokens."""
        if self.path != "/tokens/expired":
            return super().put()
        self.text()
        self.server.expire()
        return Response(HTTPStatus.OK, {})

    def get(self) -> Response | None:
        """Return a contact or an endpoint, or list the requests to a part."""
        path = urlsplit(self.path).path
        if match := _CONTACT.fullmatch(path):
            name = unquote(match[1])
            ok = self.server.open(name, self.headers.get("Authorization", ""))
            return self._answer("contacts", name, name, ok)
        if path.startswith("/.well-known/"):
            return self._answer("discovery", path, self.path, self._endpoints(path))
        asked = self.service("/asked").requests()
        return Response(HTTPStatus.OK, [asdict(request) for request in asked])

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
        def record(behaviour: Behaviour) -> Asked:
            answered = ok.status if behaviour.answers == HTTPStatus.OK else behaviour.answers
            _log.info("%s %s: %s", part, behaviour.mode, answered)
            return Asked(what, answered)

        return self.behave(self.server.services[part].take(request, record), lambda: ok)


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
