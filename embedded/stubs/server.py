"""What the stand-ins share: a JSON server on loopback whose answers can be set, faults included."""

import json
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Generic, Literal, NamedTuple, Self, TypeVar, get_args
from urllib.parse import urlsplit

R = TypeVar("R")

#: Largest body that is accepted, in bytes.
MAX_BODY_BYTES = 2 * 1_048_576

#: How many requests of each service are kept.
MAX_RECORDED = 10_000

Mode = Literal["ok", "empty", "status", "slow", "hang", "close"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How a service answers.

    ok: 200. empty: 200 without a body. status: ``status``, with ``Retry-After: retry_after`` if
    that is given. slow: as ok, after ``seconds``. hang: no answer; the connection is closed after
    ``seconds``. close: the connection is closed at once.

    After ``times`` requests it is ok again. ``match`` limits it to requests that contain that text.
    """

    mode: Mode = "ok"
    status: int = 503
    retry_after: int | None = None
    seconds: float = 30.0
    times: int | None = None
    match: str = ""

    def __post_init__(self) -> None:
        """Refuse an unknown mode and numbers out of range."""
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode: not one of {', '.join(get_args(Mode))}")
        numbers = ("status", "retry_after", "seconds", "times")
        for name, value in ((name, getattr(self, name)) for name in numbers):
            if value is not None and not (isinstance(value, int | float) and 0 <= value <= 86_400):
                raise ValueError(f"{name}: not a number from 0 to 86400")

    @classmethod
    def from_json(cls, data: object) -> "Behaviour":
        """Read ``{"mode": "status", "status": 503, "retryAfter": 1, …}``.

        Raises:
            ValueError, TypeError: with the name of the invalid field.
        """
        if not isinstance(data, dict):
            raise TypeError("not a JSON object")
        return cls(**{"retry_after" if name == "retryAfter" else name: data[name] for name in data})

    def next(self, request: str) -> "tuple[Behaviour, Behaviour]":
        """Return how to answer a request, and how to answer later ones."""
        if self.match not in request:
            return Behaviour(), self
        if self.times is None:
            return self, self
        rest = self.times - 1
        return self, replace(self, times=rest) if rest > 0 else Behaviour()

    @property
    def answers(self) -> int | None:
        """The status of its answer to a valid request; None if there is no answer."""
        if self.mode in ("hang", "close"):
            return None
        return self.status if self.mode == "status" else 200


class Response(NamedTuple):
    """An answer: ``body`` is sent as JSON, None as no body."""

    status: int
    body: Any
    headers: Mapping[str, str] = {}


class RefusedError(Exception):
    """Raised to answer an invalid request with an error."""

    def __init__(self, status: HTTPStatus, error: str) -> None:
        super().__init__(error)
        self.answer = Response(status, {"error": error}, {"Connection": "close"})


class Service(Generic[R]):
    """One service of a stand-in: how it answers, and the last requests that it received."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._behaviour = Behaviour()
        self._requests: deque[R] = deque(maxlen=MAX_RECORDED)

    def behave(self, behaviour: Behaviour) -> None:
        """Answer like that from now on."""
        with self._lock:
            self._behaviour = behaviour

    def take(self, request: str, record: Callable[[Behaviour], R]) -> Behaviour:
        """Record a request as ``record`` returns it, one at a time; return how to answer it."""
        with self._lock:
            behaviour, self._behaviour = self._behaviour.next(request)
            self._requests.append(record(behaviour))
            return behaviour

    def requests(self) -> list[R]:
        """Return the recorded requests, oldest first."""
        with self._lock:
            return list(self._requests)


class Stub(ThreadingHTTPServer, Generic[R]):
    """A stand-in, on loopback unless ``host`` is another; port 0 takes a free one.

    It answers from ``with`` to its end, or while it serves.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, port: int, handler: type["Handler"], names: Iterable[str], host: str = "127.0.0.1"
    ) -> None:
        """Bind the port for the services ``names``; nothing is answered yet."""
        super().__init__((host, port), handler)
        self.services = {name: Service[R](name) for name in names}
        self.closing = threading.Event()
        self.origin = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve, daemon=True)

    def __enter__(self) -> Self:
        """Start to answer, in a thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; requests that hang are closed."""
        self.closing.set()
        self.shutdown()
        self.server_close()
        self._thread.join()

    def serve(self) -> None:
        """Answer until shut down."""
        self.serve_forever(poll_interval=0.05)

    def behave(self, name: str, mode: Mode = "ok", **options: Any) -> None:
        """Set how a service answers from now on (``Behaviour``)."""
        self.services[name].behave(Behaviour(mode=mode, **options))

    def handle_error(self, *client: Any) -> None:
        """Report an error, unless the client closed the connection before its answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*client)


class Handler(BaseHTTPRequestHandler):
    """Answers with what ``get``, ``post`` or ``put`` returns; None closes the connection."""

    server: Stub[Any]
    protocol_version = "HTTP/1.1"  # clients keep their connections
    timeout = 60  # seconds that a connection may be silent
    wbufsize = -1  # head and body are sent together
    disable_nagle_algorithm = True

    get: Callable[[], Response | None]
    post: Callable[[], Response | None]

    def put(self) -> Response:
        """Set the behaviour of a service."""
        behaviour = self.behaviour()
        self.service("/behaviour").behave(behaviour)
        return Response(HTTPStatus.OK, {})

    def do_GET(self) -> None:
        """Answer a GET; that of the health check is the same for all."""
        live = Response(HTTPStatus.OK, {"status": "live"})
        self._reply((lambda: live) if self.path == "/healthz" else self.get)

    def do_POST(self) -> None:
        """Answer a POST."""
        self._reply(self.post)

    def do_PUT(self) -> None:
        """Answer a PUT."""
        self._reply(self.put)

    def service(self, suffix: str) -> Service[Any]:
        """Return the service whose name is the path before ``suffix``."""
        name, found, rest = urlsplit(self.path).path.removeprefix("/").partition("/")
        if name not in self.server.services or found + rest != suffix:
            raise RefusedError(HTTPStatus.NOT_FOUND, "no such path")
        return self.server.services[name]

    def text(self) -> str:
        """Read the body."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Content-Length")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionAbortedError("the body is incomplete")  # there is no request to answer
        return body.decode("utf-8", "replace")

    def behaviour(self) -> Behaviour:
        """Read the body as a behaviour."""
        try:
            return Behaviour.from_json(json.loads(self.text()))
        except (ValueError, TypeError) as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, str(error)) from error

    def behave(self, behaviour: Behaviour, ok: Callable[[], Response]) -> Response | None:
        """Answer as a behaviour requires; where it is ok or slow, with what ``ok`` returns."""
        if behaviour.mode in ("slow", "hang"):
            self.server.closing.wait(behaviour.seconds)
        if behaviour.mode in ("hang", "close"):
            return None
        if behaviour.mode == "status":
            after = behaviour.retry_after
            headers = {} if after is None else {"Retry-After": str(after)}
            return Response(behaviour.status, {"error": "simulated failure"}, headers)
        return Response(HTTPStatus.OK, None) if behaviour.mode == "empty" else ok()

    def _reply(self, act: Callable[[], Response | None]) -> None:
        if self.server.closing.is_set():  # also for connections that are kept alive
            self.close_connection = True
            return
        try:
            answer = act()
        except RefusedError as refused:
            answer = refused.answer
        if answer is None:
            self.close_connection = True
            return
        content = b"" if answer.body is None else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)  # "Connection: close" also closes it
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Log nothing: the stand-ins log what they received."""
