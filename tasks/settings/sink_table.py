"""The variables that each sink has, ``<NAME>_…``, and the parsers of their texts."""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field

from tasks.events import EventType
from tasks.settings.environment import (
    Role,
    Variable,
    ca_file,
    integer,
    named,
    number,
    printable,
    url_to_call,
)
from tasks.sinks.base import Sink

#: Headers that no setting may hold; ``Webhook-`` is a prefix.
_RESERVED_HEADERS = (
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
    """The header that authenticates calls. ``kind`` is bearer, basic or API key."""

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
        raise ValueError("a header is in it twice")
    return headers


def _check_header(name: str, value: str) -> None:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise ValueError("not a header's name before its value")
    if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value):
        raise ValueError("not a header's value: printable ASCII")
    if name.title() in _RESERVED_HEADERS or name.title().startswith("Webhook-"):
        raise ValueError(f"{', '.join(_RESERVED_HEADERS)}… are reserved")


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


_SECONDS = integer(1, 3_600)
_TIMEOUT = integer(1, 300)

#: By what is set with it; ``<name>`` stands for the sink's.
_TABLE = {
    "url": Variable(
        url_to_call,
        "Its URL: https, outside loopback.",
        "https://<name>.example.com/events",
        name="ENDPOINT",
        needed_by=[Role.WORKER],
        secret=True,  # a path may hold a token
    ),
    "event_types": Variable(
        _event_types, "Event types that it gets, comma-separated.", "completed,abandoned"
    ),
    # The policy: the fields of Policy, in their order.
    "max_attempts": Variable(
        integer(1, 20), "HTTP calls of a delivery, at most.", "5", name="MAX_TRIES"
    ),
    "backoff_base": Variable(
        _SECONDS, "Longest wait before the second try.", "1", name="BACKOFF_BASE_SECONDS"
    ),
    "backoff_cap": Variable(
        _SECONDS, "Longest wait before any try.", "30", name="BACKOFF_CAP_SECONDS"
    ),
    "retry_after_cap": Variable(
        _SECONDS, "Longest `Retry-After` obeyed.", "60", name="RETRY_AFTER_CAP_SECONDS"
    ),
    "connect_timeout": Variable(_TIMEOUT, "Time to connect.", "3", name="CONNECT_TIMEOUT_SECONDS"),
    "read_timeout": Variable(_TIMEOUT, "Time to answer.", "10", name="READ_TIMEOUT_SECONDS"),
    "rate": Variable(
        number(0, 10_000), "Calls per second of all workers together; 0: no limit.", "20"
    ),
    "concurrency": Variable(
        integer(0, 10_000), "Calls at once of all workers together; 0: no limit.", "20"
    ),
    "breaker_failures": Variable(
        integer(1, 1_000), "Failures in a row that open its circuit breaker.", "10"
    ),
    "breaker_seconds": Variable(_SECONDS, "How long that stays open before a probe.", "30"),
    "headers": Variable(
        _headers,
        "Further headers of each call: a JSON object.",
        '{"X-Tenant": "acme"}',
        secret=True,
    ),
    "bearer_token": Variable(
        _bearer_token, "Authentication: a bearer token.", "a-long-random-token", secret=True
    ),
    "basic_auth": Variable(
        _basic_auth, "Authentication: user and password.", "user:a-long-password", secret=True
    ),
    "api_key": Variable(
        _api_key,
        "Authentication: a header of any name.",
        "X-Api-Key: a-long-random-key",
        secret=True,
    ),
    "oauth_token_url": Variable(
        url_to_call,
        "Authentication: OAuth client credentials; where tokens are issued.",
        "https://login.example.com/oauth2/token",
        secret=True,
    ),
    "oauth_client_id": Variable(printable, "Id of the OAuth client.", "cxone-events"),
    "oauth_client_secret": Variable(printable, "Its secret.", "a-long-random-secret", secret=True),
    "oauth_scope": Variable(printable, "Scope to request.", "events:write"),
    "signing_secrets": Variable(
        _signing_secrets,
        "Secrets to sign with (Standard Webhooks), comma-separated: two during a rotation.",
        "whsec_YW4gZXhhbXBsZSwgbm90IGEgc2VjcmV0",
        secret=True,
    ),
    "ca_file": Variable(
        ca_file,
        "PEM file of the only certificate authorities to trust, for tokens, too.",
        "/etc/cxone/<name>-ca.pem",
    ),
    "cert_file": Variable(
        str, "PEM file of the client certificate.", "/etc/cxone/<name>.pem", name="CLIENT_CERT_FILE"
    ),
    "key_file": Variable(
        str,
        "PEM file of its key, unencrypted, where that is a file of its own.",
        "/etc/cxone/<name>.key",
        name="CLIENT_KEY_FILE",
    ),
}
_VARIABLES = named("<NAME>_", _TABLE)


def variables_of(sink: Sink) -> dict[str, Variable]:
    """Return a sink's variables, in the order of the documentation."""
    declared = {
        "event_types": ",".join(kind for kind in EventType if kind in sink.event_types),
        "headers": json.dumps(dict(sink.headers)) if sink.headers else None,
        **{part: f"{value:.15g}" for part, value in asdict(sink.policy).items()},
    }
    return {
        part: variable._replace(
            name=variable.name.replace("<NAME>", sink.name.upper()),
            example=variable.example.replace("<name>", sink.name),
            default=declared.get(part),
        )
        for part, variable in _VARIABLES.items()
    }


def documented(sinks: Iterable[Sink]) -> Iterator[Variable]:
    """Yield the variables of any sink, ``<NAME>_…``, with the defaults of these."""
    of_each = {sink.name: variables_of(sink) for sink in sinks}
    for part, variable in _VARIABLES.items():
        defaults = {name: variables[part].default for name, variables in of_each.items()}
        text, *others = set(defaults.values())
        if others:
            text = ", ".join(f"{name}: {text or '–'}" for name, text in defaults.items())
        yield variable._replace(default=text)
