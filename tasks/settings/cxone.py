"""The API that interactions' contexts come from: ``CXONE_…``, all absent to switch contexts off."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from tasks.settings.environment import (
    PLAIN_HTTP,
    Reader,
    integer,
    is_safe,
    matching,
    one_of,
    printable,
    setting,
    url_to_call,
    variables_of_class,
)
from tasks.settings.http import BODY_READ_TIMEOUT, MAX_TOKEN_SECONDS

#: Where NICE publishes the endpoints of a tenant (docs/facts.md, N1).
DEFAULT_DISCOVERY_URL = "https://cxone.niceincontact.com"

#: Stands for the interaction's id in ``CXONE_CONTACT_PATH``.
ID_PLACEHOLDER = "{interactionId}"


class GrantType(StrEnum):
    """How an access token is requested."""

    CLIENT_CREDENTIALS = "client_credentials"
    PASSWORD = "password"  # noqa: S105 - with an access key


@dataclass(frozen=True, slots=True, kw_only=True)
class CxoneSettings:
    """How this process calls CXone's REST API. Its repr shows no secret.

    A URL that is None is discovered. Times are seconds.
    """

    token_url: str | None = setting(
        url_to_call,
        "Where access tokens are issued; absent: discovered.",
        "https://cxone.niceincontact.com/auth/token",
    )
    api_url: str | None = setting(
        url_to_call,
        "Base of the REST API; absent: discovered.",
        "https://api-na1.niceincontact.com",
    )
    discovery_url: str = setting(
        url_to_call,
        f"Where `/.well-known/…` names those two; absent: `{DEFAULT_DISCOVERY_URL}`.",
        DEFAULT_DISCOVERY_URL,
    )
    tenant_id: str | None = setting(
        matching(r"[A-Za-z0-9-]{1,64}", "a tenant's id"),
        "Tenant whose API base is discovered.",
        "11eb0000-aaaa-bbbb-cccc-0242ac110002",
    )
    client_id: str = setting(printable, "Id of the OAuth client.", "cxone-events")
    client_secret: str = setting(printable, "Its secret.", "a-long-random-secret", secret=True)
    grant: GrantType = setting(
        one_of(GrantType),
        "`client_credentials`, or `password`: an access key, with the client under Basic "
        "authentication.",
        "password",
        "client_credentials",
    )
    access_key_id: str | None = setting(
        printable, "Id of the access key.", "AKEXAMPLE====", secret=True
    )
    access_key_secret: str | None = setting(
        printable, "Its secret.", "a-long-random-secret", secret=True
    )
    scope: str = setting(printable, "Scope to request.", default="view:interactions")
    contact_path: str = setting(
        matching(r"/[!-z|~]*\{interactionId\}[!-z|~]*", f"a path with {ID_PLACEHOLDER} in it"),
        "Path of an interaction's context in the API, with the version.",
        f"/incontactapi/services/v34.0/contacts/{ID_PLACEHOLDER}",
        f"/incontactapi/services/v30.0/contacts/{ID_PLACEHOLDER}",
    )
    max_attempts: int = setting(
        integer(1, 10), "Tries to get it, at most.", default="3", name="MAX_TRIES"
    )
    timeout: int = setting(
        integer(1, 300),
        "Time that they may take together, waits included.",
        default="10",
        name="TIMEOUT_SECONDS",
    )
    read_timeout: int = setting(
        integer(1, 300), "Time to answer one call.", default="4", name="READ_TIMEOUT_SECONDS"
    )
    cache: int = setting(
        integer(0, 3_600),
        "How long a context is cached for further events of its interaction; 0: not at all.",
        default="60",
        name="CACHE_SECONDS",
    )
    wait: int = setting(
        integer(0, 7 * 86_400),
        "How long after its receipt an event waits for its context, on the schedule of "
        "`REDRIVE_SCHEDULE_SECONDS`, before it is delivered without; 0: not at all.",
        "3600",
        "0",
        name="WAIT_SECONDS",
    )
    allow_http: bool = False

    @property
    def client(self) -> tuple[str, str]:
        """Id and secret of the OAuth client."""
        return self.client_id, self.client_secret

    @property
    def form(self) -> dict[str, str]:
        """The fields of a request for a token."""
        form = {"grant_type": self.grant.value, "scope": self.scope}
        if self.access_key_id and self.access_key_secret:
            form |= {"username": self.access_key_id, "password": self.access_key_secret}
        return form

    @property
    def credentials(self) -> str:
        """The variables to look at when the credentials are refused."""
        return ", ".join(VARIABLES[part].name for part in (*_required(self.grant), "scope"))

    @property
    def max_seconds(self) -> int:
        """The longest that getting a context may take: a call begun in time may end later."""
        return self.timeout + MAX_TOKEN_SECONDS + round(BODY_READ_TIMEOUT)


VARIABLES = variables_of_class(CxoneSettings, "CXONE_")

_ACCESS_KEY = ("access_key_id", "access_key_secret")
_URLS = ("token_url", "api_url", "discovery_url")

#: Each of these switches contexts on.
SWITCHES = (*_URLS, "tenant_id", "client_id", "client_secret", *_ACCESS_KEY)


def read_cxone(reader: Reader, *, allow_http: bool) -> CxoneSettings | None:
    """Read the settings; None where contexts are off, or something is wrong, which is recorded."""
    values = reader.read_group(VARIABLES, partial(_check_constraints, allow_http=allow_http))
    if not values or not any(values[part] for part in SWITCHES):
        return None
    values["discovery_url"] = (values["discovery_url"] or DEFAULT_DISCOVERY_URL).rstrip("/")
    return CxoneSettings(**values, allow_http=allow_http)


def _required(grant: GrantType) -> tuple[str, ...]:
    keys = _ACCESS_KEY if grant is GrantType.PASSWORD else ()
    return ("client_id", "client_secret", *keys)


def _check_constraints(values: Mapping[str, Any], *, allow_http: bool) -> Iterator[str]:
    """Yield what is wrong with settings of which each is right by itself."""
    given = [part for part in SWITCHES if values[part]]
    if not given:
        return
    for part in _required(values["grant"]):
        if not values[part]:
            yield VARIABLES[part].problem(f"missing, though {VARIABLES[given[0]].name} is set")
    if not values["api_url"] and not values["tenant_id"]:
        yield VARIABLES["api_url"].problem("missing, and CXONE_TENANT_ID, to discover it by, too")
    keys = [part for part in _ACCESS_KEY if values[part]]
    if keys and values["grant"] is not GrantType.PASSWORD:
        yield VARIABLES["grant"].problem(f"not password, though {VARIABLES[keys[0]].name} is set")
    for part in _URLS:
        if values[part] and not (allow_http or is_safe(values[part])):
            yield VARIABLES[part].problem(PLAIN_HTTP)
