"""HTTP in settings: TLS files, OAuth grants, and the time budgets of calls."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from tasks.events import canonical_json

#: Seconds to read the body of a response.
BODY_READ_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM files: authorities to trust instead of the usual ones, and the client certificate."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    @property
    def certificate(self) -> str | tuple[str, str] | None:
        """The certificate, as ``requests`` wants it."""
        if self.cert_file and self.key_file:
            return self.cert_file, self.key_file
        return self.cert_file


DEFAULT_TLS = Tls()

#: Timeouts of the token endpoint in seconds: to connect, to answer.
TOKEN_TIMEOUT = (2, 5)

#: Seconds that a process waits for another one that is requesting the token.
TOKEN_WAIT = 8

#: The longest that ``Tokens.get`` may take, in seconds: another process failed, then it requests.
MAX_TOKEN_SECONDS = TOKEN_WAIT + sum(TOKEN_TIMEOUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthGrant:
    """What an access token is requested with.

    ``name`` is the token's owner, such as a sink; ``settings`` names the variables to look at when
    the endpoint refuses; ``form`` has the fields of the request (``grant_type``, …); ``client`` is
    a client id and secret for HTTP Basic authentication.
    """

    name: str
    settings: str
    url: str = field(repr=False)
    form: Mapping[str, str] = field(repr=False)
    client: tuple[str, str] | None = field(default=None, repr=False)
    tls: Tls = DEFAULT_TLS

    @property
    def key(self) -> str:
        """The Redis key of its token: other credentials have another."""
        request = canonical_json([self.url, self.form, self.client])
        return f"oauth.{self.name}.{hashlib.sha256(request).hexdigest()[:16]}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The texts to redact."""
        return (*self.form.values(), *(self.client or ()))
