"""The variables that each sink has, ``<NAME>_…``, and how their texts are read."""

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tasks.events import EventType
from tasks.settings.environment import (
    Role,
    Variable,
    ca_file,
    integer,
    number,
    printable,
    url_to_call,
)
from tasks.sinks.base import Policy, Sink

#: Headers that are ours to send; ``Webhook-`` begins the names of more.
RESERVED_HEADERS = (
    "Idempotency-Key",
    "Content-Type",
    "Content-Length",
    "Transfer-Encoding",
    "Host",
    "Webhook-",
)

#: What a secret of Standard Webhooks begins with; 24 to 64 random bytes in base64 follow.
SIGNING_PREFIX = "whsec_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A header that tells a sink who calls. ``kind`` is bearer, basic or API key."""

    kind: str
    header: str
    value: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)


# ── Parsers ───────────────────────────────────────────────────────────────────────────────────


def _event_types(text: str) -> frozenset[EventType]:
    names = {name.strip() for name in text.split(",")}
    if not names <= set(EventType):
        raise ValueError(f"not some of {', '.join(EventType)}, comma-separated")
    return frozenset(map(EventType, names))


def _headers(text: str) -> dict[str, str]:
    try:
        headers = json.loads(text)
    except (ValueError, RecursionError):
        headers = None
    if not isinstance(headers, dict) or not all(isinstance(v, str) for v in headers.values()):
        raise ValueError("not a JSON object of headers and their values")
    for name, value in headers.items():
        _check_header(name, value)
        if name.lower() == "authorization":
            raise ValueError("Authorization has settings of its own: BEARER_TOKEN, BASIC_AUTH, …")
    if len({name.lower() for name in headers}) < len(headers):
        raise ValueError("a header stands there twice")
    return headers


def _check_header(name: str, value: str) -> None:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise ValueError("not a header's name before its value")
    if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value):
        raise ValueError("not a header's value: printable ASCII")
    if name.title() in RESERVED_HEADERS or name.title().startswith("Webhook-"):
        raise ValueError(f"{', '.join(RESERVED_HEADERS)}… are ours to send")


def _bearer_token(text: str) -> Credential:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("not a token of printable ASCII")
    return Credential(
        kind="bearer", header="Authorization", value=f"Bearer {text}", secrets=(text,)
    )


def _basic_auth(text: str) -> Credential:
    user, _, password = text.partition(":")
    if not user or not password or not text.isprintable():
        raise ValueError("not user:password")
    coded = base64.b64encode(text.encode("utf-8", "replace")).decode()
    return Credential(
        kind="basic",
        header="Authorization",
        value=f"Basic {coded}",
        secrets=(text, user, password, coded),
    )


def _api_key(text: str) -> Credential:
    name, _, value = (part.strip() for part in text.partition(":"))
    _check_header(name, value)
    return Credential(kind="API key", header=name, value=value, secrets=(value, *value.split()))


def _signing_secrets(text: str) -> tuple[str, ...]:
    secrets = tuple(secret.strip() for secret in text.split(","))
    if not all(map(_is_signing_secret, secrets)):
        raise ValueError(f"not {SIGNING_PREFIX} and 24 to 64 bytes in base64, comma-separated")
    return secrets


def _is_signing_secret(text: str) -> bool:
    try:
        key = base64.b64decode(text.removeprefix(SIGNING_PREFIX), validate=True)
    except ValueError:
        return False
    return text.startswith(SIGNING_PREFIX) and 24 <= len(key) <= 64


# ── Variables ─────────────────────────────────────────────────────────────────────────────────


class _Part(NamedTuple):
    """A variable that each sink has: the end of its name, and the default that is declared."""

    suffix: str
    parse: Callable[[str], Any]
    doc: str
    example: str
    declared: Callable[[Sink], str | None] = lambda _: None
    needed_by: frozenset[Role] = frozenset()
    secret: bool = False

    def variable(self, sink: str, default: str | None) -> Variable:
        """Return the variable of the sink of that name."""
        return Variable(
            f"{sink.upper()}_{self.suffix}",
            self.doc,
            self.parse,
            self.example.replace("<name>", sink),
            default,
            self.needed_by,
            self.secret,
        )


_SECONDS = integer(1, 3_600)

