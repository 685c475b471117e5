"""The variables that each sink has, ``<NAME>_…``, and how their texts are read."""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

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


#: By what is set with it; ``<NAME>`` and ``<name>`` stand for the sink's.
_VARIABLES: Mapping[str, Variable] = {
    "url": Variable(
        "<NAME>_ENDPOINT",
        "Its URL: https, outside loopback.",
        url_to_call,
        "https://<name>.example.com/events",
        needed_by=frozenset([Role.WORKER]),
        secret=True,  # a path may hold a token
    ),
    "event_types": Variable(
        "<NAME>_EVENT_TYPES",
        "Event types that it gets, comma-separated.",
        _event_types,
        "completed,abandoned",
    ),
    **{
        part: Variable(f"<NAME>_{suffix}", doc, parse, f"{getattr(Policy(), part) or 20}")
        for part, (suffix, parse, doc) in POLICY_VARIABLES.items()
    },
    "headers": Variable(
        "<NAME>_HEADERS",
        "Headers sent beside ours: a JSON object.",
        _headers,
        '{"X-Tenant": "acme"}',
        secret=True,
    ),
    "bearer_token": Variable(
        "<NAME>_BEARER_TOKEN",
        "Authentication: a bearer token.",
        _bearer_token,
        "a-long-random-token",
        secret=True,
    ),
    "basic_auth": Variable(
        "<NAME>_BASIC_AUTH",
        "Authentication: user and password.",
        _basic_auth,
        "user:a-long-password",
        secret=True,
    ),
    "api_key": Variable(
        "<NAME>_API_KEY",
        "Authentication: a header of any name.",
        _api_key,
        "X-Api-Key: a-long-random-key",
        secret=True,
    ),
    "oauth_token_url": Variable(
        "<NAME>_OAUTH_TOKEN_URL",
        "Authentication: OAuth client credentials; where tokens are had.",
        url_to_call,
        "https://login.example.com/oauth2/token",
        secret=True,
    ),
    "oauth_client_id": Variable(
        "<NAME>_OAUTH_CLIENT_ID", "Id of the OAuth client.", printable, "cxone-events"
    ),
    "oauth_client_secret": Variable(
        "<NAME>_OAUTH_CLIENT_SECRET", "Its secret.", printable, "a-long-random-secret", secret=True
    ),
    "oauth_scope": Variable("<NAME>_OAUTH_SCOPE", "Scope to ask for.", printable, "events:write"),
    "signing_secrets": Variable(
        "<NAME>_SIGNING_SECRETS",
        "Secrets to sign with (Standard Webhooks), comma-separated: two during a rotation.",
        _signing_secrets,
        "whsec_YW4gZXhhbXBsZSwgbm90IGEgc2VjcmV0",
        secret=True,
    ),
    "ca_file": Variable(
        "<NAME>_CA_FILE",
        "PEM file of the only certificate authorities to trust, for tokens, too.",
        ca_file,
        "/etc/cxone/<name>-ca.pem",
    ),
    "client_cert_file": Variable(
        "<NAME>_CLIENT_CERT_FILE",
        "PEM file of the certificate that we show.",
        str,
        "/etc/cxone/<name>.pem",
    ),
    "client_key_file": Variable(
        "<NAME>_CLIENT_KEY_FILE",
        "PEM file of its key, unencrypted, where that is a file of its own.",
        str,
        "/etc/cxone/<name>.key",
    ),
}


def variables_of(sink: Sink) -> dict[str, Variable]:
    """Return a sink's variables, in the order of the documentation."""
    declared = {
        "event_types": ",".join(kind for kind in EventType if kind in sink.event_types),
        "headers": json.dumps(dict(sink.headers)) if sink.headers else None,
        **{part: f"{getattr(sink.policy, part):.15g}" for part in POLICY_VARIABLES},
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
        if len(set(defaults.values())) == 1:
            default = next(iter(defaults.values()))
        else:
            default = ", ".join(f"{name}: {text or '–'}" for name, text in defaults.items())
        yield variable._replace(default=default)
