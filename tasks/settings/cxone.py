"""Where interactions' contexts come from: ``CXONE_…``, all of them absent to do without."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tasks.settings.environment import (
    PLAIN_HTTP,
    Reader,
    Variable,
    integer,
    is_safe,
    matching,
    one_of,
    printable,
    url_to_call,
)
from tasks.settings.http import BODY_READ_TIMEOUT, MAX_TOKEN_SECONDS

#: Where NICE tells the endpoints of a tenant (FACTS, NICE CXone).
DEFAULT_DISCOVERY_URL = "https://cxone.niceincontact.com"

#: Stands for the interaction's id in ``CXONE_CONTACT_PATH``.
ID_PLACEHOLDER = "{interactionId}"


class GrantType(StrEnum):
    """How an access token is asked for."""

    CLIENT_CREDENTIALS = "client_credentials"
    PASSWORD = "password"  # noqa: S105 - with an access key


@dataclass(frozen=True, slots=True, kw_only=True)
class CxoneSettings:
    """CXone's REST API, as this process is told to ask it. Its repr shows no secret.

    A URL that is None is to be discovered. Times are seconds.
    """

    token_url: str | None
    api_url: str | None
    discovery_url: str
    tenant_id: str | None
    client: tuple[str, str] = field(repr=False)
    form: Mapping[str, str] = field(repr=False)
    credentials: str  # the variables to look at when they are refused
    contact_path: str
    max_attempts: int
    timeout: int
    read_timeout: int
    cache: int
    wait: int
    allow_http: bool = False

    @property
    def max_seconds(self) -> int:
        """The longest that asking for a context may take: what is begun in time may end later."""
        return self.timeout + MAX_TOKEN_SECONDS + round(BODY_READ_TIMEOUT)


VARIABLES: Mapping[str, Variable] = {
    "token_url": Variable(
        "CXONE_TOKEN_URL",
        "Where access tokens are had; absent: discovered.",
        url_to_call,
        "https://cxone.niceincontact.com/auth/token",
    ),
    "api_url": Variable(
        "CXONE_API_URL",
        "Base of the REST API; absent: discovered.",
        url_to_call,
        "https://api-na1.niceincontact.com",
    ),
    "discovery_url": Variable(
        "CXONE_DISCOVERY_URL",
        f"Where `/.well-known/…` tells those two; absent: `{DEFAULT_DISCOVERY_URL}`.",
        url_to_call,
        DEFAULT_DISCOVERY_URL,
    ),
    "tenant_id": Variable(
        "CXONE_TENANT_ID",
        "Tenant whose API base is discovered.",
        matching(r"[A-Za-z0-9-]{1,64}", "a tenant's id"),
        "11eb0000-aaaa-bbbb-cccc-0242ac110002",
    ),
    "client_id": Variable("CXONE_CLIENT_ID", "Id of the OAuth client.", printable, "cxone-events"),
    "client_secret": Variable(
        "CXONE_CLIENT_SECRET", "Its secret.", printable, "a-long-random-secret", secret=True
    ),
    "grant": Variable(
        "CXONE_GRANT",
        "`client_credentials`, or `password`: with an access key, under Basic client "
        "authentication.",
        one_of(GrantType),
        "password",
        "client_credentials",
    ),
    "access_key_id": Variable(
        "CXONE_ACCESS_KEY_ID", "Id of the access key.", printable, "AKEXAMPLE====", secret=True
    ),
    "access_key_secret": Variable(
        "CXONE_ACCESS_KEY_SECRET", "Its secret.", printable, "a-long-random-secret", secret=True
    ),
    "scope": Variable(
        "CXONE_SCOPE", "Scope to ask for.", printable, "view:interactions", "view:interactions"
    ),
    "contact_path": Variable(
        "CXONE_CONTACT_PATH",
        "Where the API has an interaction's context: version and path.",
        matching(r"/[!-z|~]*\{interactionId\}[!-z|~]*", f"a path with {ID_PLACEHOLDER} in it"),
        f"/incontactapi/services/v34.0/contacts/{ID_PLACEHOLDER}",
        f"/incontactapi/services/v30.0/contacts/{ID_PLACEHOLDER}",
    ),
    "max_attempts": Variable(
        "CXONE_MAX_TRIES", "Tries to get it, at most.", integer(1, 10), "3", "3"
    ),
    "timeout": Variable(
        "CXONE_TIMEOUT_SECONDS",
        "Time that they may take together, waits included.",
        integer(1, 300),
        "10",
        "10",
    ),
    "read_timeout": Variable(
        "CXONE_READ_TIMEOUT_SECONDS", "Time to answer one call.", integer(1, 300), "4", "4"
    ),
    "cache": Variable(
        "CXONE_CACHE_SECONDS",
        "How long a context is kept for further events of its interaction; 0: not at all.",
        integer(0, 3_600),
        "60",
        "60",
    ),
    "wait": Variable(
        "CXONE_WAIT_SECONDS",
        "How long after its receipt an event waits for its context, on the schedule of "
        "`REDRIVE_SCHEDULE_SECONDS`, before it goes without; 0: it goes at once.",
        integer(0, 7 * 86_400),
        "3600",
        "0",
    ),
}

_ACCESS_KEY = ("access_key_id", "access_key_secret")
_URLS = ("token_url", "api_url", "discovery_url")

#: What switches contexts on, each by itself.
SWITCHES = (*_URLS, "tenant_id", "client_id", "client_secret", *_ACCESS_KEY)


def configure(reader: Reader, *, allow_http: bool) -> CxoneSettings | None:
    """Read the settings; None where contexts are off, or something is wrong, which is noted."""
    known = len(reader.problems)
    values = {part: reader.read(variable) for part, variable in VARIABLES.items()}
    given = [part for part in SWITCHES if values[part]]
    if not given:
        return None
    if len(reader.problems) == known:
        reader.problems += _check_constraints(values, given[0], allow_http=allow_http)
    if len(reader.problems) > known:
        return None
    keyed = values["grant"] is GrantType.PASSWORD
    return CxoneSettings(
        **{part: values[part] for part in ("token_url", "api_url", "tenant_id", "contact_path")},
        **{
            part: values[part]
            for part in ("max_attempts", "timeout", "read_timeout", "cache", "wait")
        },
        discovery_url=(values["discovery_url"] or DEFAULT_DISCOVERY_URL).rstrip("/"),
        client=(values["client_id"], values["client_secret"]),
        form={
            "grant_type": values["grant"].value,
            **({"username": values["access_key_id"]} if keyed else {}),
            **({"password": values["access_key_secret"]} if keyed else {}),
            "scope": values["scope"],
        },
        credentials=", ".join(
            VARIABLES[part].name
            for part in ("client_id", "client_secret", *(_ACCESS_KEY if keyed else ()), "scope")
        ),
        allow_http=allow_http,
    )


def _check_constraints(values: Mapping[str, Any], given: str, *, allow_http: bool) -> Iterator[str]:
    """Tell which settings, each right by itself, do not go together."""
    keyed = values["grant"] is GrantType.PASSWORD
    for part in ("client_id", "client_secret", *(_ACCESS_KEY if keyed else ())):
        if not values[part]:
            yield VARIABLES[part].problem(f"missing, though {VARIABLES[given].name} is set")
    if not values["api_url"] and not values["tenant_id"]:
        yield VARIABLES["api_url"].problem("missing, and CXONE_TENANT_ID, to discover it by, too")
    if not keyed and (key := next((part for part in _ACCESS_KEY if values[part]), None)):
        yield VARIABLES["grant"].problem(f"not password, though {VARIABLES[key].name} is set")
    for part in _URLS:
        if values[part] and not (allow_http or is_safe(values[part])):
            yield VARIABLES[part].problem(PLAIN_HTTP)
