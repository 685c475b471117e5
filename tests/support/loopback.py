"""A sink on the loopback interface that answers by a script, byte by byte."""

import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from email.parser import BytesParser
from typing import Any, NamedTuple

#: What is done with a connection once its request is read.
Script = Callable[[socket.socket, threading.Event], None]


class Request(NamedTuple):
    """A request as it came."""

    line: str
    headers: Message
    body: bytes


class LoopbackSink(socketserver.ThreadingTCPServer):
    """Reads requests, keeps them, and runs ``script`` after each."""

    daemon_threads = True
    block_on_close = True

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.tls = tls
        self.requests: list[Request] = []
        self.connections = 0
        self.over = threading.Event()

    @property
    def url(self) -> str:
        scheme = "https" if self.tls else "http"
        return f"{scheme}://127.0.0.1:{self.server_address[1]}/secret-path?token=secret-token"

    def finish_request(self, request: Any, client_address: Any) -> None:
        if not self.tls:
            super().finish_request(request, client_address)
            return
        # Either side hangs up where it does not trust the other's certificate.
        with suppress(OSError), self.tls.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)


class _Handler(socketserver.StreamRequestHandler):
    server: LoopbackSink
    timeout = 5

    def handle(self) -> None:
        self.server.connections += 1
        try:
            while line := self.rfile.readline():
                headers = BytesParser().parsebytes(b"".join(iter(self.rfile.readline, b"\r\n")))
                body = self.rfile.read(int(headers["Content-Length"]))
                self.server.requests.append(Request(line.decode().strip(), headers, body))
                self.server.script(self.connection, self.server.over)
        except OSError:
            pass  # the client hung up, or the script did


@contextmanager
def sink_that(script: Script, tls: ssl.SSLContext | None = None) -> Iterator[LoopbackSink]:
    """Run a sink that does this with every request."""
    with LoopbackSink(script, tls) as sink:
        thread = threading.Thread(target=sink.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield sink
        finally:
            sink.over.set()
            sink.shutdown()
            thread.join()


def answers(status: str, *headers: str, body: bytes = b"") -> Script:
    """Answer properly; the connection stays open."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]

    def script(connection: socket.socket, _over: threading.Event) -> None:
        connection.sendall("\r\n".join(lines).encode("latin-1") + body)

    return script


def sends_and_closes(*parts: bytes) -> Script:
    """Send just these bytes and hang up."""

    def script(connection: socket.socket, _over: threading.Event) -> None:
        connection.sendall(b"".join(parts))
        connection.shutdown(socket.SHUT_RDWR)

    return script


def sends_and_waits(*parts: bytes) -> Script:
    """Send just these bytes and then nothing, until the test is over."""

    def script(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(b"".join(parts))
        over.wait(10)

    return script


def sends_and_trickles(*parts: bytes, seconds: float) -> Script:
    """Send these bytes, and then a byte now and then for so many seconds."""

    def script(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(b"".join(parts))
        for _ in range(int(seconds / 0.05)):
            if over.wait(0.05):
                return
            connection.sendall(b"x")
        connection.shutdown(socket.SHUT_RDWR)

    return script
