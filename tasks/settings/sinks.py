"""The settings of each sink: its file declares defaults, the environment overrides them."""

import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tasks.errors import SettingsError
from tasks.events import EventType
from tasks.settings.cxone import CxoneSettings
from tasks.settings.environment import PLAIN_HTTP, Reader, Variable, is_safe
from tasks.settings.http import DEFAULT_TLS, MAX_TOKEN_SECONDS, OAuthGrant, Tls
from tasks.settings.sink_table import SIGNING_PREFIX, Credential, variables_of
from tasks.sinks.base import ALL_TYPES, Policy, Sink

#: Seconds that a process waits for a sink's rate and concurrency limits, if it has some.
ACQUIRE_TIMEOUT = 10.0

_CREDENTIALS = ("bearer_token", "basic_auth", "api_key")
_OAUTH = ("oauth_token_url", "oauth_client_id", "oauth_client_secret", "oauth_scope")


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSettings:
    """How this process calls one sink. Its repr shows no secret."""

    sink: Sink
    policy: Policy
    event_types: frozenset[EventType] = ALL_TYPES
    url: str | None = field(default=None, repr=False)  # a path may hold a token
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    credential: Credential | None = None
    grant: OAuthGrant | None = None
    signing_secrets: tuple[str, ...] = field(default=(), repr=False)
    tls: Tls = DEFAULT_TLS
    context_seconds: int = 0  # the longest wait for an interaction's context

    @property
    def endpoint(self) -> str:
        """Its URL.

        Raises:
            SettingsError: It is not set; a worker does not start without it.
        """
        if self.url is None:
            raise SettingsError([f"{self.sink.endpoint_variable}: missing"])
        return self.url

    @property
    def authentication(self) -> str | None:
        """The kind of authentication: bearer, basic, API key, OAuth, or None."""
        if self.grant:
            return "OAuth"
        return self.credential.kind if self.credential else None

    @property
    def attempt_timeout(self) -> int:
        """The longest that one attempt may take, in seconds: with OAuth it may be two calls."""
        call = self.policy.attempt_timeout
        calls = 2 * (call + MAX_TOKEN_SECONDS) if self.grant else call
        return calls + self.context_seconds

    @property
    def acquire_timeout(self) -> float:
        """Seconds that a process waits for the sink's rate and concurrency limits.

        The wait blocks the process on purpose, so that further messages stay in the queue; a worker
        that kept reserving messages would only hoard them.
        """
        return ACQUIRE_TIMEOUT if self.policy.rate or self.policy.concurrency else 0.0

    @property
    def time_limit(self) -> int:
        """Seconds after which a delivering process is killed, if nothing else has ended it."""
        return self.attempt_timeout + int(self.acquire_timeout) + 15

    @property
    def max_delivery_seconds(self) -> int:
        """The longest that all attempts of a dispatch together may take, in seconds."""
        attempts = self.policy.max_attempts
        return attempts * self.attempt_timeout + (attempts - 1) * self.policy.max_wait

    @property
    def secrets(self) -> Iterator[str]:
        """The texts to redact wherever they appear; any part of the URL may be a token."""
        if self.credential:
            yield from self.credential.secrets
        if self.grant:
            yield from self.grant.secrets
        yield from (
            secret.removeprefix(SIGNING_PREFIX).rstrip("=") for secret in self.signing_secrets
        )
        yield from self.headers.values()
        parts = urlsplit(self.url or "")
        yield from (parts.path, *parts.path.split("/"))
        yield from (parts.query, *(value for _, value in parse_qsl(parts.query)))


def read_sink(
    sink: Sink, reader: Reader, *, allow_http: bool, cxone: CxoneSettings | None = None
) -> SinkSettings | None:
    """Read a sink's settings; None where something is wrong, which is recorded.

    ``cxone`` is where contexts come from, for the sinks that get them.
    """
    variables = variables_of(sink)
    check = partial(_check_constraints, variables, allow_http=allow_http)
    values = reader.read_group(variables, check)
    if values is None:
        return None
    tls = Tls(**{part.name: values[part.name] for part in fields(Tls)})
    return SinkSettings(
        sink=sink,
        policy=Policy(**{part.name: values[part.name] for part in fields(Policy)}),
        event_types=values["event_types"],
        url=values["url"],
        headers=values["headers"] or {},
        credential=next(filter(None, [values[kind] for kind in _CREDENTIALS]), None),
        grant=_grant(sink, variables, values, tls) if values["oauth_token_url"] else None,
        signing_secrets=values["signing_secrets"] or (),
        tls=tls,
        context_seconds=cxone.max_seconds if cxone and sink.context else 0,
    )


def _grant(
    sink: Sink, variables: Mapping[str, Variable], values: Mapping[str, Any], tls: Tls
) -> OAuthGrant:
    scope = {"scope": values["oauth_scope"]} if values["oauth_scope"] else {}
    return OAuthGrant(
        name=sink.name,
        settings=", ".join(variables[part].name for part in _OAUTH),
        url=values["oauth_token_url"],
        form={"grant_type": "client_credentials", **scope},
        client=(values["oauth_client_id"], values["oauth_client_secret"]),
        tls=tls,
    )


def _check_constraints(
    variables: Mapping[str, Variable], values: Mapping[str, Any], *, allow_http: bool
) -> Iterator[str]:
    """Yield what is wrong with settings of a sink of which each is right by itself."""
    for part in ("url", "oauth_token_url"):
        if values[part] and not (allow_http or is_safe(values[part])):
            yield variables[part].problem(PLAIN_HTTP)
    yield from _check_authentication(variables, values)
    cert, key = values["cert_file"], values["key_file"]
    if cert and not _is_pair(cert, key):
        yield variables["cert_file"].problem(
            "not PEM files of a certificate and its unencrypted key that can be read"
        )
    if key and not cert:
        yield variables["cert_file"].problem(f"missing, though {variables['key_file'].name} is set")


def _check_authentication(
    variables: Mapping[str, Variable], values: Mapping[str, Any]
) -> Iterator[str]:
    credentials = [kind for kind in _CREDENTIALS if values[kind]]
    given = [part for part in _OAUTH if values[part]]
    kinds = [variables[part] for part in (*credentials, *given[:1])]
    for other in kinds[1:]:
        yield other.problem(f"beside {kinds[0].name}, but a sink has one kind of authentication")
    for part in _OAUTH[:3]:
        if given and not values[part]:
            yield variables[part].problem(f"missing, though {variables[given[0]].name} is set")
    for kind in credentials:
        if values[kind].header.lower() in map(str.lower, values["headers"] or ()):
            yield variables["headers"].problem(f"holds the header of {variables[kind].name}")


def _is_pair(cert: str, key: str | None) -> bool:
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password="")
    except (OSError, ValueError):
        return False
    return True
