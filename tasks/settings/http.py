"""What settings say of HTTP: TLS files, OAuth grants, and the time budgets of calls."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from tasks.events import canonical_json

BODY_READ_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM files: whom to trust instead of the usual authorities, and the certificate we show."""

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

#: Time-outs of the token endpoint: to connect, to answer.
TOKEN_TIMEOUT = (2, 5)

#: Seconds that others wait for the one who asks.
TOKEN_WAIT = 8

#: The longest that ``Tokens.get`` may take, in seconds: others asked in vain, then it asks.
MAX_TOKEN_SECONDS = TOKEN_WAIT + sum(TOKEN_TIMEOUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthGrant:
    """What an access token is asked for with.

    ``name`` is whose tokens they are; ``settings`` names the variables to look at when the
    endpoint refuses; ``form`` are the fields of the request (``grant_type``, …); ``client`` is a
    client id and secret, which go into HTTP Basic authentication.
    """

    name: str
    settings: str
    url: str = field(repr=False)
    form: Mapping[str, str] = field(repr=False)
    client: tuple[str, str] | None = field(default=None, repr=False)
    tls: Tls = DEFAULT_TLS

    @property
    def key(self) -> str:
        """Where its token is kept: other credentials, other token."""
        asked = canonical_json([self.url, self.form, self.client])
        return f"oauth.{self.name}.{hashlib.sha256(asked).hexdigest()[:16]}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown."""
        return (*self.form.values(), *(self.client or ()))