#: What of the policy can be set, by the name it has there.
POLICY_VARIABLES = {
    "max_attempts": ("MAX_TRIES", integer(1, 20), "HTTP calls of a delivery, at most."),
    "backoff_base": ("BACKOFF_BASE_SECONDS", _SECONDS, "Longest wait before the second try."),
    "backoff_cap": ("BACKOFF_CAP_SECONDS", _SECONDS, "Longest wait before any try."),
    "retry_after_cap": ("RETRY_AFTER_CAP_SECONDS", _SECONDS, "Longest `Retry-After` obeyed."),
    "connect_timeout": ("CONNECT_TIMEOUT_SECONDS", integer(1, 300), "Time to connect."),
    "read_timeout": ("READ_TIMEOUT_SECONDS", integer(1, 300), "Time to answer."),
    "rate": ("RATE", number(0, 10_000), "Calls a second, of all workers together; 0: any number."),
    "concurrency": ("CONCURRENCY", integer(0, 10_000), "Calls at once, likewise; 0: any number."),
    "breaker_failures": (
        "BREAKER_FAILURES",
        integer(1, 1_000),
        "Failures in a row that open its circuit breaker.",
    ),
    "breaker_seconds": ("BREAKER_SECONDS", _SECONDS, "How long that stays open before a probe."),
}


def _declared(part: str) -> Callable[[Sink], str]:
    return lambda sink: f"{getattr(sink.policy, part):.15g}"


_PARTS: Mapping[str, _Part] = {
    "url": _Part(
        "ENDPOINT",
        url_to_call,
        "Its URL: https, outside loopback.",
        "https://<name>.example.com/events",
        needed_by=frozenset([Role.WORKER]),
        secret=True,  # a path may hold a token
    ),
    "event_types": _Part(
        "EVENT_TYPES",
        _event_types,
        "Event types that it gets, comma-separated.",
        "completed,abandoned",
        lambda sink: ",".join(kind for kind in EventType if kind in sink.event_types),
    ),
    **{
        part: _Part(suffix, parse, doc, f"{getattr(Policy(), part) or 20}", _declared(part))
        for part, (suffix, parse, doc) in POLICY_VARIABLES.items()
    },
    "headers": _Part(
        "HEADERS",
        _headers,
        "Headers sent beside ours: a JSON object.",
        '{"X-Tenant": "acme"}',
        lambda sink: json.dumps(dict(sink.headers)) if sink.headers else None,
        secret=True,
    ),
    "bearer_token": _Part(
        "BEARER_TOKEN",
        _bearer_token,
        "Authentication: a bearer token.",
        "a-long-random-token",
        secret=True,
    ),
    "basic_auth": _Part(
        "BASIC_AUTH",
        _basic_auth,
        "Authentication: user and password.",
        "user:a-long-password",
        secret=True,
    ),
    "api_key": _Part(
        "API_KEY",
        _api_key,
        "Authentication: a header of any name.",
        "X-Api-Key: a-long-random-key",
        secret=True,
    ),
    "oauth_token_url": _Part(
        "OAUTH_TOKEN_URL",
        url_to_call,
        "Authentication: OAuth client credentials; where tokens are had.",
        "https://login.example.com/oauth2/token",
        secret=True,
    ),
    "oauth_client_id": _Part(
        "OAUTH_CLIENT_ID", printable, "Id of the OAuth client.", "cxone-events"
    ),
    "oauth_client_secret": _Part(
        "OAUTH_CLIENT_SECRET",
        printable,
        "Its secret.",
        "a-long-random-secret",
        secret=True,
    ),
    "oauth_scope": _Part("OAUTH_SCOPE", printable, "Scope to ask for.", "events:write"),
    "signing_secrets": _Part(
        "SIGNING_SECRETS",
        _signing_secrets,
        "Secrets to sign with (Standard Webhooks), comma-separated: two during a rotation.",
        "whsec_YW4gZXhhbXBsZSwgbm90IGEgc2VjcmV0",
        secret=True,
    ),
    "ca_file": _Part(
        "CA_FILE",
        ca_file,
        "PEM file of the only certificate authorities to trust, for tokens, too.",
        "/etc/cxone/<name>-ca.pem",
    ),
    "client_cert_file": _Part(
        "CLIENT_CERT_FILE",
        str,
        "PEM file of the certificate that we show.",
        "/etc/cxone/<name>.pem",
    ),
    "client_key_file": _Part(
        "CLIENT_KEY_FILE",
        str,
        "PEM file of its key, unencrypted, where that is a file of its own.",
        "/etc/cxone/<name>.key",
    ),
}


def variables_of(sink: Sink) -> dict[str, Variable]:
    """Return a sink's variables, in the order of the documentation."""
    return {name: part.variable(sink.name, part.declared(sink)) for name, part in _PARTS.items()}


def documented(sinks: Iterable[Sink]) -> Iterator[Variable]:
    """Yield the variables of any sink, ``<NAME>_…``, with the defaults of these."""
    for part in _PARTS.values():
        declared = {sink.name: part.declared(sink) for sink in sinks}
        if len(set(declared.values())) == 1:
            default = next(iter(declared.values()))
        else:
            default = ", ".join(f"{name}: {text or '–'}" for name, text in declared.items())
        yield part.variable("<name>", default)
