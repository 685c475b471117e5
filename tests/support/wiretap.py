"""A proxy between workers and DynamoDB: records calls, and injects the faults of a network."""

import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Call(NamedTuple):
    """One request that reached DynamoDB: ``PutItem`` and so on, and the claim it was about."""

    operation: str
    key: str | None
    status: int


class LostAnswerError(Exception):
    """Raised by an action to keep an answer from arriving."""


class HalfAnswerError(Exception):
    """Raised by an action to break an answer off in its middle."""


class FalseAnswerError(Exception):
    """Raised by an action to give another answer."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__()
        self.status = status
        self.body = body


Action = Callable[[], None]


def do_nothing() -> None:
    """An action: no fault."""


def lose_the_answer() -> None:
    """An action: the connection closes without an answer."""
    raise LostAnswerError


def break_the_answer_off() -> None:
    """An action: only half of the answer arrives."""
    raise HalfAnswerError


def answer_with(status: int, error: str) -> Action:
    """Make an action: DynamoDB answers with this error."""
    kind = f"com.amazonaws.dynamodb.v20120810#{error}"

    def act() -> None:
        raise FalseAnswerError(status, json.dumps({"__type": kind, "message": "false"}).encode())

    return act


class Wiretap:
    """A proxy on loopback in front of an AWS endpoint, from ``with`` to its end."""

    def __init__(self, target: str) -> None:
        """Listen; ``target`` is the endpoint's URL."""
        self.target = urlsplit(target).netloc
        self._calls: list[Call] = []
        self._before_call: dict[tuple[str, str], list[Action]] = {}
        self._before_answer: dict[tuple[str, str], list[Action]] = {}
        self._on_arrival: Action = do_nothing
        self._on_answer: Action = do_nothing
        self._lock = threading.Lock()
        self._away = False
        self._listen(0)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _listen(self, port: int) -> None:
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.tap = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.05])

    def __enter__(self) -> "Wiretap":
        """Start to answer."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Refuse connections, and cut off those that there are."""
        self._away = True
        self.__exit__()
        try:
            yield
        finally:
            self._listen(self._server.server_port)
            self._away = False
            self.__enter__()

    def calls(self, key: str) -> list[str]:
        """Name the operations on one claim, in their order, and those that name no claim."""
        with self._lock:
            return [call.operation for call in self._calls if call.key in (key, None)]

    def forget(self) -> None:
        """Forget the calls so far, and the faults that did not happen."""
        with self._lock:
            self._calls.clear()
            self._before_call.clear()
            self._before_answer.clear()

    def before_call(self, operation: str, key: str, action: Action, times: int = 1) -> None:
        """When DynamoDB is asked to do this to that claim, act before the call is passed on."""
        with self._lock:
            self._before_call.setdefault((operation, key), []).extend([action] * times)

    def before_answer(self, operation: str, key: str, action: Action, times: int = 1) -> None:
        """Once DynamoDB has done this to that claim, act before the answer is passed on."""
        with self._lock:
            self._before_answer.setdefault((operation, key), []).extend([action] * times)

    def on_every_call(self, *, arrival: Action = do_nothing, answer: Action = do_nothing) -> None:
        """From now on act before each call is passed on, and before each answer is.

        ``arrival=lose_the_answer``: DynamoDB is cut off. ``answer=lose_the_answer``: it does what
        is asked, and its answer is lost.
        """
        self._on_arrival, self._on_answer = arrival, answer

    def arrive(self, operation: str, key: str | None) -> Action:
        """Return the action before a call is passed on."""
        if self._away:
            return lose_the_answer
        with self._lock:
            waiting = self._before_call.get((operation, key or ""))
            return waiting.pop(0) if waiting else self._on_arrival

    def note(self, call: Call) -> Action:
        """Record a call; return the action before it is answered."""
        with self._lock:
            self._calls.append(call)
            waiting = self._before_answer.get((call.operation, call.key or ""))
            return waiting.pop(0) if waiting else self._on_answer


class _Server(ThreadingHTTPServer):
    tap: Wiretap
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None:
        """Log nothing: a worker that was killed does not wait for its answer."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    timeout = 60

    def do_POST(self) -> None:
        """Every call of DynamoDB is one."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        operation = self.headers["X-Amz-Target"].rpartition(".")[2]
        key = _key_of(json.loads(body))
        headers: list[tuple[str, str]] = []
        half = False
        try:
            self.server.tap.arrive(operation, key)()
            status, headers, answer = self._ask(body)
            self.server.tap.note(Call(operation, key, status))()
        except LostAnswerError:
            self.close_connection = True
            return
        except HalfAnswerError:
            half = self.close_connection = True
        except FalseAnswerError as false:
            status, headers, answer = false.status, [], false.body
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer[: len(answer) // 2] if half else answer)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.tap.target, timeout=10)
        with contextlib.closing(connection):
            connection.request("POST", self.path, body, dict(self.headers.items()))
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def _key_of(request: dict[str, Any]) -> str | None:
    keys = request.get("Key") or request.get("Item") or {}
    key: str | None = keys.get("id", {}).get("S")
    return key
