"""Who is there, and what they may do: the same for Flower's pages, its API and our pages.

Operators look and act, readers only look. ``Guard`` stands before every handler, so it does not
depend on a handler whether a request that would change something is let through.
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

from dashboard.formatting import ago, clock
from tasks.settings import settings

#: Scripts and styles of ours.
STATIC = Path(__file__).parents[1] / "static"

#: Days that a login by OAuth lasts. With basic authentication it lasts as long as the browser.
SESSION_DAYS = 0.5

#: Methods that change nothing.
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who is signed in."""

    name: str
    may_act: bool

    def __str__(self) -> str:
        return self.name


def from_basic(header: str, operators: Sequence[str], readers: Sequence[str]) -> Person | None:
    """Tell who sent this ``Authorization`` header; accounts are ``user:password``.

    It takes the same time whoever it is, or is not.
    """
    scheme, _, encoded = header.partition(" ")
    try:
        given = b64decode(encoded, validate=True)
    except ValueError:
        return None
    known = [
        (Person(account.partition(":")[0], may_act), hmac.compare_digest(account.encode(), given))
        for accounts, may_act in ((operators, True), (readers, False))
        for account in accounts
    ]
    found = [person for person, is_same in known if is_same]
    return found[0] if found and scheme.lower() == "basic" else None


class Guard(BaseHandler):
    """What stands before a handler of Flower or of ours, as its first base class."""

    application: Any  # Flower
    current_user: Any  # a Person, or None

    #: Whether a POST to it changes nothing.
    only_reads = False

    def set_default_headers(self) -> None:
        """Keep other sites from framing what people click on."""
        super().set_default_headers()
        self.set_header("X-Frame-Options", "DENY")
        self.set_header("Content-Security-Policy", "frame-ancestors 'none'")
        self.set_header("Referrer-Policy", "same-origin")

    def get_current_user(self) -> Person | None:
        """Tell who is there; None if they have to sign in by OAuth first.

        Raises:
            HTTPError: 401, to be asked for user and password.
        """
        options = self.application.options
        if not options.auth and not options.basic_auth:
            raise HTTPError(401)  # never without authentication, whatever the command line says
        person = None
        if options.basic_auth:
            readers = (settings().flower_readonly_auth or "").split(",")
            header = self.request.headers.get("Authorization", "")
            person = from_basic(header, options.basic_auth, list(filter(None, readers)))
            if person is None:
                raise HTTPError(401)
        return self._from_cookie(person) if options.auth else person

    def _from_cookie(self, person: Person | None) -> Person | None:
        """Tell who signed in by OAuth; who is a reader by password as well can but look."""
        cookie = self.get_secure_cookie("user", max_age_days=SESSION_DAYS)
        email = cookie.decode() if cookie else ""
        if not email or not authenticate(self.application.options.auth, email):
            return None
        operators = settings().flower_operators
        may_act = operators is None or email.lower() in operators
        return Person(email, may_act and (person is None or person.may_act))

    @property
    def may_act(self) -> bool:
        """Whether whoever is there may change something."""
        person = self.current_user
        return person is not None and person.may_act and not self.application.options.read_only

    def prepare(self) -> Any:
        """Stop what would change something, unless an operator asks for it."""
        if self.request.method not in SAFE and not self.only_reads and not self.may_act:
            raise HTTPError(403, "Only operators may do this.")
        return super().prepare()

    def get_template_namespace(self) -> dict[str, Any]:
        """Give templates what they need of us."""
        ours = {"asset": self.asset, "may_act": self.may_act, "ago": ago, "clock": clock}
        return super().get_template_namespace() | ours

    def asset(self, name: str) -> str:
        """Return the URL of a static file of ours, which changes with its content."""
        version = StaticFileHandler.get_version({"static_path": str(STATIC)}, name)
        return f"{self.reverse_url('asset', name)}?v={version}"

    def render(self, *args: Any, **kwargs: Any) -> Any:
        """Render; Flower's templates leave out their buttons for who may not act."""
        if "read_only" in kwargs:
            kwargs["read_only"] = not self.may_act
        return super().render(*args, **kwargs)


def guarded(handler: type[BaseHandler], *, only_reads: bool = False) -> type[BaseHandler]:
    """Put the guard before a handler of Flower."""
    return type(handler.__name__, (Guard, handler), {"only_reads": only_reads})
