"""What all pages of the dashboard have in common."""

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlencode

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from tornado.web import HTTPError, RequestHandler

from dashboard.flower.auth import Guard
from tasks.claims import Claim
from tasks.errors import ClaimNotFoundError, StoreError
from tasks.runtime import claims as table

P = ParamSpec("P")
T = TypeVar("T")

#: Only what Flower itself serves, and no script or style inside the HTML.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what waits for DynamoDB or Redis in a thread, so that other requests are served.

    Raises:
        HTTPError: 404 for an event without a claim; 503 if one of the two does not answer.
    """
    try:
        return await asyncio.to_thread(function, *args, **kwargs)
    except ClaimNotFoundError as error:
        raise HTTPError(404, str(error)) from error
    except StoreError as error:
        raise HTTPError(503, "DynamoDB does not answer. Try again in a moment.") from error
    except (RedisError, OperationalError) as error:
        raise HTTPError(503, "Redis does not answer. Try again in a moment.") from error


async def claim_of(key: str) -> Claim:
    """Read an event's claim.

    Raises:
        HTTPError: 404 if there is none; 503 if DynamoDB does not answer.
    """
    claim = await in_thread(table().get, key)
    if claim is None:
        raise HTTPError(404, f"No event {key}: it was never received, or its retention has ended.")
    return claim


class Page(Guard):
    """A page of the dashboard, for every signed-in user."""

    def set_default_headers(self) -> None:
        """Load nothing from other sites, and keep nothing in caches."""
        super().set_default_headers()
        self.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.set_header("Cache-Control", "no-store")

    def check_xsrf_cookie(self) -> None:
        """Require the token of the form even where Flower accepts the request's origin."""
        super().check_xsrf_cookie()
        RequestHandler.check_xsrf_cookie(self)

    def prepare(self) -> Any:
        """Redirect to the login if the user is not signed in."""
        if self.current_user is None and self.request.method == "GET":
            self.redirect(f"{self.get_login_url()}?{urlencode({'next': self.request.uri})}")
            return None
        return super().prepare()

    def text(self, name: str, default: str = "") -> str:
        """Return an argument of the request, unescaped: the templates escape what they show."""
        return str(self.get_argument(name, default, escape=False))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Show the error as a page of the dashboard."""
        if status_code == 401:
            super().write_error(status_code, **kwargs)
            return
        if not hasattr(self, "_current_user"):  # not known yet, and asking for it may raise again
            self.current_user = None
        error = kwargs.get("exc_info", (None, None))[1]
        message = error.get_message() if isinstance(error, HTTPError) else None
        self.render("message.html", message=message or self._reason)
