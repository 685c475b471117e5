"""Stand-ins for the downstream services, which remember what they got and do as they are told.

A service is a path: ``POST /crm`` takes an event, ``PUT /crm/behaviour`` says how from now on,
``GET /crm/received`` lists what came (``?key=`` for one Idempotency-Key), ``GET /healthz`` answers
200. The embedded system runs them as ``python -m embedded.sinks``; tests use ``SampleSinks``.
"""

import argparse
import json
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import parse_qs, urlsplit

from tasks.clock import now, to_rfc3339
from tasks.sinks import SINKS

#: Requests remembered of each service.
REMEMBERED = 10_000

#: Largest body taken, in bytes.
LARGEST_BODY = 2 * 1_048_576

Mode = Literal["ok", "status", "slow", "hang", "close"]

_log = logging.getLogger("sinks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How a service answers.

    ok: 200. status: ``status``, with ``Retry-After: retry_after`` if that is given. slow: 200
    after ``seconds``. hang: no answer, and the connection is closed after ``seconds``. close: the
    connection is closed at once.

    ``times`` is for how many requests; then it is ok again. ``match`` limits it to requests whose
    Idempotency-Key or body holds that text.
    """

    mode: Mode = "ok"
    status: int = 503
    retry_after: int | None = None
    seconds: float = 30.0
    times: int | None = None
    match: str = ""

    def __post_init__(self) -> None:
        """Refuse what no service could do."""
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode: not one of {', '.join(get_args(Mode))}")
        numbers = ("status", "retry_after", "seconds", "times")
        for name, value in ((name, getattr(self, name)) for name in numbers):
            if value is not None and not (isinstance(value, int | float) and 0 <= value <= 86_400):
                raise ValueError(f"{name}: not a number that it can be")

    @classmethod
    def from_json(cls, data: object) -> "Behaviour":
        """Read ``{"mode": "status", "status": 503, "retryAfter": 1, …}``.

        Raises:
            ValueError, TypeError: naming the field that is wrong.
        """
        if not isinstance(data, dict):
            raise TypeError("not a JSON object")
        return cls(**{"retry_after" if name == "retryAfter" else name: data[name] for name in data})


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request that came. ``answered`` is the status it got, None if it got none."""

    key: str
    body: Any
    headers: Mapping[str, str]
    at: str
    answered: int | None


class _Service:
    """One downstream service."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._behaviour = Behaviour()
        self._received: deque[Received] = deque(maxlen=REMEMBERED)

    def behave(self, behaviour: Behaviour) -> None:
        with self._lock:
            self._behaviour = behaviour

    def take(self, key: str, text: str, headers: Mapping[str, str]) -> Behaviour:
        """Remember a request, and say how to answer it."""
        with self._lock:
            behaviour = self._behaviour
            if behaviour.match not in f"{key}\n{text}":
                behaviour = Behaviour()
            elif behaviour.times is not None:
                left = behaviour.times - 1
                self._behaviour = replace(behaviour, times=left) if left > 0 else Behaviour()
            self._received.append(
                Received(
                    key=key,
                    body=_json_or_text(text),
                    headers=headers,
                    at=to_rfc3339(now()),
                    answered=_ANSWERED.get(behaviour.mode, behaviour.status),
                )
            )
            return behaviour

    def received(self, key: str | None) -> list[Received]:
        with self._lock:
            return [request for request in self._received if key in (None, request.key)]


_ANSWERED: Mapping[str, int | None] = {"ok": 200, "slow": 200, "hang": None, "close": None}


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


class SampleSinks:
    """The services, on loopback, from ``with`` to its end; port 0 takes a free one."""

    def __init__(
        self, port: int = 0, names: Sequence[str] = tuple(SINKS), host: str = "127.0.0.1"
    ) -> None:
        """Bind the port; nothing is answered before ``with`` or ``serve``."""
        self._services = {name: _Service() for name in names}
        self._closing = threading.Event()
        self._server = _Server((host, port), self._services, self._closing)
        self._thread = threading.Thread(target=self.serve, daemon=True)

    def __enter__(self) -> "SampleSinks":
        """Start to answer."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; requests that hang are let go."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def serve(self) -> None:
        """Answer until shut down."""
        self._server.serve_forever(poll_interval=0.05)

    def url(self, name: str) -> str:
        """Where a service takes events."""
        return f"http://127.0.0.1:{self._server.server_port}/{name}"

    def behave(self, name: str, mode: Mode = "ok", **options: Any) -> None:
        """Tell a service how to answer from now on (``Behaviour``)."""
        self._services[name].behave(Behaviour(mode=mode, **options))

    def received(self, name: str, key: str | None = None) -> list[Received]:
        """What came to a service, oldest first; only with this Idempotency-Key if it is given."""
        return self._services[name].received(key)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], services: Mapping[str, _Service], closing: threading.Event
    ) -> None:
        super().__init__(address, _Handler)
        self.services = services
        self.closing = closing

    def handle_error(self, *client: Any) -> None:
        """Report what went wrong, unless it is that a client did not wait for its answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*client)


class _Answer(NamedTuple):
    status: int
    body: Any
    headers: Mapping[str, str] = {}


class _RefusedError(Exception):
    """Raised to answer a request that we cannot make sense of."""

    def __init__(self, status: HTTPStatus, error: str) -> None:
        super().__init__(error)
        self.answer = _Answer(status, {"error": error}, {"Connection": "close"})


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"  # clients keep their connections
    timeout = 60  # seconds that a connection may be silent
    wbufsize = -1  # head and body leave together
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """An event for a service."""
        self._reply(self._take)

    def do_PUT(self) -> None:
        """A service's new behaviour."""
        self._reply(self._learn)

    def do_GET(self) -> None:
        """What a service received; or whether we are up."""
        self._reply(self._tell)

    def _take(self) -> _Answer | None:
        text = self._body()
        key = self.headers.get("Idempotency-Key", "")
        behaviour = self._service("").take(key, text, dict(self.headers.items()))
        _log.info("%s %s: %s", self.path, key, behaviour.mode)
        if behaviour.mode in ("slow", "hang"):
            self.server.closing.wait(behaviour.seconds)
        if behaviour.mode in ("hang", "close"):
            return None
        if behaviour.mode == "status":
            after = behaviour.retry_after
            headers = {} if after is None else {"Retry-After": str(after)}
            return _Answer(behaviour.status, {"error": "as I was told"}, headers)
        return _Answer(HTTPStatus.OK, {})

    def _learn(self) -> _Answer:
        text = self._body()
        service = self._service("/behaviour")
        try:
            service.behave(Behaviour.from_json(json.loads(text)))
        except (ValueError, TypeError) as error:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, str(error)) from error
        return _Answer(HTTPStatus.OK, {})

    def _tell(self) -> _Answer:
        if self.path == "/healthz":
            return _Answer(HTTPStatus.OK, {"status": "live"})
        key = parse_qs(urlsplit(self.path).query).get("key", [None])[0]
        received = self._service("/received").received(key)
        return _Answer(HTTPStatus.OK, [asdict(request) for request in received])

    def _service(self, suffix: str) -> _Service:
        name, found, rest = urlsplit(self.path).path.removeprefix("/").partition("/")
        if name not in self.server.services or found + rest != suffix:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "no such path")
        return self.server.services[name]

    def _body(self) -> str:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Content-Length")
        return self.rfile.read(int(length)).decode("utf-8", "replace")

    def _reply(self, act: Callable[[], _Answer | None]) -> None:
        """Answer as ``act`` says; where it says nothing, close the connection."""
        if self.server.closing.is_set():  # the service is gone, for connections that were kept, too
            self.close_connection = True
            return
        try:
            answer = act()
        except _RefusedError as refused:
            answer = refused.answer
        if answer is None:
            self.close_connection = True
            return
        content = json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)  # "Connection: close" also closes it
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing: what is worth a line has one already."""


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m embedded.sinks", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9080)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    SampleSinks(arguments.port, host=arguments.host).serve()


if __name__ == "__main__":
    main()
