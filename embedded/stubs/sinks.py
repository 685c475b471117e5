"""Stand-ins for the downstream services: they record requests, and their answers can be set.

``POST /crm`` accepts an event, ``PUT /crm/behaviour`` sets how later requests are answered
(``Behaviour``), ``GET /crm/received`` lists the requests (``?key=``: with one Idempotency-Key),
``GET /healthz`` answers 200. The embedded system runs them as ``python -m embedded.stubs.sinks``;
tests use ``SampleSinks``.
"""

import argparse
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from embedded.stubs.server import Behaviour, Handler, Response, Stub
from tasks.clock import now, to_rfc3339
from tasks.sinks import SINKS

_log = logging.getLogger("sinks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request. ``answered`` is the status of the answer, None if there was none."""

    key: str
    body: Any
    headers: Mapping[str, str]
    at: str
    answered: int | None


#: Called for every request, with the name of the service.
Listener = Callable[[str, Received], None]


class SampleSinks(Stub[Received]):
    """The services, on loopback, from ``with`` to its end; port 0 takes a free one."""

    def __init__(
        self,
        port: int = 0,
        host: str = "127.0.0.1",
        listener: Listener = lambda _name, _received: None,
    ) -> None:
        """Bind the port; nothing is answered before ``with`` or ``serve``.

        ``listener`` is called before a request is answered, for one request of a service at a time.
        """
        self.listener = listener
        super().__init__(port, _Handler, SINKS, host)

    def url(self, name: str) -> str:
        """Return the URL where a service accepts events."""
        return f"{self.origin}/{name}"

    def received(self, name: str, key: str | None = None) -> list[Received]:
        """Return the requests to a service, oldest first; only those with ``key`` if given."""
        requests = self.services[name].requests()
        return [request for request in requests if key in (None, request.key)]


class _Handler(Handler):
    server: SampleSinks

    def post(self) -> Response | None:
        """Accept an event for a service."""
        text = self.text()
        key = self.headers.get("Idempotency-Key", "")
        service = self.service("")

        def record(behaviour: Behaviour) -> Received:
            received = Received(
                key=key,
                body=_json_or_text(text),
                headers=dict(self.headers.items()),
                at=to_rfc3339(now()),
                answered=behaviour.answers,
            )
            self.server.listener(service.name, received)
            return received

        behaviour = service.take(f"{key}\n{text}", record)
        _log.info("%s %s: %s", self.path, key, behaviour.mode)
        return self.behave(behaviour, lambda: Response(HTTPStatus.OK, {}))

    def get(self) -> Response:
        """List the requests to a service."""
        key = parse_qs(urlsplit(self.path).query).get("key", [None])[0]
        received = self.server.received(self.service("/received").name, key)
        return Response(HTTPStatus.OK, [asdict(request) for request in received])


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m embedded.stubs.sinks", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9080)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    SampleSinks(arguments.port, host=arguments.host).serve()


if __name__ == "__main__":
    main()
