"""Stand-ins for the downstream services: they record requests, and their answers can be set.

``POST /crm`` accepts an event, ``PUT /crm/behaviour`` sets how later requests are answered
(``Behaviour``), ``GET /crm/received`` lists the requests (``?key=``: with one Idempotency-Key),
``GET /healthz`` answers 200. The embedded system runs them as ``python -m embedded.stubs.sinks``;
tests use ``SampleSinks``.
"""

import argparse
import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from embedded.stubs.server import Behaviour, Handler, Mode, RefusedError, Response, Server, Stub
from tasks.clock import now, to_rfc3339
from tasks.sinks import SINKS

#: How many requests of each service are kept; a listener is called for every one.
MAX_RECORDED = 10_000

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


class _Service:
    """One downstream service."""

    def __init__(self, name: str, listener: Listener) -> None:
        self._name = name
        self._listener = listener
        self._lock = threading.Lock()
        self._behaviour = Behaviour()
        self._received: deque[Received] = deque(maxlen=MAX_RECORDED)

    def behave(self, behaviour: Behaviour) -> None:
        with self._lock:
            self._behaviour = behaviour

    def take(self, key: str, text: str, headers: Mapping[str, str]) -> Behaviour:
        """Record a request; return how to answer it."""
        with self._lock:
            behaviour, self._behaviour = self._behaviour.next(f"{key}\n{text}")
            received = Received(
                key=key,
                body=_json_or_text(text),
                headers=headers,
                at=to_rfc3339(now()),
                answered=behaviour.answers,
            )
            self._received.append(received)
            self._listener(self._name, received)
            return behaviour

    def received(self, key: str | None) -> list[Received]:
        with self._lock:
            return [request for request in self._received if key in (None, request.key)]


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


class SampleSinks(Stub):
    """The services, on loopback, from ``with`` to its end; port 0 takes a free one."""

    def __init__(
        self,
        port: int = 0,
        names: Sequence[str] = tuple(SINKS),
        host: str = "127.0.0.1",
        listener: Listener = lambda _name, _received: None,
    ) -> None:
        """Bind the port; nothing is answered before ``with`` or ``serve``.

        ``listener`` is called before a request is answered, for one request of a service at a time.
        """
        self._services = {name: _Service(name, listener) for name in names}
        super().__init__(_Server(port, self._services, host))

    def url(self, name: str) -> str:
        """Return the URL where a service accepts events."""
        return f"{self.origin}/{name}"

    def behave(self, name: str, mode: Mode = "ok", **options: Any) -> None:
        """Set how a service answers from now on (``Behaviour``)."""
        self._services[name].behave(Behaviour(mode=mode, **options))

    def received(self, name: str, key: str | None = None) -> list[Received]:
        """Return the requests to a service, oldest first; only those with ``key`` if given."""
        return self._services[name].received(key)


class _Server(Server):
    def __init__(self, port: int, services: Mapping[str, _Service], host: str) -> None:
        super().__init__(port, _Handler, host)
        self.services = services


class _Handler(Handler):
    server: _Server

    def post(self) -> Response | None:
        """Accept an event for a service."""
        text = self.text()
        key = self.headers.get("Idempotency-Key", "")
        behaviour = self._service("").take(key, text, dict(self.headers.items()))
        _log.info("%s %s: %s", self.path, key, behaviour.mode)
        return self.behave(behaviour, lambda: Response(HTTPStatus.OK, {}))

    def put(self) -> Response:
        """Set the behaviour of a service."""
        behaviour = self.behaviour()
        self._service("/behaviour").behave(behaviour)
        return Response(HTTPStatus.OK, {})

    def get(self) -> Response:
        """List the requests to a service."""
        key = parse_qs(urlsplit(self.path).query).get("key", [None])[0]
        received = self._service("/received").received(key)
        return Response(HTTPStatus.OK, [asdict(request) for request in received])

    def _service(self, suffix: str) -> _Service:
        name, found, rest = urlsplit(self.path).path.removeprefix("/").partition("/")
        if name not in self.server.services or found + rest != suffix:
            raise RefusedError(HTTPStatus.NOT_FOUND, "no such path")
        return self.server.services[name]


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
