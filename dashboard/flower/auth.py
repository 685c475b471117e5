"""Authentication and authorization: one check before every handler of Flower and the dashboard.

Operators may view and change, readers may only view. Because ``Guard`` runs before every handler,
no handler has to decide whether a request that changes something is allowed.
"""

import hmac
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flower.utils.authentication import authenticate
from flower.views import BaseHandler
from tornado.web import HTTPError, StaticFileHandler

from dashboard.formatting import ago, clock, plural
from tasks.settings import settings

#: Scripts and styles of the dashboard.
STATIC = Path(__file__).parents[1] / "static"

#: How long a login by OAuth is valid, in days. Basic authentication has no end of its own.
SESSION_DAYS = 0.5

#: How templates format times and counts.
_FORMATTING = {"ago": ago, "clock": clock, "plural": plural}

#: HTTP methods that change nothing.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class User:
    """A signed-in user."""

    name: str
    is_operator: bool

    def __str__(self) -> str:
        return self.name


def from_basic(header: str, operators: Sequence[str], readers: Sequence[str]) -> User | None:
    """Return the user of an ``Authorization`` header; accounts are ``user:password``.

    Compares with every account in constant time.
    """
    scheme, _, encoded = header.partition(" ")
    try:
        given = b64decode(encoded, validate=True)
    except ValueError:
        return None
    matches = [
        (User(account.partition(":")[0], is_operator), hmac.compare_digest(account.encode(), given))
        for accounts, is_operator in ((operators, True), (readers, False))
        for account in accounts
    ]
    found = [user for user, is_same in matches if is_same]
    return found[0] if found and scheme.lower() == "basic" else None


class Guard(BaseHandler):
    """The first base class of every handler: who the user is, and what they may do."""

    application: Any  # Flower
    current_user: Any  # a User, or None

    #: Whether a POST to it changes nothing.
    only_reads = False

    def set_default_headers(self) -> None:
        """Forbid other sites to show a page in a frame."""
        super().set_default_headers()
        self.set_header("X-Frame-Options", "DENY")
        self.set_header("Content-Security-Policy", "frame-ancestors 'none'")
        self.set_header("Referrer-Policy", "same-origin")

    def get_current_user(self) -> User | None:
        """Return the user; None if they have to sign in by OAuth first.

        Raises:
            HTTPError: 401, for which a browser asks for user and password.
        """
        options = self.application.options
        if not options.auth and not options.basic_auth:
            raise HTTPError(401)  # never without authentication, whatever the command line says
        user = None
        if options.basic_auth:
            readers = (settings().flower_readonly_auth or "").split(",")
            header = self.request.headers.get("Authorization", "")
            user = from_basic(header, options.basic_auth, list(filter(None, readers)))
            if user is None:
                raise HTTPError(401)
        return self._from_cookie(user) if options.auth else user

    def _from_cookie(self, user: User | None) -> User | None:
        """Return who signed in by OAuth; a reader by basic authentication remains a reader."""
        cookie = self.get_secure_cookie("user", max_age_days=SESSION_DAYS)
        email = cookie.decode() if cookie else ""
        if not email or not authenticate(self.application.options.auth, email):
            return None
        operators = settings().flower_operators
        is_operator = operators is None or email.lower() in operators
        return User(email, is_operator and (user is None or user.is_operator))

    @property
    def is_operator(self) -> bool:
        """Whether the current user may change something."""
        user = self.current_user
        return user is not None and user.is_operator and not self.application.options.read_only

    def prepare(self) -> Any:
        """Refuse a request that changes something unless an operator sent it."""
        if self.request.method not in SAFE_METHODS and not self.only_reads and not self.is_operator:
            raise HTTPError(403, "Only operators may do this.")
        return super().prepare()

    def get_template_namespace(self) -> dict[str, Any]:
        """Add the names that the dashboard's templates use."""
        names = {"asset": self.asset, "is_operator": self.is_operator}
        return super().get_template_namespace() | names | _FORMATTING

    def asset(self, name: str) -> str:
        """Return the URL of one of the dashboard's static files; it changes with the content."""
        version = StaticFileHandler.get_version({"static_path": str(STATIC)}, name)
        return f"{self.reverse_url('asset', name)}?v={version}"

    def render(self, *args: Any, **kwargs: Any) -> Any:
        """Render; for readers, Flower's templates leave out the buttons that change something."""
        if "read_only" in kwargs:
            kwargs["read_only"] = not self.is_operator
        return super().render(*args, **kwargs)


def guarded(
    handler: type[BaseHandler], guard: type[Guard] = Guard, *, only_reads: bool = False
) -> type[BaseHandler]:
    """Return a handler of Flower with the check before it."""
    return type(handler.__name__, (guard, handler), {"only_reads": only_reads})
